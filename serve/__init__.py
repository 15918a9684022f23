"""The engine behind an OpenAI-compatible API: many clients, one continuous batch."""
