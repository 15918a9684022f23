"""Statistics: from graded answers to tables."""
