"""The gated activation of the feed-forward layer."""

from __future__ import annotations

import torch
from torch import Tensor


def silu_mul(gate_up: Tensor) -> Tensor:
    """Return ``silu(gate) * up``. gate_up [rows, 2 n], gate first; returns [rows, n].

    PyTorch's own ``silu`` takes another exponential for the elements that are left over where threads divide the
    work, so a row's bits would depend on the number of rows and threads; ``exp_`` of contiguous numbers does not.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    denominator = torch.neg(gate).exp_().add_(1)
    return torch.div(gate, denominator, out=denominator).mul_(up)
