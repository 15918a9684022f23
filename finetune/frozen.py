"""The base's weights during training: multiplied forwards and backwards, never changed."""

from __future__ import annotations

import torch
from torch import Tensor

from warmeng.kernels.linear import Float32Projection
from warmeng.kernels.quantized import Weight


class FrozenWeight:
    """A weight [out, in] that takes no gradient.

    On the CPU it is arranged twice, for the product and for its derivative; elsewhere it is kept as it is. A quantised
    one is kept quantised and dequantised for each product, as one of the rows' type that is rounded once: rows are not
    rounded. Has the shape of the engine's ``Projection``, so that the engine's loader can make it.
    """

    def __init__(self, w: Weight) -> None:
        self.shape = (w.shape[0], w.shape[1])
        self._kept: Weight | None = None
        if isinstance(w, Tensor) and w.dtype == torch.float32 and w.device.type == "cpu":
            self._forward = Float32Projection(w)
            self._backward = Float32Projection(w.t())
        else:
            self._kept = w

    def multiply(self, x: Tensor) -> Tensor:
        """Return ``x @ w.T``. x [rows, in]; returns [rows, out]."""
        if self._kept is None:
            return self._forward.multiply(x.contiguous())
        return torch.mm(x, self._plain(x.dtype).t())

    def multiply_back(self, y: Tensor) -> Tensor:
        """Return ``y @ w``, the derivative of ``multiply`` applied to y [rows, out]; returns [rows, in]."""
        if self._kept is None:
            return self._backward.multiply(y.contiguous())
        return torch.mm(y, self._plain(y.dtype))

    def _plain(self, dtype: torch.dtype) -> Tensor:
        assert self._kept is not None
        return self._kept if isinstance(self._kept, Tensor) else self._kept.dequantized(dtype)


def frozen(projection: object) -> FrozenWeight:
    """Return a loaded projection as what it is."""
    assert isinstance(projection, FrozenWeight)
    return projection
