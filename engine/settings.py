"""How the engine runs.

Nothing here changes results, except ``dtype``, ``weights``, ``kv_dtype``, ``fast`` and ``block_size``.
"""

from __future__ import annotations

from dataclasses import dataclass

from warmeng.common.errors import UsageError, show

AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16")
WEIGHTS = (AUTO, "int8", "fp8", "int4")
KV_DTYPES = (AUTO, "fp8")


@dataclass(frozen=True)
class EngineSettings:
    """What a caller may choose; None takes what suits the device."""

    # What products take: "float32", "bfloat16", or "auto": float32 on the CPU, bfloat16 on CUDA.
    dtype: str = AUTO
    # What the layers' weights are rounded to when they are loaded; "auto": as the checkpoint has them.
    weights: str = AUTO
    # What keys and values are kept in: "auto", the precision of the rows, or "fp8".
    kv_dtype: str = AUTO
    # Lets a row's last bits depend on the batch, for speed.
    fast: bool = False
    max_num_seqs: int | None = None  # sequences that run at once
    max_batched_tokens: int | None = None  # of one step
    # Tokens of one cache block: the order in which attention adds.
    block_size: int = 16
    # Bytes of the key-value cache; None on a GPU: what is free.
    kv_bytes: int | None = None
    # Tokens of prompt and answer together, where the model allows more.
    max_seq_len: int = 8192
    # Threads of the CPU backend; None leaves PyTorch's own choice.
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype is {show(self.dtype)}, expected one of {', '.join(DTYPES)}")
        if self.weights not in WEIGHTS:
            raise UsageError(f"weights is {show(self.weights)}, expected one of {', '.join(WEIGHTS)}")
        if self.kv_dtype not in KV_DTYPES:
            raise UsageError(f"kv_dtype is {show(self.kv_dtype)}, expected one of {', '.join(KV_DTYPES)}")
        for name in ("max_num_seqs", "max_batched_tokens", "block_size", "kv_bytes", "max_seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}, expected at least 1")
        if self.block_size % 16:
            raise UsageError(f"block_size is {self.block_size}, expected a multiple of 16")


@dataclass(frozen=True)
class EngineLimits:
    """The bounds of steps and cache on one device."""

    max_num_seqs: int
    max_batched_tokens: int
    kv_bytes: int | None  # None: what is free
    max_seq_len: int  # the model's own limit included
    # Places that must be free before waiting sequences start beside decoding ones.
    min_admit: int = 1


_CPU = EngineLimits(96, 768, 640 * 2**20, 0)
# 1,024 rows are past the ridge, where a step's weights cost less than its arithmetic.
_GPU = EngineLimits(1024, 4096, None, 0, min_admit=32)


def resolve_limits(settings: EngineSettings, device: str, max_seq_len: int) -> EngineLimits:
    """Return the bounds for ``device`` ("cpu", "interpret" or "cuda") and a model of ``max_seq_len``."""
    default = _GPU if device == "cuda" else _CPU
    return EngineLimits(
        settings.max_num_seqs or default.max_num_seqs,
        settings.max_batched_tokens or default.max_batched_tokens,
        settings.kv_bytes or default.kv_bytes,
        min(max_seq_len, settings.max_seq_len),
        default.min_admit,
    )
