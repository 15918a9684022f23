"""From a finished sequence to its result."""

from __future__ import annotations

import math
from typing import Literal

from warmeng.engine.request import GenerateRequest, GenerateResult, Request, Result, ScoreRequest, ScoreResult
from warmeng.engine.sequence import Sequence
from warmeng.engine.tokenizer import Tokenizer


def generation(
    sequence: Sequence, request: GenerateRequest, tokenizer: Tokenizer, reason: Literal["stop", "length"]
) -> GenerateResult:
    """Return what was generated, its text cut before the first stop string."""
    text = tokenizer.decode(sequence.generated)
    cuts = [at for stop in request.sampling.stop if (at := text.find(stop)) >= 0]
    return GenerateResult(
        id=request.id,
        status="ok",
        finish_reason=reason,
        token_ids=tuple(sequence.generated),
        text=text[: min(cuts)] if cuts else text,
        logprobs=tuple(sequence.logprobs),
        prompt_tokens=sequence.prompt_len,
        cached_tokens=sequence.cached,
        prompt_logprobs=tuple(sequence.prompt_logprobs),
    )


def score_result(sequence: Sequence, request: ScoreRequest) -> ScoreResult:
    """Return the labels' log-probabilities and their mass."""
    found = sequence.label_logprobs
    tokens = tuple(tuple(found[i, j] for j in range(len(label))) for i, label in enumerate(request.labels))
    totals = tuple(math.fsum(values) for values in tokens)
    return ScoreResult(
        id=request.id,
        status="ok",
        logprobs=totals,
        token_logprobs=tokens,
        mass=math.fsum(math.exp(total) for total in totals),
        prompt_tokens=sequence.prompt_len,
        cached_tokens=sequence.cached,
    )


def refusal(request: Request, status: Literal["too_long", "out_of_memory"], reason: str) -> Result:
    """Return the result of a request of which nothing was computed, and why."""
    count = len(request.prompt)
    if isinstance(request, ScoreRequest):
        return ScoreResult(request.id, status, (), (), 0.0, count, 0, reason)
    return GenerateResult(request.id, status, "none", (), "", (), count, 0, (), reason)
