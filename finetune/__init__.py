"""Conversations in, adapters out."""
