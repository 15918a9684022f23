"""The state of a request while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from warmeng.engine.constraints import Matcher
from warmeng.engine.request import GenerateRequest, ScoreRequest

PENDING = -1  # stands for a token that a step has been started for and whose outcome isn't read yet


@dataclass(eq=False)  # one equals itself alone; comparing by value is slow
class Sequence:
    """One request's tokens and where their keys and values lie.

    ``tokens`` is what must be computed, in order: the prompt and what was generated; or the prompt and, for a
    score request, each label but its last token, one label after the other. ``computed`` of them are in the cache.
    The last one may be ``PENDING``.
    """

    request: GenerateRequest | ScoreRequest
    adapter_hash: str
    arrival: int
    tokens: list[int]
    names: list[bytes]  # of the prompt's full blocks
    blocks: list[int] = field(default_factory=list)  # block table of the main line
    branch_blocks: list[list[int]] = field(default_factory=list)  # of each label
    computed: int = 0
    cached: int = 0  # prompt tokens that the prefix cache gave, at the first admission
    admitted_once: bool = False
    logprobs: list[float] = field(default_factory=list)  # of generated tokens
    prompt_logprobs: list[float] = field(default_factory=list)
    label_logprobs: dict[tuple[int, int], float] = field(default_factory=dict)  # (label, token index) -> value
    matcher: Matcher | None = None
    pending_row: int = 0  # of a pending token: its place among the samples of the step that chooses it
    finished: bool = False  # its result is made; a step that was started with it counts for nothing

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt)

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

    def item_words(self) -> tuple[int, int]:
        """Two 32-bit words of the noise key's item id."""
        assert isinstance(self.request, GenerateRequest)
        digest = blake2b(self.request.noise_key[0].encode(), digest_size=8).digest()
        first, second = np.frombuffer(digest, dtype="<u4")
        return int(first), int(second)
