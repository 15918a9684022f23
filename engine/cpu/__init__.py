"""The CPU backend: oneDNN's products, and compiled kernels for all between them."""
