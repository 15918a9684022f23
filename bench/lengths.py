"""The committed lengths that the generation benches run on: prompts and answers of one study's questions.

Prompts have 60 to 400 tokens, answers 150 to 300 (about 250: most models run on until they are stopped), so that a
sequence that is being decoded has a context of 325 on average. Both are triangular distributions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import orjson

SEED = 20_260_301
COUNT = 2048
PROMPT = (60.0, 131.0, 400.0)  # least, most frequent, most tokens
ANSWER = (150.0, 300.0, 300.0)


@dataclass(frozen=True)
class Lengths:
    """One request."""

    prompt: int
    answer: int


def make_lengths(count: int = COUNT, seed: int = SEED) -> list[Lengths]:
    """Return the lengths that are committed: the same on every machine."""
    draw = random.Random(seed).random
    return [Lengths(round(_triangular(draw(), PROMPT)), round(_triangular(draw(), ANSWER))) for _ in range(count)]


def _triangular(u: float, shape: tuple[float, float, float]) -> float:
    """Return the value below which a share ``u`` of the distribution lies."""
    low, mode, high = shape
    if u * (high - low) < mode - low:
        return low + math.sqrt(u * (high - low) * (mode - low))
    return high - math.sqrt((1 - u) * (high - low) * (high - mode))


def write(lengths: Sequence[Lengths]) -> bytes:
    """Return the file's content, one JSON line a request."""
    return b"".join(orjson.dumps(x) + b"\n" for x in lengths)


def read_lengths(count: int) -> list[Lengths]:
    """Return the first ``count`` committed lengths, from the start again where there are fewer."""
    text = files("warmeng.bench").joinpath("data/lengths.jsonl").read_bytes()
    found = [Lengths(**orjson.loads(line)) for line in text.split(b"\n") if line]
    return [found[i % len(found)] for i in range(count)]


def mean_context(lengths: Sequence[Lengths]) -> float:
    """Return the slots that a decoded token sees, itself included, on average over all tokens."""
    seen = sum(x.answer * x.prompt + x.answer * (x.answer + 1) // 2 for x in lengths)
    return seen / sum(x.answer for x in lengths)


def decoding_contexts(count: int, seed: int = 0) -> list[int]:
    """Return the context lengths of ``count`` sequences that are met while they are decoded."""
    lengths = read_lengths(COUNT)
    draw = random.Random(seed)
    met = draw.choices(lengths, weights=[x.answer for x in lengths], k=count)
    return [x.prompt + draw.randint(1, x.answer) for x in met]


def prompts_of(tokens: int) -> list[int]:
    """Return lengths of prompts that make up ``tokens`` together, the last one cut."""
    found: list[int] = []
    for x in read_lengths(COUNT):
        left = tokens - sum(found)
        if left <= 0:
            break
        found.append(min(x.prompt, left))
    return found
