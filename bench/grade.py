"""Exact label grades a second: a long shared prefix that is cached, then each request's question and answer."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from warmeng.bench.cost_model import grading_floor
from warmeng.bench.roofline import measure_roofline
from warmeng.engine.config import ModelConfig
from warmeng.engine.prediction.card import Roofline
from warmeng.engine.prediction.decoder import decoder
from warmeng.engine.request import ScoreRequest, ScoreResult
from warmeng.engine.settings import EngineSettings
from warmeng.engine.shapes import shape_config
from warmeng.engine.testing import random_engine

# Tokens of the judge's instructions, and of one question with its answer.
PREFIX, NEW = 800, 480
# Labels of two tokens each: a word and its end token.
LABELS = 3


class Scores(Protocol):
    """What the bench needs of an engine."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Answer all requests."""


def make_engine(config: ModelConfig, device: str, settings: EngineSettings) -> Scores:
    """Return an engine with random weights."""
    return random_engine(config, device=device, settings=settings)


@dataclass(frozen=True)
class GradeResult:
    """What ``measure_grades`` found."""

    shape: str
    mode: str
    prefix: int
    new: int
    labels: int
    requests: int
    cached_share: float  # of the prefix, found in the cache
    rates: list[float]  # grades a second, one a repetition
    roofline: Roofline
    floor_seconds: float  # of one repetition
    share: float


def grade_requests(count: int, vocab: int, prefix: int = PREFIX, new: int = NEW, seed: int = 0) -> list[ScoreRequest]:
    """Return requests of one label set after one shared prefix; another seed gives other questions."""
    shared = tuple(random.Random("prefix").randrange(vocab) for _ in range(prefix))
    draw = random.Random(seed)
    end = vocab - 1
    labels = tuple((label, end) for label in range(1, LABELS + 1))
    return [
        ScoreRequest(f"{seed}-{i}", shared + tuple(draw.randrange(vocab) for _ in range(new)), labels)
        for i in range(count)
    ]


def measure_grades(
    shape: str,
    *,
    device: str,
    count: int = 512,
    repeats: int = 3,
    prefix: int = PREFIX,
    new: int = NEW,
    settings: EngineSettings | None = None,
    make: Callable[[ModelConfig, str, EngineSettings], Scores] = make_engine,
    roofline: Roofline | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> GradeResult:
    """Score ``count`` requests at a time, ``repeats`` times, after one pass that fills the cache and compiles."""
    settings = settings or EngineSettings()
    config = shape_config(shape)
    where = torch.device("cuda" if device == "cuda" else "cpu")
    roofline = roofline or measure_roofline(where, say=say)
    say("making an engine with random weights")
    engine = make(config, device, settings)
    say("warming up")
    engine.score(grade_requests(min(count, 32), config.vocab_size, prefix, new, seed=0))
    rates: list[float] = []
    cached = 0
    for repeat in range(repeats):
        asked = grade_requests(count, config.vocab_size, prefix, new, seed=repeat + 1)
        began = time.perf_counter()
        results = engine.score(asked)
        rates.append(count / (time.perf_counter() - began))
        assert all(r.status == "ok" for r in results), next(r.detail for r in results if r.status != "ok")
        cached = sum(min(r.cached_tokens, prefix) for r in results)
        say(f"{count} grades: {rates[-1]:,.1f} a second")
    model = decoder(config, 2 if where.type == "cuda" else 4)
    floor = grading_floor(model, prefix, new + LABELS, 1 + LABELS, count, roofline).seconds
    return GradeResult(
        shape, "fast" if settings.fast else "deterministic", prefix, new, LABELS, count,cached / (count * prefix),
        rates, roofline, floor,floor / (count / statistics.median(rates)),
    )  # fmt: skip
