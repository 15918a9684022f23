"""What a plan asks for, counted: requests by kind, and tokens that no earlier prompt shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from warmeng.engine.request import GenerateRequest, Request
from warmeng.study.plan import Cell, Planner

# Positions of the engine's prefix cache that are shared whole.
BLOCK = 16


@dataclass(frozen=True)
class Estimate:
    """What a plan asks for. ``new_prompt_tokens`` are those that no earlier prompt shares."""

    cells: int
    generations: int
    # Of answers, and those that give margins alone: ``margins`` after a generated answer's prompt, ``choices``.
    scores: int
    margins: int
    choices: int
    prompt_tokens: int
    new_prompt_tokens: int
    new_score_tokens: int  # those of likelihoods, labels left out
    output_tokens: int  # at most
    # Tokens of the longest prompt with its answer.
    longest: int


def estimate(*planners: Planner) -> Estimate:
    """Count the tokens of the plans of a run's local models, whole blocks that an earlier prompt computed left out."""
    seen: set[tuple[int, str | None, int]] = set()
    cells: set[Cell] = set()
    generations = scores = margins = choices = prompts = new = new_scores = output = longest = 0
    for model, planned in ((k, planned) for k, planner in enumerate(planners) for planned in planner):
        request = cast(Request, planned.request)
        cells.add(planned.cell)
        shared, chain = 0, 0
        whole = (len(request.prompt) - 1) // BLOCK
        for k in range(whole):
            chain = hash((chain, request.prompt[k * BLOCK : (k + 1) * BLOCK]))
            shared += (model, request.adapter, chain) in seen
            seen.add((model, request.adapter, chain))
        if isinstance(request, GenerateRequest):
            generations += 1
            after = request.sampling.max_new_tokens
            output += after
            extra = 0
        else:
            scores += 1
            margins += planned.margin and not planned.order
            choices += bool(planned.order)
            new_scores += len(request.prompt) - shared * BLOCK
            after = extra = sum(len(label) for label in request.labels)
        prompts += len(request.prompt) + extra
        new += len(request.prompt) - shared * BLOCK + extra
        longest = max(longest, len(request.prompt) + after)
    return Estimate(len(cells), generations, scores, margins, choices, prompts, new, new_scores, output, longest)
