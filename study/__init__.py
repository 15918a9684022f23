"""Questions in, tables out. The study knows nothing of cache blocks or tensors."""
