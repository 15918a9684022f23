"""One run from its settings to its end, and the other commands that load a model: grading and warmth."""
