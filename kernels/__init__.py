"""Tensors in, tensors out. Each kernel stands beside its plain PyTorch twin; nothing here knows of models."""
