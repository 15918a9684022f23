"""A batch-invariant matrix product: a row's bits depend neither on the number of rows nor on its place among them.

Every output is summed over K in steps of ``BLOCK_K`` in ascending order, by one program, on tensor cores in fp32.
The adapters' A product (LoRA shrink) has the same input, so its tiles share the launch and come after the base's. A
separate launch for a few dozen columns would cost more than its arithmetic. These tiles are narrow, and run on the
multiprocessors that the base's last wave leaves idle.

Bytes: ``(rows * in + out * in + rows * out) * itemsize``. Operations: ``2 * rows * in * out``. Up to about 240 rows on
an H100 (180 on an H200) the bytes of the weight bound the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from warmeng.kernels.gpu.lora import ROW_TILE, AdapterRows, LoraWeights, Product, column_weights

# Row tiles that read one weight tile one after the other, so that it comes from the L2 cache.
_GROUP_M = 8
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


def tiles_for(capability: int) -> tuple[Tile, ...]:
    """Return the tiles for a device (``capability``: 80, 90, 100)."""
    return TILES if capability >= 90 else _AMPERE


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
    lora_tiles = row_tiles * -(-lora_outs // _lora_block_n(lora_outs, tile))
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


def _lora_block_n(lora_outs: int, tile: Tile) -> int:
    """Return the columns of the A product's tiles: all where such a tile is no wider than the base's."""
    return max(_LORA_BLOCK_N[0], min(_LORA_BLOCK_N[1], tile.block_n, 1 << (lora_outs - 1).bit_length()))


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


@triton.jit
def _dot_over_k(
    x, w, row, column, rows, height, depth,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return ``x[row:] @ w[column:].T``, fp32 [BLOCK_M, BLOCK_N]; rows and columns past the ends are undefined."""
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if TMA:
        for start in range(0, depth, BLOCK_K):
            acc = tl.dot(x.load([row, start]), w.load([column, start]).T, acc, input_precision="ieee")
    else:
        k = tl.arange(0, BLOCK_K)
        # Rows past the end wrap around; they are masked when the result is stored.
        m = (row + tl.arange(0, BLOCK_M)) % rows
        n = (column + tl.arange(0, BLOCK_N)) % height
        x_at = x + m[:, None].to(tl.int64) * depth + k[None, :]
        w_at = w + n[None, :].to(tl.int64) * depth + k[:, None]
        for start in range(0, depth, BLOCK_K):
            if EVEN_K:
                x_tile = tl.load(x_at)
                w_tile = tl.load(w_at)
            else:
                x_tile = tl.load(x_at, mask=k[None, :] < depth - start, other=0.0)
                w_tile = tl.load(w_at, mask=k[:, None] < depth - start, other=0.0)
            acc = tl.dot(x_tile, w_tile, acc, input_precision="ieee")
            x_at += BLOCK_K
            w_at += BLOCK_K
    return acc


@triton.jit(do_not_specialize=["rows", "lora_programs"])
def _tile_product(
    x, w, a, y, lora_a_out, mixtures, weights, range_table,
    rows, lora_programs, outs, depth, lora_outs, rank, y_stride,
    HAS_LORA: tl.constexpr, TMA: tl.constexpr, FLAT: tl.constexpr, EVEN_K: tl.constexpr, ROW_TILE: tl.constexpr,
    GROUP_M: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    LORA_BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Each program takes tiles in turn. With ``FLAT``, the loads of the next tile begin before this one is stored."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    row_tiles = tl.cdiv(rows, BLOCK_M)
    tiles = row_tiles * tl.cdiv(outs, BLOCK_N)
    per_group = GROUP_M * tl.cdiv(outs, BLOCK_N)
    for tile in tl.range(program, tiles, programs, flatten=FLAT):
        first_row_tile = tile // per_group * GROUP_M
        group = tl.minimum(row_tiles - first_row_tile, GROUP_M)
        row = (first_row_tile + tile % per_group % group) * BLOCK_M
        column = tile % per_group // group * BLOCK_N
        acc = _dot_over_k(x, w, row, column, rows, outs, depth, TMA, EVEN_K, BLOCK_M, BLOCK_N, BLOCK_K)
        m = row + tl.arange(0, BLOCK_M)
        n = column + tl.arange(0, BLOCK_N)
        at = y + m[:, None].to(tl.int64) * y_stride + n[None, :]
        tl.store(at, acc.to(y.dtype.element_ty), mask=(m < rows)[:, None] & (n < outs)[None, :])
    if HAS_LORA:
        # The programs that the last wave left without a tile come first.
        first = (program + programs - tiles % programs) % programs
        stop = tl.where(first < lora_programs, row_tiles * tl.cdiv(lora_outs, LORA_BLOCK_N), 0)
        for tile in range(first, stop, lora_programs):
            row = tile % row_tiles * BLOCK_M
            column = tile // row_tiles * LORA_BLOCK_N
            m = row + tl.arange(0, BLOCK_M)
            n = column + tl.arange(0, LORA_BLOCK_N)
            # Nothing to do where no row of the tile has an adapter with columns in it.
            ranges_of = row // ROW_TILE + tl.arange(0, BLOCK_M // ROW_TILE)
            inside = ranges_of < tl.cdiv(rows, ROW_TILE)
            range_stop = tl.max(tl.load(range_table + ranges_of * 2 + 1, mask=inside, other=0))
            range_first = tl.min(tl.load(range_table + ranges_of * 2, mask=inside, other=2147483647))
            rank_index = tl.minimum(n, lora_outs - 1) % rank
            if tl.sum(((rank_index >= range_first) & (rank_index < range_stop)).to(tl.int32)) > 0:
                acc = _dot_over_k(
                    x, a, row, column, rows, lora_outs, depth, TMA, EVEN_K, BLOCK_M, LORA_BLOCK_N, BLOCK_K
                )
                mixture = tl.load(mixtures + m, mask=m < rows, other=0)
                weight = tl.load(weights + mixture[:, None] * rank + (n % rank)[None, :])
                # Zero also where another adapter's product is not finite.
                acc = tl.where(weight != 0.0, acc * weight, 0.0)
                at = lora_a_out + m[:, None].to(tl.int64) * lora_outs + n[None, :]
                tl.store(at, acc.to(lora_a_out.dtype.element_ty), mask=(m < rows)[:, None] & (n < lora_outs)[None, :])


def project(
    x: Tensor,
    w: Tensor,
    lora: LoraWeights | None = None,
    rows: AdapterRows | None = None,
    *,
    out_dtype: torch.dtype | None = None,
    tiles: tuple[Tile, ...] = TILES,
) -> Product:
    """Return ``x @ w.T`` and, where adapters are active, ``x @ a.T`` times the rows' column weights.

    x [rows, in]; w [out, in]; both contiguous. ``tiles`` are the configurations to choose from. Those of the tensor
    memory accelerator are passed over where a row is no multiple of 16 bytes, which it can't read.
    """
    count, depth = x.shape
    outs = w.shape[0]
    y = torch.empty(count, outs, dtype=out_dtype or x.dtype, device=x.device)
    a, lora_a_out, lora_outs, rank = w, y, 0, 1
    mixtures = weights = range_table = x
    if lora is not None and rows is not None:
        a, lora_outs, rank = lora.a, lora.a.shape[0], lora.rank
        lora_a_out = torch.empty(count, lora_outs, dtype=x.dtype, device=x.device)
        mixtures, weights, range_table = rows.mixtures, rows.weights, rows.column_ranges
    if depth * x.element_size() % 16:
        tiles = tuple(t for t in tiles if not t.tma) or TILES[:1]
    t, launch = select_tile(count, outs, depth, lora_outs, tiles, processors_of(x.device))
    lora_block_n = _lora_block_n(lora_outs, t)
    operands = (x, w, a)
    if t.tma:
        heights = (t.block_m, t.block_n, lora_block_n)
        operands = tuple(_described(m, height, t.block_k) for m, height in zip(operands, heights, strict=True))
    # A result of four bytes a number does not fit beside the loads of the next tile.
    flat = t.tma and y.element_size() == 2
    _tile_product[(launch.programs,)](
        *operands, y, lora_a_out, mixtures, weights, range_table,
        count, launch.lora_programs, outs, depth, lora_outs, rank, outs,
        HAS_LORA=lora_outs > 0, TMA=t.tma, FLAT=flat, EVEN_K=depth % t.block_k == 0,
        ROW_TILE=ROW_TILE, GROUP_M=_GROUP_M,
        BLOCK_M=t.block_m, BLOCK_N=t.block_n, BLOCK_K=t.block_k, LORA_BLOCK_N=lora_block_n,
        num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
    return Product(y, lora_a_out, lora, rows) if lora_outs else Product(y)


def _described(matrix: Tensor, height: int, width: int) -> TensorDescriptor:
    """Return what the tensor memory accelerator reads blocks [height, width] of a contiguous matrix by."""
    return TensorDescriptor(matrix, list(matrix.shape), [matrix.shape[1], 1], [height, width])


def lora_shrink(x: Tensor, lora: LoraWeights, rows: AdapterRows) -> Tensor:
    """Return ``x @ a.T`` times the rows' column weights, by the device's library, whose order of summation depends on
    the rows.
    """
    lora_a_out = torch.mm(x, lora.a.t())
    lora_a_out.view(len(lora_a_out), -1, lora.rank).mul_(rows.column_weights[:, None, :])
    return lora_a_out


def project_plain(x: Tensor, w: Tensor, lora: LoraWeights | None = None, rows: AdapterRows | None = None) -> Product:
    """Return what ``project`` does, in float64: the twin."""
    y = x.double() @ w.double().t()
    if lora is None or rows is None:
        return Product(y)
    weights = column_weights(rows, len(lora.widths)).double()
    lora_a_out = (x.double() @ lora.a.double().t() * weights).masked_fill(weights == 0, 0)
    return Product(y, lora_a_out, lora, rows)
