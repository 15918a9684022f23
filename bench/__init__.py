"""Speed: the engine against the machine's own ceilings and against other software. Correctness lives in tests/."""
