"""LoRA changes: right, of their own rows only, and of the same bits whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch

from warmeng.kernels.linear import Bfloat16Projection, Float32Projection, add_lora
from warmeng.kernels.lora import CarriedAdapters, CarriedRows, Changes, Lora, Loras
from warmeng.kernels.micro_kernel import can_multiply

PRODUCTS = [Float32Projection, *([Bfloat16Projection] if can_multiply("bfloat16") else [])]


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
    return CarriedRows(torch.tensor(sorted(rows), dtype=torch.int64), torch.randn(len(rows)))


def changes(pairs: list[tuple[Lora, CarriedRows]], rows: int) -> Changes:
    loras = Loras([lora for lora, _ in pairs])
    return Changes(loras, CarriedAdapters(rows, [carried for _, carried in pairs], loras.ranks))


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
    add_lora(out, x, changes([(change, rows)], 40))
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
    add_lora(whole, x, changes([(change, everything)], 300))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for rows in ([17], [3, 299], list(range(0, 300, 7)), list(range(8)), list(range(255, 288))):
                out = y.clone()
                some = CarriedRows(torch.tensor(rows), everything.coefficients[rows])
                add_lora(out, x, changes([(change, some)], 300))
                assert torch.equal(out[rows], whole[rows]), (threads, rows)
    finally:
        torch.set_num_threads(before)


def test_adapters_of_other_ranks_and_rows_go_together() -> None:
    loras = [made(ranks, [40, 41], 577)[0] for ranks in ([8, 8], [None, 33], [16, None], [4, 4])]
    x, y = torch.randn(90, 577), torch.randn(90, 81)
    shuffled = torch.randperm(90).tolist()
    rows = [carried(shuffled[:37]), carried([]), carried(shuffled[40:41]), carried(shuffled[41:])]
    together, apart = y.clone(), y.clone()
    add_lora(together, x, changes(list(zip(loras, rows, strict=True)), 90))
    for pair in zip(loras, rows, strict=True):
        add_lora(apart, x, changes([pair], 90))
    assert torch.equal(together, apart)
    assert not torch.equal(together, y)


def test_a_row_that_carries_two_has_them_added_in_their_order() -> None:
    loras = [made([rank], [40], 96)[0] for rank in (4, 24)]
    x, y = torch.randn(50, 96), torch.randn(50, 40)
    rows = [carried(list(range(30))), carried(list(range(20, 50)))]
    together, apart = y.clone(), y.clone()
    add_lora(together, x, changes(list(zip(loras, rows, strict=True)), 50))
    for pair in zip(loras, rows, strict=True):
        add_lora(apart, x, changes([pair], 50))
    assert torch.equal(together, apart)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("shape", [(81, 577), (3072, 96), (64, 1536), (33, 2080)])
@pytest.mark.parametrize("rows", [1, 5, 96, 800])
def test_a_product_adds_the_same_as_is_added_to_it(product: type, shape: tuple[int, int], rows: int) -> None:
    out, inputs = shape
    loras = [made(ranks, [out // 2, out - out // 2], inputs)[0] for ranks in ([4, 4], [None, 33])]
    odd = [carried(list(range(k, rows, 3))) for k in (1, 2)]
    x, w = torch.randn(rows, inputs), product(torch.randn(out, inputs))
    found = changes(list(zip(loras, odd, strict=True)), rows)
    assert torch.equal(w.multiply(x, found), add_lora(w.multiply(x), x, found))


@pytest.mark.parametrize("product", PRODUCTS)
def test_numbers_that_are_not_finite_stay_in_their_row(product: type) -> None:
    loras = [made([rank, 3], [20, 20], 96)[0] for rank in (4, 20)]
    rows = [carried(list(range(k, 30, 3))) for k in (1, 2)]
    x, w = torch.randn(30, 96), product(torch.randn(40, 96))
    found = changes(list(zip(loras, rows, strict=True)), 30)
    whole = w.multiply(x, found)
    x[4, 7], x[5, 0] = float("nan"), float("inf")
    harmed = w.multiply(x, found)
    others = [row for row in range(30) if row not in (4, 5)]
    assert torch.equal(harmed[others], whole[others])
    assert not harmed[[4, 5]].isfinite().any()


def test_nothing_carried_is_nothing_changed_and_wrong_shapes_are_refused() -> None:
    lora, _ = made([4], [16], 32)
    x, y = torch.randn(3, 32), torch.randn(3, 16)
    out = y.clone()
    add_lora(out, x, changes([(lora, carried([]))], 3))
    assert torch.equal(out, y)
    one = changes([(lora, carried([1]))], 3)
    with pytest.raises(ValueError, match="take 3 rows of 32 inputs and 16 outputs, got 3 of 32 and 17"):
        add_lora(torch.randn(3, 17), x, one)
    with pytest.raises(ValueError, match="take 3 rows of 32 inputs and 16 outputs, got 2 of 32 and 16"):
        add_lora(out[:2], x[:2], one)
    with pytest.raises(ValueError, match="contiguous"):
        add_lora(out, x[:, ::2], one)
    with pytest.raises(ValueError, match="beyond the 3"):
        changes([(lora, carried([3]))], 3)
    with pytest.raises(ValueError, match="ascending"):
        CarriedRows(torch.tensor([1, 1]), torch.ones(2))
    with pytest.raises(ValueError, match="one shape"):
        Loras([lora, made([4], [16], 33)[0]])
