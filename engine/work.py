"""How long a request takes beside others, as far as it can be told before it is answered."""

from __future__ import annotations

from warmeng.engine.request import GenerateRequest, Request

# Tokens a second: only their proportion counts.
PROMPT_RATE, OUTPUT_RATE = 900.0, 300.0


def work(request: Request, cached: int = 0) -> float:
    """Seconds that a request takes at the rates above, ``cached`` of its prompt's tokens left out.

    An answer is taken to be half as long as it may be.
    """
    prompt = len(request.prompt) - cached
    if isinstance(request, GenerateRequest):
        return prompt / PROMPT_RATE + request.sampling.max_new_tokens / 2 / OUTPUT_RATE
    return (prompt + sum(map(len, request.labels))) / PROMPT_RATE
