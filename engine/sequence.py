"""The state of a request while it runs."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from warmeng.engine.constraints import Matcher
from warmeng.engine.request import GenerateRequest, ScoreRequest, TopLogprobs

# Stands for a token that a launched step samples and whose value the host has not read yet. Such a token is
# ``PENDING - row``, where row is its place among that step's samples: so every value of PENDING or below is pending.
PENDING = -1

# How a sequence's tokens are drawn, as one record. ``item`` is the hash of the noise key's item id.
SAMPLING = np.dtype(
    [
        ("seed", "<u4"), ("item", "<u4", (2,)), ("sample", "<u4"),
        ("top_k", "<i4"), ("temperature", "<f4"), ("top_p", "<f4"),
    ]
)  # fmt: skip


# Sequences are compared by identity: comparing their values is slow, and so are instance dictionaries.
@dataclass(eq=False, slots=True)
class Sequence:
    """One request's tokens and where their keys and values lie.

    ``tokens`` is what must be computed, in order: the prompt and what was generated; or the prompt and, for a
    score request, each label but its last token, one label after the other. The first ``num_computed_tokens`` are in
    the cache. The last one may be pending.

    A step is laid out from all its sequences together. So each sequence keeps its part in buffers that are joined
    without a loop over their numbers: block tables as int32 arrays, sampling parameters as one packed record.
    """

    request: GenerateRequest | ScoreRequest
    # Of the mixture of adapters that its rows carry, "" for the base.
    adapter_key: str
    arrival: int
    tokens: list[int]
    # Of the prompt's full blocks.
    block_hashes: list[bytes]
    # A generation ends when prompt and answer together have this many tokens.
    max_len: int
    # The cache blocks of the prompt and the answer.
    block_table: array[int] = field(default_factory=lambda: array("i"))
    # The cache blocks of each label.
    branch_tables: list[array[int]] = field(default_factory=list)
    num_computed_tokens: int = 0
    # The block whose beginning the next step copies; the null block for none.
    lender: int = 0
    # Prompt tokens that the prefix cache gave at the first admission.
    num_cached_tokens: int = 0
    admitted_once: bool = False
    # Of generated tokens.
    logprobs: list[float] = field(default_factory=list)
    # Of the hidden states that tokens were drawn from, where they are asked for.
    projections: list[list[float]] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    prompt_top_logprobs: list[TopLogprobs] = field(default_factory=list)
    # By (label, index of the label's token).
    label_logprobs: dict[tuple[int, int], float] = field(default_factory=dict)
    # By the place of the token that they come after: labels share that of their first tokens.
    label_top_logprobs: dict[int, TopLogprobs] = field(default_factory=dict)
    matcher: Matcher | None = None
    # The result is made: a step that was launched with this sequence no longer counts for it.
    finished: bool = False
    prompt_len: int = field(init=False)
    # The request is a GenerateRequest; else it is a ScoreRequest.
    generates: bool = field(init=False)
    # One ``SAMPLING`` record; empty for a score request.
    sampling: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_len = len(self.request.prompt)
        self.generates = isinstance(self.request, GenerateRequest)
        self.sampling = _record(self.request) if isinstance(self.request, GenerateRequest) else b""

    @property
    def generated(self) -> list[int]:
        """Tokens after the prompt (generation)."""
        return self.tokens[self.prompt_len :]

    def branches(self) -> list[tuple[int, int]]:
        """Where each label's tokens lie in ``tokens``: (start, stop); empty for labels of one token."""
        if not isinstance(self.request, ScoreRequest):
            return []
        branches = []
        start = self.prompt_len
        for label in self.request.labels:
            branches.append((start, start + len(label) - 1))
            start += len(label) - 1
        return branches

    def label_places(self) -> list[list[int]]:
        """After which of ``tokens`` each label's tokens stand: the first after the prompt's last one."""
        return [[self.prompt_len - 1, *range(start, stop)] for start, stop in self.branches()]


def _record(request: GenerateRequest) -> bytes:
    params, (item, sample) = request.sampling, request.noise_key
    words = np.frombuffer(blake2b(item.encode(), digest_size=8).digest(), dtype="<u4")
    top_k = min(params.top_k, np.iinfo(np.int32).max)
    record = (params.seed & 0xFFFFFFFF, words, sample, top_k, params.temperature, params.top_p)
    return np.array([record], dtype=SAMPLING).tobytes()
