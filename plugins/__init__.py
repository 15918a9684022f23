"""The engine inside other people's harnesses: a model of lm-evaluation-harness, and a provider of Inspect."""
