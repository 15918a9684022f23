"""Conversations in, training data out: the same responses warm, cold and as they were."""
