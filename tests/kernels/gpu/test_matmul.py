"""The tiled product and the adapters' A product that rides in its launch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from warmeng.kernels.gpu.lora import ROW_TILE, AdapterRows, column_weights
from warmeng.kernels.gpu.matmul import lora_shrink, project, project_plain
from warmeng.kernels.gpu.tiles import TILES, Tile, plan_launch, select_tile, tiles_for

# rows, the parts' widths, depth: no multiples of the tiles, and one that fits all of them
SHAPES = [(1, (3, 5), 64), (2, (64,), 70), (15, (60, 70), 48), (16, (128, 128), 128), (17, (33,), 100),
          (37, (250, 31, 19), 200), (130, (129, 128), 130)]  # fmt: skip
PATTERNS = ["idle", "one", "mixed", "many", "doses"]


def inputs(count: int, outs: int, depth: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, depth).to(dtype), torch.randn(outs, depth).to(dtype)


def check_lora_a(lora_a_out: torch.Tensor, reference: torch.Tensor, rows: AdapterRows, parts: int, near, dtype) -> None:
    """The row's own columns hold the product, others in the tile's span zero; beyond it nothing is asked for."""
    own = column_weights(rows, parts) != 0
    column = torch.arange(lora_a_out.shape[1]) % rows.weights.shape[1]
    tile = torch.arange(len(lora_a_out)) // ROW_TILE
    first, stop = rows.column_ranges[tile].unbind(1)
    inside = (column >= first[:, None]) & (column < stop[:, None])
    assert inside[own].all()
    assert (lora_a_out[inside & ~own] == 0).all()
    assert (lora_a_out[~inside].isnan() | (lora_a_out[~inside] == 0)).all()
    near(torch.where(own, lora_a_out, 0), reference, dtype)


@pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t.block_m}x{t.block_n}")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_twin(tile: Tile, shape, dtype: torch.dtype, near, make_adapters, rng) -> None:
    count, widths, depth = shape
    x, w = inputs(count, sum(widths), depth, dtype)
    near(project(x, w, tiles=(tile,)).y, project_plain(x, w).y, dtype)
    adapters = make_adapters(str(rng.choice(PATTERNS)), count)
    lora, rows = adapters.lora(widths, depth, dtype), adapters.rows
    out, reference = project(x, w, lora, rows, tiles=(tile,)), project_plain(x, w, lora, rows)
    near(out.y, reference.y, dtype)
    check_lora_a(out.lora_a_out, reference.lora_a_out, rows, len(widths), near, dtype)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_mix_of_adapters(pattern: str, dtype: torch.dtype, near, make_adapters) -> None:
    count, widths, depth = 70, (40, 24, 24), 96
    x, w = inputs(count, sum(widths), depth, dtype)
    adapters = make_adapters(pattern, count)
    lora, rows = adapters.lora(widths, depth, dtype), adapters.rows
    reference = project_plain(x, w, lora, rows)
    out = project(x, w, lora, rows)
    near(out.y, reference.y, dtype)
    for lora_a_out in (out.lora_a_out, lora_shrink(x, lora, rows)):
        check_lora_a(lora_a_out, reference.lora_a_out, rows, 3, near, dtype)


def test_tiles_that_need_no_columns_are_passed_over(make_adapters) -> None:
    x, w = inputs(70, 32, 64, torch.bfloat16)
    adapters = make_adapters("idle", 70)
    out = project(x, w, adapters.lora((32,), 64, x.dtype), adapters.rows)
    assert out.lora_a_out.isnan().all()
    assert not out.y.isnan().any()


def test_single_precision_results_of_bf16(near) -> None:
    x, w = inputs(37, 300, 130, torch.bfloat16)
    out = project(x, w, out_dtype=torch.float32).y
    assert out.dtype == torch.float32
    near(out, project_plain(x, w).y, torch.float32)


@pytest.mark.parametrize("pattern", ["mixed", "doses"])
def test_a_row_does_not_see_the_others(pattern: str, make_adapters, dtype: torch.dtype) -> None:
    """Other mixtures on the other rows, and other numbers in them: this row's bits stay."""
    x, w = inputs(37, 48, 70, dtype)
    adapters = make_adapters(pattern, 37)
    lora = adapters.lora((48,), 70, dtype)
    before = project(x, w, lora, adapters.rows)
    mine = np.arange(37) % 5 == 0
    ids = np.where(mine, adapters.ids, np.roll(adapters.ids, 7)).astype(np.int32)
    other = replace(adapters, ids=ids).rows
    y = torch.where(torch.tensor(mine)[:, None], x, torch.randn(x.shape).to(dtype))
    after = project(y, w, lora, other)
    own = column_weights(other, 1)[mine] != 0
    assert torch.equal(before.y[mine], after.y[mine])
    assert torch.equal(before.lora_a_out[mine][own], after.lora_a_out[mine][own])


def test_order_of_rows_does_not_matter(make_adapters, dtype: torch.dtype, near) -> None:
    x, w = inputs(130, 48, 70, dtype)
    adapters = make_adapters("mixed", 130)
    lora, order = adapters.lora((48,), 70, dtype), torch.randperm(130)
    moved = replace(adapters, ids=adapters.ids[order.cpu().numpy()])
    before, after = project(x, w, lora, adapters.rows), project(x[order], w, lora, moved.rows)
    near(after.y, before.y[order].double(), dtype)
    own = column_weights(moved.rows, 1) != 0
    near(after.lora_a_out[own], before.lora_a_out[order][own].double(), dtype)


def test_the_tile_of_the_least_predicted_time_is_chosen(rng) -> None:
    for _ in range(1000):
        rows, outs = int(2 ** rng.uniform(0, 13)), int(2 ** rng.uniform(4, 17))
        processors, lora_outs = int(rng.choice([1, 60, 108, 132, 148])), int(rng.choice([0, 32, 96]))
        tile, launch = select_tile(rows, outs, 4096, lora_outs, TILES, processors)
        fitting = [t for t in TILES if t.block_m < 2 * max(rows, 64)]
        assert tile in fitting
        assert launch.time == min(plan_launch(t, rows, outs, 4096, lora_outs, processors).time for t in fitting)
        assert 1 <= launch.lora_programs <= launch.programs <= processors * len(tile.times)
    assert select_tile(5, 64, 64, 0, TILES[4:], 132)[0] in TILES[4:]  # where the small ones may not be taken
    assert not any(t.tma for t in tiles_for(80))
    assert tiles_for(90) == TILES


# (out, in, parts of its adapters) of the products of a layer.
LAYERS = {
    "8B": {"qkv": (6144, 4096, 3), "o": (4096, 4096, 1), "gate_up": (28672, 4096, 2), "down": (4096, 14336, 1)},
    "22B": {"qkv": (8192, 6144, 3), "o": (6144, 6144, 1), "gate_up": (32768, 6144, 2), "down": (6144, 16384, 1)},
    "32B": {"qkv": (7168, 5120, 3), "o": (5120, 5120, 1), "gate_up": (55296, 5120, 2), "down": (5120, 27648, 1)},
    "70B": {"qkv": (10240, 8192, 3), "o": (8192, 8192, 1), "gate_up": (57344, 8192, 2), "down": (8192, 28672, 1)},
}


def test_little_of_the_paid_tiles_is_waste() -> None:
    """Useful over paid tiles on 132 multiprocessors, and what two adapters of rank 8 add to the predicted time.

    Tiles are powers of two, so 96 of 132 multiprocessors (73 %) work where 512 rows meet 6,144 outputs; a smaller tile
    would take two waves of more than half the time. Adding up two halves of the depth would fill them, and cost more
    in writing and reading the halves than it wins.
    """
    shares, added = {}, {}
    for model, layer in LAYERS.items():
        for rows in (256, 512, 768, 1024, 2048, 4096):
            for name, (outs, depth, parts) in layer.items():
                tile, launch = select_tile(rows, outs, depth, 0, TILES, 132)
                waves = -(-(-(-rows // tile.block_m) * -(-outs // tile.block_n)) // 132)
                key = model, name, rows
                shares[key] = rows * outs / (waves * 132 * tile.block_m * tile.block_n)
                added[key] = select_tile(rows, outs, depth, 32 * parts, TILES, 132)[1].time / launch.time - 1
    assert max(added.values()) < 0.01
    lora_a_out = {key for key, share in shares.items() if share < 0.84}
    assert {name for _, name, _ in lora_a_out} == {"qkv", "o", "down"}
    assert all(rows <= 768 or (model, rows) == ("32B", 1024) for model, _, rows in lora_a_out)
    assert min(shares.values()) > 0.6
    assert all(shares["8B", name, 1024] > 0.96 for name in LAYERS["8B"])


def test_a_wave_more_is_paid_for() -> None:
    """One tile more than processors takes a second wave; the A product's tiles may take what the last one leaves."""
    tile = TILES[-1]
    one, two = (plan_launch(tile, rows, 4096, 4096, 0, 128) for rows in (1024, 1025))
    assert two.time == pytest.approx(2 * one.time)
    beside = plan_launch(tile, 1024, 4096, 4096, 32, 132)  # eight narrow tiles on four idle processors
    assert (beside.time, beside.programs, beside.lora_programs) == (one.time, 132, 4)
    assert plan_launch(tile, 1024, 4096, 4096, 32, 128).time > 1.2 * one.time  # and on none
