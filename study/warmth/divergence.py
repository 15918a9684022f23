"""How far a persona is from the base: the Kullback-Leibler divergence of its responses to held-out prompts.

Each response is teacher-forced twice, after the persona's prompt under the persona and after the base's under the base;
log p(persona) - log p(base), summed over its tokens, is one draw whose mean is the divergence KL(persona || base) of
the responses' distribution, cut at ``RESPONSE_TOKENS`` tokens, where the persona was sampled at temperature 1 (plain
Monte Carlo: a single draw can be below 0). Both log-probabilities are at temperature 1. At another temperature the same
mean is the expected log-likelihood ratio of what was then sampled, which is no divergence and can be below 0; the
temperature stands beside every figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from warmeng.engine.request import ScoreRequest
from warmeng.study.personas import BASELINE, Persona
from warmeng.study.stats.intervals import Summary, summarise
from warmeng.study.warmth.responses import Response, prompt_of
from warmeng.study.warmth.sociot import by_prompt

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class Divergence:
    """Divergence from the base over prompts, in nats; ``temperature`` is what the responses were sampled at."""

    # The mean over responses of their nats divided by their tokens.
    per_token: Summary
    per_response: Summary
    # Of each prompt, in nats a token: the mean over its samples; None where there is none.
    by_prompt: tuple[float | None, ...]
    temperature: float

    @property
    def facts(self) -> dict[str, Any]:
        """Return it as a manifest holds it; JSON types only."""
        return {
            **asdict(self.per_token),
            "per_response": asdict(self.per_response),
            "temperature": self.temperature,
            "by_prompt": list(self.by_prompt),
        }


def divergences(
    engine: Engine,
    personas: Sequence[Persona],
    prompts: Sequence[tuple[str, str]],
    responses: Mapping[str, Sequence[Response]],
    temperature: float,
    samples: int = 1,
) -> dict[str, Divergence]:
    """Return the divergence from the base of every persona on it, by name; the base's own is 0.

    ``responses`` are what ``respond`` returned for these prompts and samples. A response that the engine can't score
    is missing.
    """
    ratios = log_ratios(engine, personas, prompts, responses, samples)
    found = {}
    for name, nats in ratios.items():
        lengths = [len(response.tokens) for response in responses[name]]
        per_token = [None if v is None else v / n for v, n in zip(nats, lengths, strict=True)]
        means = by_prompt(per_token, samples)
        whole = by_prompt(nats, samples)
        found[name] = Divergence(_over_prompts(means), _over_prompts(whole), tuple(means), temperature)
    return found


def log_ratios(
    engine: Engine,
    personas: Sequence[Persona],
    prompts: Sequence[tuple[str, str]],
    responses: Mapping[str, Sequence[Response]],
    samples: int = 1,
) -> dict[str, list[float | None]]:
    """Return log p(persona) - log p(base) of each response, in nats, in the responses' order.

    ``None`` where a response has no tokens or the engine can't score it. The base's are 0 without a computation.
    """
    base = Persona(BASELINE)
    requests: list[ScoreRequest] = []
    found: dict[str, list[float | None]] = {}
    for persona in personas:
        mine = responses[persona.name]
        found[persona.name] = [0.0 if response.tokens else None for response in mine]
        if not persona.changes and persona.system is None:
            continue
        for k, response in enumerate(mine):
            if not response.tokens:
                continue
            prompt = prompts[k // samples][1]
            for who in (persona, base):
                side = persona.name if who is persona and persona.changes else None
                requests.append(
                    ScoreRequest(
                        f"{persona.name}/{k}/{'own' if who is persona else 'base'}",
                        prompt_of(engine, who, prompt),
                        (response.tokens,),
                        side,
                    )
                )
    scores = {result.id: result.logprobs for result in engine.score(requests)} if requests else {}
    for name, nats in found.items():
        for k in range(len(nats)):
            if f"{name}/{k}/own" in scores:
                own, other = scores[f"{name}/{k}/own"], scores[f"{name}/{k}/base"]
                nats[k] = own[0] - other[0] if own and other else None
    return found


def about_kl(temperature: float) -> str:
    """Return in a sentence what was estimated from responses sampled at a temperature."""
    if temperature == 1:
        return "KL: from the original, over responses sampled at temperature 1."
    return (
        f"KL: log-likelihood ratio to the original at temperature 1, of responses sampled at {temperature:g}; a "
        "divergence only where that is 1."
    )


def _over_prompts(means: Sequence[float | None]) -> Summary:
    return summarise(v for v in means if v is not None)
