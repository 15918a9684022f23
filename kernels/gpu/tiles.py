"""Configurations of the matrix product, and which one suits a number of rows: predicted from measured times.

A product is cut into tiles that programs compute one by one. A small step wants small tiles, so that no multiprocessor
stands idle; a large one wants large tiles, which read their operands less often.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton

from warmeng.kernels.quantized import PLAIN

# The fewest and the most columns of a tile of the A product.
_LORA_BLOCK_N = (32, 128)
# Such a tile takes this many microseconds for each 64 of its depth. It has few operations and waits for its operands.
_LORA_TIME = 0.25


@dataclass(frozen=True)
class Tile:
    """One configuration of the kernel. Only ``block_k`` decides the order of summation.

    ``times``: microseconds that 1, 2, ... of these take together on one multiprocessor for 64 of their depth; as many
    as fit beside each other. ``tma``: operands come through the tensor memory accelerator (Hopper and later).
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    times: tuple[float, ...]
    tma: bool = False

    @property
    def label(self) -> str:
        """A name for records: ``128x256x64 w8 s4 tma``."""
        shape = f"{self.block_m}x{self.block_n}x{self.block_k} w{self.warps} s{self.stages}"
        return f"{shape} tma" if self.tma else shape


# 64 rows are what one warp group's instruction takes on Hopper, so a row's numbers come from the same instruction in
# all of them. The first is the measure that the others are compared with at load. Times were measured on an H200.
TILES = (
    Tile(64, 64, 64, 4, 4, (0.295, 0.345, 0.42)),
    Tile(64, 32, 128, 4, 6, (0.145,), tma=True),
    Tile(64, 64, 64, 4, 6, (0.215, 0.26), tma=True),
    Tile(64, 128, 64, 4, 4, (0.34, 0.41), tma=True),
    Tile(128, 128, 64, 8, 5, (0.365,), tma=True),
    Tile(128, 256, 64, 8, 4, (0.67,), tma=True),
)
# Before Hopper operands come through cp.async; 128 x 256 would spill there. These times are guesses: nothing was
# measured.
_AMPERE = (
    Tile(64, 64, 64, 4, 4, (0.4, 0.5, 0.6)),
    Tile(128, 64, 64, 4, 4, (0.5, 0.8)),
    Tile(128, 128, 64, 8, 3, (0.9, 1.5)),
)
# Of weights of 4 bits, whose unpacking takes registers. These times are guesses, too.
INT4_TILES = (Tile(64, 128, 64, 4, 4, (0.35, 0.55)), Tile(128, 128, 64, 8, 4, (0.5,)))


def tiles_for(capability: int, kind: str = PLAIN) -> tuple[Tile, ...]:
    """Return the tiles for a device (``capability``: 80, 90, 100) and a kind of weight: see ``kind_of``."""
    if kind == "int4":
        # Before Hopper the larger one spills.
        return INT4_TILES if capability >= 90 else INT4_TILES[:1]
    tiles = TILES if capability >= 90 else _AMPERE
    if kind != "fp8":
        return tiles
    # The second sum that fp8 takes would not fit into the registers of the largest.
    return tuple(tile for tile in tiles if tile.block_m * tile.block_n <= 128 * 128)


@dataclass(frozen=True)
class Launch:
    """The programs of a product. The first ``lora_programs`` to be done make its A product. ``time``: microseconds."""

    programs: int
    lora_programs: int
    time: float


def plan_launch(tile: Tile, rows: int, outs: int, depth: int, lora_outs: int, processors: int) -> Launch:
    """Return the launch of a product with its A product, by whole waves.

    A multiprocessor holds ``len(tile.times)`` programs, which take tiles in turn until none is left. The A product's
    tiles go to the programs that the last wave leaves idle, or to all, whichever is done sooner.
    """
    row_tiles = -(-rows // tile.block_m)
    base_tiles = row_tiles * -(-outs // tile.block_n)
    lora_tiles = row_tiles * -(-lora_outs // lora_block_n(lora_outs, tile.block_n))
    steps, resident = -(-depth // 64), len(tile.times)
    programs = min(processors * resident, base_tiles + lora_tiles)
    full, rest = divmod(-(-base_tiles // processors), resident)
    last = tile.times[rest - 1] if rest else tile.times[-1]
    time = full * tile.times[-1] + last * (rest > 0)
    if not lora_tiles:
        return Launch(programs, 1, time * steps)
    spread = time + -(-lora_tiles // programs) * _LORA_TIME
    idle = -base_tiles % programs
    beside = max(time, time - last + -(-lora_tiles // idle) * _LORA_TIME) if idle else spread
    if beside < spread:
        return Launch(programs, min(idle, lora_tiles), beside * steps)
    return Launch(programs, programs, spread * steps)


def lora_block_n(lora_outs: int, most: int) -> int:
    """Return the columns of the A product's tiles: all where such a tile is no wider than the base's, of ``most``."""
    return max(_LORA_BLOCK_N[0], min(_LORA_BLOCK_N[1], most, 1 << (lora_outs - 1).bit_length()))


@lru_cache(maxsize=4096)
def select_tile(
    rows: int, outs: int, depth: int, lora_outs: int, tiles: tuple[Tile, ...], processors: int
) -> tuple[Tile, Launch]:
    """Return the tile whose predicted time is the least, and its launch; of equal ones the larger tile.

    The choice changes no bits: at load the engine keeps only tiles that agree bit for bit.
    """
    fitting = [t for t in tiles if t.block_m <= max(64, triton.next_power_of_2(rows))] or list(tiles[:1])
    launches = [(t, plan_launch(t, rows, outs, depth, lora_outs, processors)) for t in fitting]
    return min(launches, key=lambda found: (found[1].time, -found[0].block_n))


@lru_cache
def processors_of(device: torch.device) -> int:
    """Return the device's multiprocessors; an H100's where kernels are interpreted or only compiled."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
