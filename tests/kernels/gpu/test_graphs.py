"""What becomes of a step that can't be captured, on stand-ins for CUDA's streams and graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from warmeng.engine.backend import is_out_of_memory
from warmeng.engine.gpu.batch import HostBatch, StepInputs
from warmeng.engine.gpu.graphs import DecodeGraphs


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let graphs be captured without a device; the list says at each moment whether one is."""
    now = [False]

    @contextmanager
    def graph(*args: object, **kwargs: object) -> Iterator[None]:
        now[0] = True
        try:
            yield
        finally:
            now[0] = False

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, stand_in in {
        "graph_pool_handle": lambda: (0, 1),
        "Stream": lambda device: stream,
        "current_stream": lambda: stream,
        "stream": lambda own: nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(),
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return now


@pytest.mark.parametrize("during", ["warming up", "capturing"])
def test_a_failed_capture_is_no_lack_of_memory(during: str, capturing: list[bool]) -> None:
    """Smaller steps help where memory runs out; after a failed capture the allocator can't be trusted with any."""

    def forward(inputs: StepInputs[Tensor], num_chunks: int) -> Tensor:
        if capturing[0] == (during == "capturing"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return inputs.token_ids

    with torch.device("cpu"):
        graphs = DecodeGraphs(torch.device("cpu"), 8)
        inputs = StepInputs(*[np.zeros(8, dtype=np.int32)] * 9, None, None)
        with pytest.raises(RuntimeError) as raised:
            graphs._capture(HostBatch(inputs, 1, False), forward)
    assert is_out_of_memory(raised.value) == (during == "warming up")
    if during == "capturing":
        assert "a decoding step of 8 rows could not be captured" in str(raised.value)
        assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)
