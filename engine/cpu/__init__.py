"""The CPU backend: single precision, oneDNN's products, attention by pairs of token and block."""
