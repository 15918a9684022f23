"""Adam with decoupled weight decay (Loshchilov and Hutter 2019) on one flat float32 tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Adam:
    """The moments of one persona's parameters and the number of updates made."""

    first: Tensor
    second: Tensor
    steps: int = 0

    @classmethod
    def zeros(cls, like: Tensor) -> Adam:
        """Begin."""
        return cls(torch.zeros_like(like), torch.zeros_like(like))

    @torch.no_grad()
    def update(
        self, flat: Tensor, grad: Tensor, rate: float, beta1: float, beta2: float, epsilon: float, decay: float
    ) -> None:
        """Move ``flat`` by one step, in place. The order of operations is that of ``torch.optim.AdamW``."""
        self.steps += 1
        if decay:
            flat.mul_(1 - rate * decay)
        self.first.lerp_(grad, 1 - beta1)
        self.second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        bias1, bias2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        flat.addcdiv_(self.first, self.second.sqrt().div_(math.sqrt(bias2)).add_(epsilon), value=-rate / bias1)


@torch.no_grad()
def clip(grad: Tensor, most: float) -> float:
    """Scale a gradient in place to a norm of at most ``most`` (0: leave it); return the norm that it had."""
    norm = float(torch.linalg.vector_norm(grad, dtype=torch.float64))
    if most and norm > most:
        grad.mul_(most / (norm + 1e-6))
    return norm
