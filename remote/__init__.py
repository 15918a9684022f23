"""Models behind an OpenAI-compatible API: conversations in, answers and label probabilities out."""
