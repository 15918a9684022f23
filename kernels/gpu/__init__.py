"""Triton kernels for CUDA devices, each beside its plain PyTorch twin.

Importing anything here needs ``triton``; with ``TRITON_INTERPRET=1`` set before that, the kernels run on the CPU.
"""
