"""Logs of other software in, answers as a ``Frame`` out: Inspect, lm-evaluation-harness, promptfoo, and tables."""
