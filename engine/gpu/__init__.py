"""The CUDA backend: Triton kernels, one base for all personas, steps prepared ahead of the device."""
