"""Spans of adapters' columns."""

from __future__ import annotations

import numpy as np
import pytest

from warmeng.kernels.gpu.lora import ROW_TILE, column_ranges


@pytest.mark.parametrize("pattern", ["idle", "one", "mixed", "many", "doses"])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 37, 130])
def test_a_span_is_the_least_that_holds_its_rows_columns(make_adapters, pattern: str, count: int) -> None:
    adapters = make_adapters(pattern, count)
    found = column_ranges(adapters.ids, adapters.spans)
    assert found.dtype == np.int32
    assert found.shape == (-(-count // ROW_TILE), 2)
    for tile, (first, stop) in enumerate(found.tolist()):
        needed = [adapters.spans[i] for i in adapters.ids[tile * ROW_TILE : (tile + 1) * ROW_TILE] if i > 0]
        assert (first, stop) == ((min(a for a, _ in needed), max(b for _, b in needed)) if needed else (0, 0))


def test_sorted_rows_need_few_columns(make_adapters) -> None:
    adapters = make_adapters("many", 640)
    found = column_ranges(adapters.ids, adapters.spans)
    assert (found[:, 1] - found[:, 0]).mean() < sum(adapters.ranks) / 4
