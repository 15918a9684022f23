"""The state of a request while it runs."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from warmeng.engine.constraints import Matcher
from warmeng.engine.request import GenerateRequest, ScoreRequest

# Stands for a token that a step has been started for and whose outcome isn't read yet: PENDING less its place among
# that step's samples. So every token of PENDING or below is pending, and says where the device finds it.
PENDING = -1

# How a sequence's tokens are drawn, as one record; ``item`` is the hash of the noise key's item id.
SAMPLING = np.dtype(
    [
        ("seed", "<u4"), ("item", "<u4", (2,)), ("sample", "<u4"),
        ("top_k", "<i4"), ("temperature", "<f4"), ("top_p", "<f4"),
    ]
)  # fmt: skip


@dataclass(eq=False, slots=True)  # one equals itself alone: comparing by value is slow, and so are dictionaries
class Sequence:
    """One request's tokens and where their keys and values lie.

    ``tokens`` is what must be computed, in order: the prompt and what was generated; or the prompt and, for a
    score request, each label but its last token, one label after the other. ``computed`` of them are in the cache.
    The last one may be pending.

    A step is laid out of all its sequences together, so what it needs of each is kept in buffers that are joined
    without a loop over their numbers: block tables as int32 arrays, sampling parameters as one packed record.
    """

    request: GenerateRequest | ScoreRequest
    adapter_hash: str
    arrival: int
    tokens: list[int]
    names: list[bytes]  # of the prompt's full blocks
    limit: int  # tokens of prompt and answer together at which a generation ends
    blocks: array[int] = field(default_factory=lambda: array("i"))  # block table of the main line
    branch_blocks: list[array[int]] = field(default_factory=list)  # of each label
    computed: int = 0
    cached: int = 0  # prompt tokens that the prefix cache gave, at the first admission
    admitted_once: bool = False
    logprobs: list[float] = field(default_factory=list)  # of generated tokens
    prompt_logprobs: list[float] = field(default_factory=list)
    label_logprobs: dict[tuple[int, int], float] = field(default_factory=dict)  # (label, token index) -> value
    matcher: Matcher | None = None
    finished: bool = False  # its result is made; a step that was started with it counts for nothing
    prompt_len: int = field(init=False)
    generates: bool = field(init=False)  # a GenerateRequest; else a ScoreRequest
    sampling: bytes = field(init=False)  # how its tokens are drawn: one ``SAMPLING`` record, or nothing

    def __post_init__(self) -> None:
        self.prompt_len = len(self.request.prompt)
        self.generates = isinstance(self.request, GenerateRequest)
        self.sampling = _record(self.request) if isinstance(self.request, GenerateRequest) else b""

    @property
    def generated(self) -> list[int]:
        """Tokens after the prompt (generation)."""
        return self.tokens[self.prompt_len :]

    @property
    def remaining(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.tokens) - self.computed

    def branches(self) -> list[tuple[int, int]]:
        """Where each label's tokens lie in ``tokens``: (start, stop); empty for labels of one token."""
        if not isinstance(self.request, ScoreRequest):
            return []
        spans = []
        start = self.prompt_len
        for label in self.request.labels:
            spans.append((start, start + len(label) - 1))
            start += len(label) - 1
        return spans


def _record(request: GenerateRequest) -> bytes:
    params, (item, sample) = request.sampling, request.noise_key
    words = np.frombuffer(blake2b(item.encode(), digest_size=8).digest(), dtype="<u4")
    top_k = min(params.top_k, np.iinfo(np.int32).max)
    record = (params.seed & 0xFFFFFFFF, words, sample, top_k, params.temperature, params.top_p)
    return np.array([record], dtype=SAMPLING).tobytes()
