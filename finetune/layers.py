"""The decoder's parts with their derivatives, for rows of several sequences one after the other, without padding.

Base weights take no gradient, so only what the adapters and the inputs need is kept. Adapter gradients are added to
``Pair.a_grad`` and ``Pair.b_t_grad`` as the derivative runs; autograd never sees the matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from warmeng.finetune.frozen import FrozenWeight
from warmeng.finetune.lora import Pair
from warmeng.finetune.noise import Dropout


@dataclass(frozen=True)
class LinearPlan:
    """How one fused product is adapted.

    ``changes`` has, for each module that some persona trains, its index among the group's masks, its columns of the
    output, the persona's rows and the matrices. Dropout's gain and the adapter's scale are in ``scale``.
    """

    weight: FrozenWeight
    bias: Tensor | None
    layer: int
    targets: tuple[str, ...]  # of the masks
    changes: tuple[tuple[int, slice, slice, Pair], ...]
    scale: float
    dropout: Dropout | None

    def masks(self, width: int, device: torch.device) -> list[Tensor] | None:
        """Return what each target keeps of the input, or None without dropout."""
        if self.dropout is None:
            return None
        return [self.dropout.keep(self.layer, target, width, device) for target in self.targets]


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Return ``function.apply(*args)``, which PyTorch leaves without types."""
    return function.apply(*args)  # type: ignore[no-untyped-call]


class AdaptedLinear(torch.autograd.Function):
    """``x W^T + bias``, plus ``scale (x * kept) A^T B^T`` on each persona's rows. x [rows, in] -> [rows, out].

    ``tie`` is any tensor that requires a gradient: it makes autograd call the derivative where x needs none.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, tie: Tensor, plan: LinearPlan) -> Tensor:
        """Keep x, the masks (on a GPU they are drawn again) and x A^T."""
        y = plan.weight.multiply(x)
        if plan.bias is not None:
            y += plan.bias
        masks = plan.masks(x.shape[1], x.device)
        kept = torch.empty_like(x) if masks else x
        low = []
        for index, columns, rows, pair in plan.changes:
            if masks:
                torch.mul(x[rows], masks[index][rows], out=kept[rows])
            z = torch.mm(kept[rows], pair.a.to(x.dtype).t())
            y[rows, columns].addmm_(z, pair.b_t.to(x.dtype), alpha=plan.scale)
            low.append(z)
        ctx.plan = plan
        ctx.masks = masks if x.device.type == "cpu" else None
        ctx.save_for_backward(x, *low)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        """Add the matrices' gradients to their buffers; return that of x where it is needed."""
        dy, plan = grads[0].contiguous(), ctx.plan
        x, *low = ctx.saved_tensors
        dx = plan.weight.multiply_back(dy) if ctx.needs_input_grad[0] else None
        masks = ctx.masks or plan.masks(x.shape[1], x.device)
        ctx.masks = None
        buffer = torch.empty_like(x)
        for (index, columns, rows, pair), z in zip(plan.changes, low, strict=True):
            part, mask = dy[rows, columns], masks[index][rows] if masks else None
            back = torch.mm(part, pair.b_t.to(x.dtype).t()).mul_(plan.scale)  # [rows, r]
            _accumulate(pair.b_t_grad, z, part, plan.scale)
            space = buffer[rows]
            kept = x[rows] if mask is None else torch.mul(x[rows], mask, out=space)
            _accumulate(pair.a_grad, back, kept, 1.0)
            if dx is not None:
                torch.mm(back, pair.a.to(x.dtype), out=space)
                dx[rows].add_(space if mask is None else space.mul_(mask))
        return dx, None, None


def _accumulate(grad: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add ``scale * left.T @ right`` to a float32 gradient."""
    if left.dtype == grad.dtype:
        grad.addmm_(left.t(), right, alpha=scale)
    else:
        grad.add_(torch.mm(left.t(), right), alpha=scale)


class RmsNorm(torch.autograd.Function):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension, computed in float32; the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Keep x and the factor of each row."""
        wide = x.float()
        factor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, factor, weight)
        normed: Tensor = (wide * factor).to(x.dtype).mul_(weight)
        return normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """With n = x factor and g = grad weight: dx = factor (g - n mean(g n))."""
        x, factor, weight = ctx.saved_tensors
        g = (grads[0] * weight).float()
        n = x.float() * factor
        share = torch.linalg.vecdot(g, n)[..., None].div_(-x.shape[-1])
        return g.addcmul_(n, share).mul_(factor).to(x.dtype), None, None


class Rotate(torch.autograd.Function):
    """The rotary embedding, whose derivative turns the other way. x [rows, heads, d]; cos, sin [rows, 1, d / 2]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Keep the angles only."""
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Turn back."""
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, -sin), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


class SiluMul(torch.autograd.Function):
    """``silu(gate) * up``. gate_up [rows, 2 n], gate first -> [rows, n]."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        """Keep the input."""
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """silu'(g) = s (1 + g (1 - s)) with s = sigmoid(g)."""
        (gate_up,), (dy,) = ctx.saved_tensors, grads
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        d_gate, d_up = out.chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        torch.mul(dy, silu, out=d_up)
        # s + g s (1 - s) = s + silu - silu s
        torch.addcmul(silu.add_(sigmoid), silu - sigmoid, sigmoid, value=-1, out=sigmoid)
        torch.mul(dy, up, out=d_gate).mul_(sigmoid)
        return out


def leave_cudnn_attention() -> None:
    """Keep cuDNN out of PyTorch's choice of attention, for the whole process.

    From PyTorch 2.11 on it comes first on Hopper. Others report that it plans anew for each length that it has not met,
    tens to hundreds of milliseconds each, and that its backward pass gave NaN gradients with a mask: not measured here.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v, each sequence by itself. q [rows, heads, d]; k, v [rows, kv_heads, d].

    ``lengths`` are the sequences' rows. Returns [rows, heads * d].
    """
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = (t[:, :, None].expand(-1, -1, group, -1).flatten(1, 2) for t in (k, v))
    out = []
    for parts in zip(*(torch.split(t, lengths) for t in (q, k, v)), strict=True):
        queries, keys, values = (t.transpose(0, 1)[None] for t in parts)
        found = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        out.append(found[0].transpose(0, 1).flatten(1))
    return torch.cat(out)
