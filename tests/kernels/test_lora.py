"""LoRA changes: right, of their own rows only, and of the same bits whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch

from warmeng.kernels.lora import CarriedRows, Lora, add_lora


def made(ranks: list[int | None], columns: list[int], inputs: int) -> tuple[Lora, torch.Tensor]:
    """An adapter of several parts, and its change as one matrix, float64 [in, out]."""
    parts, wholes = [], []
    for rank, width in zip(ranks, columns, strict=True):
        pair = None if rank is None else (torch.randn(rank, inputs), torch.randn(width, rank))
        parts.append((pair, width))
        whole = torch.zeros(inputs, width).double() if pair is None else pair[0].double().t() @ pair[1].double().t()
        wholes.append(whole * 0.5)
    return Lora(parts, 0.5), torch.cat(wholes, 1)


def carried(rows: list[int]) -> CarriedRows:
    return CarriedRows(torch.tensor(rows, dtype=torch.int64), torch.randn(len(rows)))


@pytest.mark.parametrize("inputs", [48, 577])
@pytest.mark.parametrize(
    ("ranks", "columns"), [([8, 8, 8], [32, 16, 16]), ([4], [40]), ([None, 16], [40, 41]), ([70, None], [576, 3])]
)
def test_equals_the_formula_on_its_rows_and_leaves_the_others(
    ranks: list[int | None], columns: list[int], inputs: int
) -> None:
    change, whole = made(ranks, columns, inputs)
    x, y = torch.randn(40, inputs), torch.randn(40, sum(columns))
    rows = carried([0, 3, 4, 5, 6, 7, 9, 11, 20, 39])
    out = y.clone()
    add_lora(out, x, [(change, rows)])
    expected = y.double()
    expected[rows.rows] += (x[rows.rows].double() @ whole) * rows.coefficients[:, None]
    # Sums of float32 over all inputs and ranks.
    torch.testing.assert_close(out.double(), expected, atol=4e-6 * float(expected.abs().max()), rtol=0)
    others = [row for row in range(40) if row not in rows.rows]
    assert torch.equal(out[others], y[others])


def test_bits_depend_on_neither_the_other_rows_nor_threads() -> None:
    change, _ = made([8, 8, 8], [576, 192, 192], 576)
    x, y = torch.randn(300, 576), torch.randn(300, 960)
    everything = carried(list(range(300)))
    whole = y.clone()
    add_lora(whole, x, [(change, everything)])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for rows in ([17], [299, 3], list(range(0, 300, 7)), list(range(8)), list(range(255, 288))):
                out = y.clone()
                add_lora(out, x, [(change, CarriedRows(torch.tensor(rows), everything.coefficients[rows]))])
                assert torch.equal(out[rows], whole[rows]), (threads, rows)
    finally:
        torch.set_num_threads(before)


def test_adapters_of_other_ranks_and_rows_go_together() -> None:
    changes = [made(ranks, [40, 41], 577)[0] for ranks in ([8, 8], [None, 33], [16, None], [4, 4])]
    x, y = torch.randn(90, 577), torch.randn(90, 81)
    shuffled = torch.randperm(90).tolist()
    rows = [carried(shuffled[:37]), carried([]), carried(shuffled[40:41]), carried(shuffled[41:])]
    together, apart = y.clone(), y.clone()
    add_lora(together, x, list(zip(changes, rows, strict=True)))
    for pair in zip(changes, rows, strict=True):
        add_lora(apart, x, [pair])
    assert torch.equal(together, apart)
    assert not torch.equal(together, y)


def test_nothing_carried_is_nothing_changed_and_wrong_shapes_are_refused() -> None:
    change, _ = made([4], [16], 32)
    x, y = torch.randn(3, 32), torch.randn(3, 16)
    out = y.clone()
    add_lora(out, x, [(change, carried([]))])
    assert torch.equal(out, y)
    with pytest.raises(ValueError, match="32 inputs and 16 outputs"):
        add_lora(torch.randn(3, 17), x, [(change, carried([1]))])
    with pytest.raises(ValueError, match="contiguous"):
        add_lora(out, x[:, ::2], [(change, carried([1]))])
