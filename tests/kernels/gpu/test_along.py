"""Projections of rows onto a direction."""

from __future__ import annotations

import pytest
import torch

from warmeng.kernels.gpu.along import along


@pytest.mark.parametrize("shape", [(1, 48), (15, 576), (37, 1000), (130, 33)], ids=str)
def test_equals_float64(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = (torch.randn(shape) * torch.logspace(-2, 2, shape[0])[:, None]).to(dtype)
    unit = torch.nn.functional.normalize(torch.randn(shape[1]), dim=0)
    expected = x.double() @ unit.double()
    # Products and sums are fp32: their errors are relative to the row's length.
    error = (along(x, unit).double() - expected).abs() / x.double().norm(dim=1)
    assert float(error.max()) < 1e-6


def test_a_row_has_its_bits_wherever_it_lies(dtype: torch.dtype) -> None:
    x, unit = torch.randn(37, 200).to(dtype), torch.randn(200)
    order = torch.randperm(37)
    together = along(x, unit)
    assert torch.equal(along(x[order].contiguous(), unit), together[order])
    assert torch.equal(along(x[7:8].contiguous(), unit), together[7:8])
