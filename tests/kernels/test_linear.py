"""Row-invariant products and low-rank changes."""

from __future__ import annotations

import pytest
import torch

from warmeng.kernels.linear import LowRank, Projection, RowTiles, add_low_rank, agreeing_tiles, matmul


@pytest.mark.parametrize("shape", [(48, 80), (576, 960), (1536, 576), (96, 4096), (2600, 64)])
def test_rows_keep_their_bits_in_any_company(shape: tuple[int, int]) -> None:
    projection = Projection(torch.randn(*shape))
    tiles = agreeing_tiles([projection])
    x = torch.randn(500, shape[0])
    whole = matmul(torch.nn.functional.pad(x, (0, 0, 0, tiles.padded(500) - 500)), projection, tiles)[:500]
    torch.testing.assert_close(whole.double(), x.double() @ projection.w.double(), atol=2e-3, rtol=1e-4)
    for count in (1, 2, 7, 15, 16, 17, 64, 65, 96, 97, 200):
        rows = torch.randperm(500)[:count]
        padded = torch.zeros(tiles.padded(count), shape[0])
        padded[:count] = x[rows]
        assert torch.equal(matmul(padded, projection, tiles)[:count], whole[rows]), count


def test_tiles_cover_every_row_once() -> None:
    tiles = RowTiles((16, 32, 64, 96, 384))
    for rows in range(1, 1200):
        calls = tiles.split(rows)
        assert sum(calls) == tiles.padded(rows)
        assert sum(calls[:-1]) < rows <= sum(calls)
        assert sum(calls) - rows <= 96
        assert set(calls) <= set(tiles.sizes)
    assert tiles.split(97) == [96, 16]
    assert tiles.split(300) == [384]
    exact = RowTiles(())
    assert all(exact.padded(rows) == rows for rows in range(1, 1200))
    assert exact.split(500) == [384, 96, 20]


def test_low_rank_changes_its_own_rows_only() -> None:
    x, y = torch.randn(32, 48), torch.randn(32, 40)
    first = LowRank(torch.randn(48, 4), torch.randn(4, 40))
    second = LowRank(torch.randn(48, 7), torch.randn(7, 40))
    masks = torch.zeros(2, 32, 1)
    masks[0, 3:9] = 1
    masks[1, 20:] = 1
    out = add_low_rank(y.clone(), x, [(masks[0], first), (masks[1], second)])
    expected = y.double()
    expected[3:9] += x[3:9].double() @ first.a.double() @ first.b.double()
    expected[20:] += x[20:].double() @ second.a.double() @ second.b.double()
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(out[9:20], y[9:20])
    alone = add_low_rank(y.clone(), x, [(masks[1], second)])
    assert torch.equal(alone[20:], out[20:])
