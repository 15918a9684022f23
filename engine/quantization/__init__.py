"""Quantised layers: from the tensors of a checkpoint to weights as the engine multiplies them."""
