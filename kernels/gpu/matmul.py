"""A matrix product of fixed tiles: a row's bits don't depend on how many rows there are, nor on its place among them.

Every output is summed over K in steps of ``BLOCK_K`` in ascending order, by one program, on tensor cores in fp32.
The adapters' A product has the same input, so its tiles ride in the same launch, after the base's tiles: a launch of
its own for a few dozen columns would cost more than its arithmetic. They are narrow, and run on the multiprocessors
that the base's last wave leaves idle.

Bytes: ``(rows * in + out * in + rows * out) * itemsize``; operations: ``2 * rows * in * out``. With up to about 240
rows on an H100 (180 on an H200) the bytes of the weight are the floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from warmeng.kernels.gpu.change import ROW_TILE, AdapterRows, Change, Product, own_columns

# Row tiles that read one weight tile one after the other, so that it comes from the L2 cache.
_GROUP_M = 8
# Columns of a tile of the A product.
_LOW_N = 32


@dataclass(frozen=True)
class Tile:
    """One configuration of the kernel. Only ``block_k`` decides the order of summation.

    ``tma``: operands come through the tensor memory accelerator (Hopper and later), not through ``cp.async``.
    ``speeds``: the share of a multiprocessor's peak that 1, 2, ... of these reach together on it; as many as fit.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    tma: bool = False
    speeds: tuple[float, ...] = (1.0,)

    @property
    def label(self) -> str:
        """A name for records: ``128x256x64 w8 s4 tma``."""
        shape = f"{self.block_m}x{self.block_n}x{self.block_k} w{self.warps} s{self.stages}"
        return f"{shape} tma" if self.tma else shape


# 64 rows are what one warp group's instruction takes on Hopper, so a row's numbers come from the same instruction in
# all of them. The first is the measure that the others are compared with at load; it runs on every device.
TILES = (
    Tile(64, 64, 64, 4, 4, speeds=(0.2, 0.3, 0.4)),
    Tile(64, 32, 64, 4, 8, tma=True, speeds=(0.15, 0.25)),
    Tile(64, 64, 64, 4, 6, tma=True, speeds=(0.25, 0.4)),
    Tile(128, 64, 64, 4, 4, speeds=(0.35, 0.5)),
    Tile(128, 128, 64, 8, 3, speeds=(0.55, 0.7)),
    Tile(128, 128, 64, 4, 3, tma=True, speeds=(0.6, 0.75)),
    Tile(128, 256, 64, 8, 3, speeds=(0.75,)),
    Tile(128, 256, 64, 8, 4, tma=True, speeds=(0.8,)),
)


def tiles_for(capability: int) -> tuple[Tile, ...]:
    """Return the tiles for a device (``capability``: 80, 90, 100); the memory accelerator came with Hopper."""
    return TILES if capability >= 90 else tuple(t for t in TILES if not t.tma)


# What a choice between tiles is computed from: operations per microsecond of one multiprocessor of an H100, and the
# microseconds from asking for an operand to having it.
_PEAK = 6.0e6
_LATENCY = 0.9


def _step_time(tile: Tile, columns: int, together: int) -> float:
    """Return the microseconds that ``together`` tiles of one multiprocessor take for ``block_k`` of their depth."""
    operations = 2 * tile.block_m * columns * tile.block_k * together
    return max(operations / (_PEAK * tile.speeds[together - 1]), _LATENCY / (tile.stages - 1))


def predicted_time(tile: Tile, rows: int, outs: int, depth: int, low_outs: int, processors: int) -> float:
    """Return the microseconds of a product with its A product, by whole waves: what tiles are chosen by.

    A multiprocessor takes ``len(tile.speeds)`` tiles at once and all of its own before it is done. The A product's
    tiles are started last: on what is idle in the last wave, and then in waves of their own.
    """
    row_tiles = -(-rows // tile.block_m)
    count, resident = row_tiles * -(-outs // tile.block_n), len(tile.speeds)
    most = -(-count // processors)
    full, rest = divmod(most, resident)
    time = full * _step_time(tile, tile.block_n, resident) + (_step_time(tile, tile.block_n, rest) if rest else 0.0)
    low = row_tiles * -(-low_outs // _LOW_N)
    if low:
        each = _step_time(tile, _LOW_N, 1)
        idle = most * processors - count
        beside = idle * int(_step_time(tile, tile.block_n, 1) / each)
        time += -(-max(0, low - beside) // processors) * each
    return time * -(-depth // tile.block_k)


@lru_cache(maxsize=4096)
def choose(rows: int, outs: int, depth: int, low_outs: int, tiles: tuple[Tile, ...], processors: int) -> Tile:
    """Return the tile whose predicted time is the least; of equal ones the larger.

    Tiles differ in speed alone where they agree bit for bit, which the engine tries at load.
    """
    fitting = [t for t in tiles if t.block_m <= max(64, triton.next_power_of_2(rows))] or list(tiles[:1])
    return min(fitting, key=lambda t: (predicted_time(t, rows, outs, depth, low_outs, processors), -t.block_n))


@lru_cache
def processors_of(device: torch.device) -> int:
    """Return the device's multiprocessors; an H100's where kernels are interpreted or only compiled."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


@triton.jit
def _sum_over_depth(
    x, w, row, column, rows, height, depth,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return ``x[row:] @ w[column:].T``, fp32 [BLOCK_M, BLOCK_N]; what lies past the ends is anything."""
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if TMA:
        for start in range(0, depth, BLOCK_K):
            total = tl.dot(x.load([row, start]), w.load([column, start]).T, total, input_precision="ieee")
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
            total = tl.dot(x_tile, w_tile, total, input_precision="ieee")
            x_at += BLOCK_K
            w_at += BLOCK_K
    return total


@triton.jit(do_not_specialize=["rows"])
def _tile_product(
    x, w, a, y, low, ids, owner, span_table,
    rows, outs, depth, low_outs, rank, y_stride,
    HAS_CHANGE: tl.constexpr, TMA: tl.constexpr, EVEN_K: tl.constexpr, ROW_TILE: tl.constexpr, GROUP_M: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LOW_N: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    row_tiles = tl.cdiv(rows, BLOCK_M)
    base_tiles = tl.cdiv(outs, BLOCK_N)
    if HAS_CHANGE:
        low_tile = pid - row_tiles * base_tiles
        if low_tile >= 0:
            row = low_tile % row_tiles * BLOCK_M
            column = low_tile // row_tiles * LOW_N
            m = row + tl.arange(0, BLOCK_M)
            n = column + tl.arange(0, LOW_N)
            # Nothing to do where no row of the tile has an adapter with columns in it.
            spans_of = row // ROW_TILE + tl.arange(0, BLOCK_M // ROW_TILE)
            inside = spans_of < tl.cdiv(rows, ROW_TILE)
            stop = tl.max(tl.load(span_table + spans_of * 2 + 1, mask=inside, other=0))
            first = tl.min(tl.load(span_table + spans_of * 2, mask=inside, other=2147483647))
            of_part = tl.minimum(n, low_outs - 1) % rank
            if tl.sum(((of_part >= first) & (of_part < stop)).to(tl.int32)) == 0:
                return
            total = _sum_over_depth(x, a, row, column, rows, low_outs, depth, TMA, EVEN_K, BLOCK_M, LOW_N, BLOCK_K)
            mine = tl.load(ids + m, mask=m < rows, other=-1)
            theirs = tl.load(owner + n % rank)
            total = tl.where(mine[:, None] == theirs[None, :], total, 0.0)
            at = low + m[:, None].to(tl.int64) * low_outs + n[None, :]
            tl.store(at, total.to(low.dtype.element_ty), mask=(m < rows)[:, None] & (n < low_outs)[None, :])
            return
    per_group = GROUP_M * base_tiles
    first_row_tile = pid // per_group * GROUP_M
    group = tl.minimum(row_tiles - first_row_tile, GROUP_M)
    row = (first_row_tile + pid % per_group % group) * BLOCK_M
    column = pid % per_group // group * BLOCK_N
    total = _sum_over_depth(x, w, row, column, rows, outs, depth, TMA, EVEN_K, BLOCK_M, BLOCK_N, BLOCK_K)
    m = row + tl.arange(0, BLOCK_M)
    n = column + tl.arange(0, BLOCK_N)
    at = y + m[:, None].to(tl.int64) * y_stride + n[None, :]
    tl.store(at, total.to(y.dtype.element_ty), mask=(m < rows)[:, None] & (n < outs)[None, :])


def project(
    x: Tensor,
    w: Tensor,
    change: Change | None = None,
    rows: AdapterRows | None = None,
    *,
    out_dtype: torch.dtype | None = None,
    tiles: tuple[Tile, ...] = TILES,
) -> Product:
    """Return ``x @ w.T`` and, where adapters are active, the masked ``x @ a.T``.

    x [rows, in]; w [out, in]; both contiguous. ``tiles`` are the configurations to choose from. Those of the tensor
    memory accelerator are passed over where a row is no multiple of 16 bytes, which it can't read.
    """
    count, depth = x.shape
    outs = w.shape[0]
    y = torch.empty(count, outs, dtype=out_dtype or x.dtype, device=x.device)
    a, low, low_outs, rank = w, y, 0, 1
    ids = owner = span_table = x
    if change is not None and rows is not None:
        a, low_outs, rank = change.a, change.a.shape[0], change.rank
        low = torch.empty(count, low_outs, dtype=x.dtype, device=x.device)
        ids, owner, span_table = rows.ids, rows.owner, rows.spans
    if depth * x.element_size() % 16:
        tiles = tuple(t for t in tiles if not t.tma) or TILES[:1]
    t = choose(count, outs, depth, low_outs, tiles, processors_of(x.device))
    row_tiles = -(-count // t.block_m)
    operands = (x, w, a)
    if t.tma:
        heights = (t.block_m, t.block_n, _LOW_N)
        operands = tuple(_described(m, height, t.block_k) for m, height in zip(operands, heights, strict=True))
    _tile_product[(row_tiles * (-(-outs // t.block_n) + -(-low_outs // _LOW_N)),)](
        *operands, y, low, ids, owner, span_table,
        count, outs, depth, low_outs, rank, outs,
        HAS_CHANGE=low_outs > 0, TMA=t.tma, EVEN_K=depth % t.block_k == 0, ROW_TILE=ROW_TILE, GROUP_M=_GROUP_M,
        BLOCK_M=t.block_m, BLOCK_N=t.block_n, BLOCK_K=t.block_k, LOW_N=_LOW_N,
        num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
    return Product(y, low, change, rows) if low_outs else Product(y)


def _described(matrix: Tensor, height: int, width: int) -> TensorDescriptor:
    """Return what the tensor memory accelerator reads blocks [height, width] of a contiguous matrix by."""
    return TensorDescriptor(matrix, list(matrix.shape), [matrix.shape[1], 1], [height, width])


def masked_low(x: Tensor, change: Change, rows: AdapterRows) -> Tensor:
    """Return the masked ``x @ a.T`` by the device's library, whose order of summation depends on the rows."""
    low = torch.mm(x, change.a.t())
    low.view(len(low), -1, change.rank).mul_(rows.own[:, None, :])
    return low


def project_plain(x: Tensor, w: Tensor, change: Change | None = None, rows: AdapterRows | None = None) -> Product:
    """Return what ``project`` does, in float64: the twin."""
    y = x.double() @ w.double().t()
    if change is None or rows is None:
        return Product(y)
    low = (x.double() @ change.a.double().t()).masked_fill(~own_columns(rows, len(change.widths)), 0)
    return Product(y, low, change, rows)
