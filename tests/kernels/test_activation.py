"""The gated activation: right, and of the same bits whatever rows and threads there are."""

from __future__ import annotations

import torch

from warmeng.kernels.activation import silu_mul


def test_equals_the_formula() -> None:
    x = torch.randn(37, 96) * 5
    gate, up = x.double().chunk(2, -1)
    expected = gate * torch.sigmoid(gate) * up
    assert torch.allclose(silu_mul(x).double(), expected, rtol=1e-6, atol=1e-7)


def test_large_numbers_saturate() -> None:
    x = torch.tensor([[-200.0, 200.0, 0.0, 2.0, 3.0, 4.0]])
    assert silu_mul(x).tolist() == [[-0.0, 600.0, 0.0]]


def test_bits_depend_on_neither_rows_nor_threads() -> None:
    """Odd widths and counts: threads then divide the elements anywhere. 320,000 of them make PyTorch divide at all."""
    before = torch.get_num_threads()
    try:
        for width in (80, 333, 1536):
            x = torch.randn(640_000 // width, 2 * width)
            torch.set_num_threads(1)
            whole = silu_mul(x)
            for threads in (1, 2, 3, 5, 7):
                torch.set_num_threads(threads)
                for rows in (1, 2, 3, 7, 64, 207, len(x)):
                    assert torch.equal(silu_mul(x[-rows:].contiguous()), whole[-rows:]), (width, threads, rows)
    finally:
        torch.set_num_threads(before)
