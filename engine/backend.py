"""What the engine needs of a device: to run steps, to hold adapters, and to describe itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from warmeng.engine.adapters import Adapter
from warmeng.engine.constraints import ConstraintCompiler
from warmeng.engine.layout import LogprobTarget, TopTarget
from warmeng.engine.mixture import Mixture
from warmeng.engine.request import TopLogprobs
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import Sequence
from warmeng.engine.vectors import Vector

# In the place of a token where the logits are no finite numbers.
NOT_FINITE = -1


@dataclass(frozen=True)
class StepOutput:
    """What one step gives: a token for each sampled sequence, and the log-probabilities that each target asks for.

    A token is ``NOT_FINITE`` where the largest logit is NaN or infinite: it would be chosen by no probability.
    A token's log-probability is of the full vocabulary, at temperature 1, before constraints; it counts only where the
    request asks for it. Projections are those of the hidden state that a token was drawn from: see ``project_onto``.
    """

    tokens: list[int]
    logprobs: list[float]
    targets: list[tuple[LogprobTarget, float]]
    projections: list[list[float]]
    # At least as many as each asks for.
    tops: list[tuple[TopTarget, TopLogprobs]]


class StepHandle(Protocol):
    """A launched step."""

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that it samples a token for, in the order of the output."""

    def wait(self) -> StepOutput:
        """Wait for the device, and return what the step gives."""


class Runner(Protocol):
    """The decoder with its cache on one device."""

    @property
    def overlap(self) -> int:
        """Steps that may be launched before the output of an earlier one is read: 0 or 1."""

    @property
    def copies(self) -> bool:
        """Whether steps do the copies of their work (``Work.copy``), none of which overlap."""

    @property
    def num_blocks(self) -> int:
        """Blocks of the cache, the null block included."""

    @property
    def vocab_size(self) -> int:
        """Token ids that the tokenizer has; others are never chosen."""

    def start(self, work: list[Work], compiler: ConstraintCompiler | None) -> StepHandle:
        """Launch a step. Raises an error that ``is_out_of_memory`` knows where the device hasn't the memory."""

    def last_logits(self, work: Work) -> Tensor:
        """Return the logits after one sequence's last token, on the host, [vocab]: for probes."""

    def sum_hidden(self, work: list[Work], weights: Tensor) -> Tensor:
        """Return weighted sums of the hidden states of sequences' scheduled tokens, on the host.

        weights: fp32 [sums, tokens], the tokens of all sequences one after the other; returns fp32
        [sums, layers + 1, hidden]. Row 0 is the embeddings', row L what comes after layer L, its vectors included.
        """

    def add_adapter(self, adapter: Adapter) -> None:
        """Lay an adapter out on the device, unless one of its content is there."""

    def add_vector(self, vector: Vector) -> None:
        """Keep a steering vector on the device, unless one of its content is there."""

    def project_onto(self, vectors: list[Vector]) -> None:
        """Give steps' projections onto the vectors' directions, after their layers and what is added there; [] none."""

    def add_mixture(self, mixture: Mixture) -> None:
        """Let sequences carry a mixture of adapters and vectors that are there."""

    def describe(self) -> dict[str, Any]:
        """Return what determines the numbers on this device, for a manifest: JSON types only."""

    def release_memory(self) -> None:
        """Give back memory that is held for later, after a step ran out of it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell lack of memory from other errors: only PyTorch's CUDA allocator has an error type for it."""
    # What the CPU allocator, CUDA and Triton, and cuBLAS say.
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in said)
