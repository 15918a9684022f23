"""The engine's interface over many workers: requests in, the same bits out, each worker an engine of its own on Ray."""
