"""Graphics cards by name."""

from __future__ import annotations

# MiB of memory, as NVIDIA's driver tells of them.
CARDS = {
    "a100-40gb": 40_960, "a100": 81_920, "h100": 81_559, "h200": 143_771, "l40s": 46_068, "rtx-4090": 24_564,
}  # fmt: skip
