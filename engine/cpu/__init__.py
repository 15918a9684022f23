"""The CPU backend, made of the kernels that Numba compiles."""
