"""Warmth of texts: the metric, its course over checkpoints, and blinded ratings by people."""
