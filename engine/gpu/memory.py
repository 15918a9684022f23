"""How the device's memory is divided: weights, workspace of the largest step, and the rest for the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch

from warmeng.common.errors import UsageError
from warmeng.engine.cache import NULL_BLOCK
from warmeng.engine.config import ModelConfig
from warmeng.engine.gpu.ops import GpuOps
from warmeng.engine.layout import Layout, LogitsPlan
from warmeng.engine.settings import EngineLimits

# The part of the free memory that is divided: the driver, libraries and graphs take some later.
_SHARE = 0.94
# Bytes left for adapters that are loaded afterwards.
_ADAPTER_BYTES = 512 * 2**20
# Tokens of each prompt in the rehearsal.
_PROMPT_LEN = 64


@dataclass(frozen=True)
class Budget:
    """Bytes of each use, and the cache's blocks with the null block."""

    weights: int
    workspace: int
    cache: int
    num_blocks: int

    def as_dict(self) -> dict[str, int]:
        """Return the bytes by use."""
        return {name: value for name, value in asdict(self).items() if name != "num_blocks"}


def block_bytes(config: ModelConfig, block_size: int, itemsize: int) -> int:
    """Return the bytes of one block over all layers. ``itemsize``: of a number of a key or value."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * block_size * itemsize


def plan_cache(
    ops: GpuOps, limits: EngineLimits, block_size: int, itemsize: int, rehearse: Callable[[Layout, int], None]
) -> Budget:
    """Return how much cache fits beside the weights and the largest step, which is run once to see what it takes.

    ``rehearse(layout, logit_rows)`` runs a step with a cache of one block. Raises UsageError where no cache fits.
    """
    size = block_bytes(ops.config, block_size, itemsize)
    device = ops.weights.embed.device
    if device.type != "cuda":
        assert limits.kv_bytes is not None
        blocks = max(2, limits.kv_bytes // size) + 1
        return Budget(0, 0, blocks * size, blocks)
    weights = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    rehearse(_largest(limits), limits.max_num_seqs)
    torch.cuda.synchronize(device)
    workspace = torch.cuda.max_memory_allocated(device) - weights + _partials(ops, limits)
    ops.cache = []
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    cache = limits.kv_bytes or int(free * _SHARE) - workspace - _ADAPTER_BYTES
    blocks = cache // size
    if blocks < 2 or cache + workspace > free:
        raise UsageError(
            f"the weights take {weights / 2**30:.1f} GiB and the largest step {workspace / 2**30:.1f} GiB; "
            f"{free / 2**30:.1f} GiB are free, too little for a key-value cache of {max(cache, 2 * size) / 2**30:.1f} "
            "GiB: choose a smaller model, or set max_batched_tokens or kv_bytes lower"
        )
    return Budget(weights, workspace, blocks * size, blocks)


def _partials(ops: GpuOps, limits: EngineLimits) -> int:
    """Return the bytes of the partial results of attention where a context has several chunks."""
    chunks = -(-limits.max_seq_len // ops.tiling.chunk)
    numbers = limits.max_batched_tokens * ops.config.num_heads * (ops.config.head_dim + 2)
    return 4 * chunks * numbers if chunks > 1 else 0


def _largest(limits: EngineLimits) -> Layout:
    """Return a step of as many tokens as a step may have, in short prompts that all lie in the null block."""
    count = limits.max_batched_tokens
    length = min(_PROMPT_LEN, limits.max_seq_len)
    lengths = np.array([min(length, count - first) for first in range(0, count, length)], dtype=np.int32)
    tables = np.full((len(lengths), -(-length // 16)), NULL_BLOCK, dtype=np.int32)
    tokens, holes = np.zeros(count, dtype=np.int32), np.zeros((len(lengths), 2), dtype=np.int32)
    return Layout(tokens, lengths, lengths, holes, tables, [""] * len(lengths), LogitsPlan())
