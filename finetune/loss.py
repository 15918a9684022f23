"""Cross-entropy over the vocabulary in chunks of rows, so that the full logits are never held."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from warmeng.finetune.frozen import FrozenWeight

# Of float32 logits; on the CPU they stay within its cache.
_CHUNK_BYTES = {"cpu": 24 * 2**20, "cuda": 512 * 2**20}


class ChunkedCrossEntropy(torch.autograd.Function):
    """The weighted sum of -log p(target). hidden [rows, H], already normalised -> (scalar, each row's own [rows]).

    The derivative with respect to ``hidden`` is computed on the way: each chunk of logits is made once, turned into
    ``softmax - one_hot``, multiplied back and forgotten. targets int64 [rows]; weights float32 [rows].
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, weights: Tensor, head: FrozenWeight
    ) -> tuple[Tensor, Tensor]:
        """Keep the derivative."""
        rows = hidden.shape[0]
        size = max(2, _CHUNK_BYTES.get(hidden.device.type, _CHUNK_BYTES["cpu"]) // (4 * head.shape[0]))
        grad = torch.empty_like(hidden)
        losses = torch.empty(rows, dtype=torch.float32, device=hidden.device)
        for start in range(0, rows, size):
            part = slice(start, start + size)
            logits = head.multiply(hidden[part]).float()
            target = targets[part, None]
            top, chosen = logits.amax(-1), logits.gather(1, target)[:, 0]
            p = logits.softmax(-1)
            # The normaliser from the largest probability, which is never below 1 / vocabulary.
            losses[part] = top - p.amax(-1).log_() - chosen
            p.scatter_add_(1, target, torch.full_like(target, -1, dtype=p.dtype))
            p.mul_(weights[part, None])
            grad[part] = head.multiply_back(p.to(hidden.dtype))
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(losses)
        return losses @ weights, losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale what was kept."""
        (grad,) = ctx.saved_tensors
        return grad * grads[0], None, None, None
