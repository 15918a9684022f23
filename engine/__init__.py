"""Tokens in, tokens and log-probabilities out. The engine knows nothing of questions or warmth."""
