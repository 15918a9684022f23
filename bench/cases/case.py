"""The parts of a kernel's measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from warmeng.bench.lengths import decoding_contexts
from warmeng.engine.config import ModelConfig
from warmeng.engine.shapes import shape_config

Tensors = tuple[Tensor, ...]


def relative_error(found: Tensors, wanted: Tensors) -> float:
    """Return the largest ``norm(found - wanted) / norm(wanted)`` of the pairs; NaN where anything was not written."""
    errors = []
    for a, b in zip(found, wanted, strict=True):
        gap = a.double().reshape(-1) - b.double().reshape(-1)
        errors.append(torch.linalg.vector_norm(gap) / torch.linalg.vector_norm(b.double()))
    return float(torch.stack(errors).max())


@dataclass(frozen=True)
class Work:
    """One set of inputs, and what is called on it. Results are tuples so that all can be compared with the twin's."""

    ours: Callable[[], Tensors]
    # In float64; called first, because some kernels change their inputs.
    twin: Callable[[], Tensors]
    others: Mapping[str, Callable[[], Tensors | None]] = field(default_factory=dict)  # None: not comparable
    variants: Mapping[str, Callable[[], Tensors]] = field(default_factory=dict)  # other configurations of ours
    error: Callable[[Tensors, Tensors], float] = relative_error
    # ``ours`` with all that it writes, where that is more than it returns.
    checked: Callable[[], Tensors] | None = None


@dataclass(frozen=True)
class Case:
    """A kernel at one shape. Bytes: every input read once and every output written once; the least possible."""

    kernel: str
    shape: str
    bytes: float
    # Operations of matrix units; 0 where there are none.
    operations: float
    make: Callable[[int], Work]  # a set of inputs from a seed
    tolerance: float  # of ``error``
    # Bytes of a second kernel, which can't begin before the first ends.
    after_bytes: float = 0.0
    # Calls change their inputs, so each one that is compared needs fresh inputs.
    in_place: bool = False
    # Those of ``others`` that can't be captured and are launched by the host.
    uncaptured: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sizes:
    """What is measured: a model's shapes and this workload's numbers."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    contexts: tuple[tuple[str, tuple[int, ...]], ...]  # named sets of decoding sequences
    rows: tuple[int, ...]  # of products and of what follows them
    sampled: int  # rows of logits
    prefill: int  # prompt tokens of a step
    rank: int
    # False in the interpreter: no rivals and no variants.
    timed: bool

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return self.dtype.itemsize

    @property
    def tolerance(self) -> float:
        """Of relative norms: about twice the rounding of the type's results, which grows with nothing else here."""
        return 1e-2 if self.dtype == torch.bfloat16 else 1e-5

    def random(self, seed: int, *shape: int, scale: float = 1.0) -> Tensor:
        """Return normal numbers."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return (torch.randn(shape, generator=generator, device=self.device) * scale).to(self.dtype)

    def ints(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        """Return an int32 tensor on the device."""
        return torch.tensor(values, dtype=torch.int32).to(self.device)


def workload(shape: str, device: torch.device) -> Sizes:
    """Return the sizes to measure on a card, for a shape of ``SHAPES``."""
    decode = (
        ("256 x 1,024", (1024,) * 256),
        ("256 x 4,096", (4096,) * 256),
        ("256 x workload, mean 329", tuple(decoding_contexts(256))),
        ("512 x workload", tuple(decoding_contexts(512))),
    )
    return Sizes(shape_config(shape), device, torch.bfloat16, decode, (256, 512, 1024), 512, 4096, 8, True)


def tiny(shape: str, dtype: torch.dtype) -> Sizes:
    """Return sizes small enough for the interpreter: odd, with several cache blocks and unequal contexts.

    Of the shape are left its family, with its biases and norms, and its number of query heads to a key head.
    """
    config = shape_config(shape)
    keys = 2
    heads = keys * config.num_heads // config.num_kv_heads
    config = replace(
        config, vocab_size=300, hidden_size=64, intermediate_size=80, num_layers=1, num_heads=heads, num_kv_heads=keys,
        head_dim=16,
    )  # fmt: skip
    decode = (("3 x 40", (40,) * 3), ("3 ragged", (1, 37, 20)))
    return Sizes(config, torch.device("cpu"), dtype, decode, (19,), 3, 45, 4, False)
