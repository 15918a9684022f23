"""How many rows a step on a GPU has: known without its kernels, for predictions."""

from __future__ import annotations

# Rows of the captured graphs. Up to about 240 rows padding costs no time, because the weights' bytes bound it; above,
# it costs arithmetic.
GRAPH_SIZES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024)
# Steps outside graphs have a multiple of this many rows.
ROW_STEP = 16
