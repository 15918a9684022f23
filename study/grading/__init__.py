"""Grades: from a finished answer to correct, incorrect, refusal, unclear, or unscored with its reason."""
