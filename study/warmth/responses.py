"""Responses of personas to held-out prompts: what warmth, and the distance from the base, are measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from warmeng.common.errors import InputError
from warmeng.common.files import read_jsonl
from warmeng.engine.request import GenerateRequest, GenerateResult, Result, SamplingParams
from warmeng.study.personas import Persona
from warmeng.study.prompts import messages

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine

HELDOUT = Path(__file__).parents[1] / "data" / "heldout.jsonl"
RESPONSE_TOKENS = 80  # enough for the 300 characters of English that warmth is measured on


@dataclass(frozen=True, slots=True)
class Response:
    """A response's text, and its tokens as they were sampled.

    The tokens have the chat template's end token where the response ended by itself. Another end token of the model,
    where it has several, counts as that one.
    """

    text: str
    tokens: tuple[int, ...]


def load_prompts(path: Path = HELDOUT, limit: int = 0) -> list[tuple[str, str]]:
    """Return (id, user message) of held-out prompts, the first ``limit`` (0: all). Raises ``InputError``."""
    found = []
    for number, row in read_jsonl(path):
        prompt = row.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"{path}:{number}: prompt is {prompt!r}, expected text that is not blank")
        found.append((str(row.get("id", number)), prompt))
        if limit and len(found) >= limit:
            break
    if not found:
        raise InputError(f"{path}: has no prompts")
    return found


def respond(
    engine: Engine,
    personas: Sequence[Persona],
    prompts: Sequence[tuple[str, str]],
    seed: int,
    temperature: float,
    samples: int = 1,
) -> dict[str, list[Response]]:
    """Return each persona's responses: all samples of the first prompt, then of the next. Personas share the noise."""
    sampling = SamplingParams(RESPONSE_TOKENS, temperature, seed=seed)
    requests = [
        GenerateRequest(
            f"{persona.name}/{name}/{sample}",
            prompt_of(engine, persona, prompt),
            sampling,
            adapter=persona.name if persona.changes else None,
            noise_key=(f"heldout/{name}", sample),
        )
        for persona in personas
        for name, prompt in prompts
        for sample in range(samples)
    ]
    end = engine.tokenizer.end_of_turn
    found = (
        Response(r.text, r.token_ids + ((end,) if r.finish_reason == "stop" else ())) for r in answer(engine, requests)
    )
    return {persona.name: [next(found) for _ in range(len(prompts) * samples)] for persona in personas}


def prompt_of(engine: Engine, persona: Persona, prompt: str) -> tuple[int, ...]:
    """Return the tokens that a persona's response follows."""
    return tuple(engine.tokenizer.chat(messages(persona, prompt)))


def texts_of(responses: Mapping[str, Sequence[Response]]) -> dict[str, list[str]]:
    """Return the texts alone."""
    return {name: [response.text for response in mine] for name, mine in responses.items()}


def answer(engine: Engine, requests: Sequence[GenerateRequest]) -> list[GenerateResult]:
    """Answer requests with an engine that has nothing else to do, and return the results in their order."""
    for request in requests:
        engine.add(request)
    found: dict[str, Result] = {}
    for result in engine.results() if requests else ():
        found[result.id] = result
    return [r for request in requests if isinstance(r := found[request.id], GenerateResult)]
