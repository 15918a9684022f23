"""A weight as it lies on the device."""

from __future__ import annotations

import torch
from torch import Tensor


class DeviceWeight:
    """A weight [out, in] that kernels read where it lies; nothing is arranged or copied."""

    def __init__(self, w: Tensor) -> None:
        self.w = w
        self.shape = (w.shape[0], w.shape[1])

    def multiply(self, x: Tensor, add_to: Tensor | None = None) -> Tensor:
        """Return ``x @ w.T`` by the device's library, plus ``add_to`` where it is given."""
        y = torch.mm(x, self.w.t())
        return y if add_to is None else y.add_(add_to)
