"""Kernels where nothing can be kept, where OpenMP is unknown, and where an operation that they use has changed."""

from __future__ import annotations

from typing import Any

import numba
import pytest
import torch

from warmeng.kernels import activation, threads
from warmeng.kernels.activation import silu_mul
from warmeng.kernels.threads import Kernel


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel that is compiled anew."""
    kernel = Kernel(activation._silu_mul.function)
    Kernel.all.remove(kernel)
    monkeypatch.setattr(kernel.function, "__qualname__", "_silu_mul")
    monkeypatch.setattr(activation, "_silu_mul", kernel)
    return kernel


def test_without_a_folder_to_write_to_it_is_compiled_all_the_same(
    again: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, compile_one = torch.randn(5, 64), numba.cfunc
    asked = []

    def refusing(*given: Any, cache: bool = False, **options: Any) -> Any:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_one(*given, **options)

    monkeypatch.setattr(numba, "cfunc", refusing)
    gate, up = x.chunk(2, 1)
    torch.testing.assert_close(silu_mul(x), torch.nn.functional.silu(gate) * up)
    assert asked == [True, False]


def test_what_is_kept_is_named_by_the_sources_it_is_made_of(again: Kernel) -> None:
    assert again.address
    name, _, digest = again.function.__qualname__.partition("-")
    assert name == "_silu_mul"
    assert len(digest) == 12


def test_without_a_known_openmp_one_thread_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(300, 640)
    expected = silu_mul(x)
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    try:
        torch.set_num_threads(2)
        assert torch.equal(silu_mul(x), expected)
    finally:
        torch.set_num_threads(before)
