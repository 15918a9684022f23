"""Adapters of random directions: the shapes and sizes of another one, and nothing that it learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from warmeng.engine.adapters import TARGETS, Adapter, adapter_hash


def random_like(reference: Adapter, seed: int) -> Adapter:
    """Return an adapter with Gaussian A and B in every module that the reference changes, at the reference's scale.

    Each module's change has the reference's Frobenius norm ||BA||; one that the reference leaves as it is, is left. The
    numbers depend on the seed and the module alone.
    """
    layers = tuple(
        {target: _like(a, b, (seed, layer, TARGETS.index(target))) for target, (a, b) in pairs.items()}
        for layer, pairs in enumerate(reference.layers)
    )
    return replace(
        reference, hash=adapter_hash(layers, reference.scale), layers=layers, source=reference.source / f"random-{seed}"
    )


def scaled(adapter: Adapter, coefficient: float) -> Adapter:
    """Return an adapter whose change is ``coefficient`` times as large: the same matrices at another scale."""
    scale = adapter.scale * coefficient
    return replace(adapter, hash=adapter_hash(adapter.layers, scale), scale=scale)


def change_norm(a: Tensor, b: Tensor) -> float:
    """Return ||BA||, Frobenius, of A ``[r, in]`` and B ``[out, r]``, without the product."""
    a, b = a.double(), b.double()
    return float(((a @ a.T) * (b.T @ b)).sum().clamp(min=0.0).sqrt())


def _like(a: Tensor, b: Tensor, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(key)
    random = [torch.from_numpy(rng.standard_normal(m.shape)).float() for m in (a, b)]
    new_a, new_b = random[0] / a.shape[1] ** 0.5, random[1]
    return new_a, new_b * (change_norm(a, b) / change_norm(new_a, new_b))
