"""Sizes of GPU kernels that those who plan for them must know, where no kernel can be imported."""

from __future__ import annotations

# Each adapter's columns are a multiple of this: the smallest depth that tensor cores take.
RANK_TILE = 16
