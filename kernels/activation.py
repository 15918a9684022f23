"""The gated activation of the feed-forward layer."""

from __future__ import annotations

import torch
from torch import Tensor


def silu_mul(gate_up: Tensor) -> Tensor:
    """Return ``silu(gate) * up``. gate_up [rows, 2 n], gate first; returns [rows, n]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate).mul_(up)
