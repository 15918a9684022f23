"""Seconds that requests take on a card: of some of them by simulation, of all at the pace of these."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from warmeng.engine.config import ModelConfig
from warmeng.engine.mixture import Mixture
from warmeng.engine.prediction.card import USUAL_HOST, Timings
from warmeng.engine.prediction.clock import Precision, cache_slots, timed_engine
from warmeng.engine.request import GenerateRequest, Request, SamplingParams, ScoreRequest
from warmeng.engine.settings import EngineSettings

# Most requests, and tokens of their answers, that are simulated: about a second of this machine. For 8,192 requests the
# pace of 2,048 was within 1.5 % of simulating all (six bases and precisions, one to five waves of sequences), that of
# 1,024 within 7.5 %.
_REQUESTS, _TOKENS = 2048, 400_000
# Of an adapter, where none is known.
RANK = 16
# What a prediction comes from, for those who show one.
WORDS = "from bytes and operations at assumed shares of the card's ceilings, not measured on a card"


@dataclass(frozen=True)
class Prediction:
    """What requests take on a card, loading aside, and how many of them were simulated."""

    seconds: float
    simulated: int

    @property
    def hours(self) -> float:
        """The same in hours."""
        return self.seconds / 3600


def predict(
    config: ModelConfig, timings: Timings, precision: Precision, some: Callable[[int], Sequence[Request]], count: int,
    answer: float, *, adapters: int | None = None, rank: int = RANK,
) -> Prediction:  # fmt: skip
    """Predict the seconds of ``count`` requests, of which ``some(n)`` returns about n, mixed as all are.

    ``answer``: tokens of a request's answer, on average; each is taken to be as long as it may be. As many requests
    are simulated as take about a second, and the others take as long each. ``adapters`` and ``rank``: as
    ``simulated_seconds`` has them. Raises UsageError as ``cache_slots``.
    """
    requests = some(max(1, min(count, _REQUESTS, int(_TOKENS / max(1.0, answer)))))
    seconds = simulated_seconds(config, timings, precision, requests, adapters=adapters, rank=rank)
    return Prediction(seconds * count / len(requests), len(requests))


def simulated_seconds(
    config: ModelConfig, timings: Timings, precision: Precision, requests: Sequence[Request], *,
    adapters: int | None = None, rank: int = RANK,
) -> float:  # fmt: skip
    """Return the seconds of all requests, by the engine's loop and scheduler on a device that only keeps time.

    The host's part is ``USUAL_HOST`` unless the timings have one. ``adapters``: how many are loaded, of which doses and
    sums consist; None: one for each name that requests carry. ``rank``: of the largest.
    """
    slots = cache_slots(config, timings.memory, precision)
    names = dict.fromkeys(request.adapter for request in requests if request.adapter is not None)
    mixtures = {name: Mixture(((name, 1.0),)) for name in names}
    engine, clock = timed_engine(
        config, timings, timings.host or USUAL_HOST, precision, mixtures, slots=slots,
        adapters=len(names) if adapters is None else adapters, rank=rank, settings=EngineSettings(),
    )  # fmt: skip
    for request in requests:
        engine.add(_endless(request))
    for _ in engine.results():
        pass
    return clock.free


def alike(config: ModelConfig, prompt: int, answer: int) -> Callable[[int], Sequence[GenerateRequest]]:
    """Return what makes n requests of these tokens that share nothing, for ``predict``."""

    def requests(count: int) -> Iterator[GenerateRequest]:
        draw = random.Random(0)
        for k in range(count):
            tokens = tuple(draw.randrange(config.vocab_size) for _ in range(prompt))
            yield GenerateRequest(str(k), tokens, SamplingParams(max_new_tokens=answer))

    return lambda count: list(requests(count))


def _endless(request: Request) -> Request:
    """Return a request that ends at its token limit alone: the device's tokens mean nothing."""
    if isinstance(request, ScoreRequest):
        return request
    sampling = replace(request.sampling, ignore_eos=True, stop=(), stop_token_ids=())
    return replace(request, sampling=sampling, constraint=None)
