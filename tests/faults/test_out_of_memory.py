"""Memory that runs out at any step: the engine makes its steps smaller and every answer stays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiers import slow

from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.request import GenerateRequest, GenerateResult, Request, Result, SamplingParams, ScoreRequest
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import PENDING
from warmeng.engine.settings import resolve_limits

SETTINGS = EngineSettings(kv_bytes=2**20, max_num_seqs=8, max_batched_tokens=40)
TEXT = "You are asked something by somebody who is sad today. What is the answer to the question? "
LACKING: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
    MemoryError,
]


def make_requests(engine: Engine) -> list[Request]:
    found: list[Request] = [
        GenerateRequest(
            f"g{i}", tuple(engine.tokenizer.encode(TEXT[: 20 + 9 * (i // 2)])),
            SamplingParams(max_new_tokens=4, temperature=0.8 * (i % 2), logprobs=True, ignore_eos=True),
            "p0" if i % 3 == 0 else None, (f"item-{i}", 0), prompt_logprobs=i == 4,
        )
        for i in range(6)
    ]  # fmt: skip
    labels = tuple(tuple(engine.tokenizer.encode(text)) for text in ("yes", "no, never"))
    return [*found, ScoreRequest("s", tuple(engine.tokenizer.encode(TEXT[:60])), labels)]


def answer(engine: Engine, requests: list[Request]) -> dict[str, Result]:
    for request in requests:
        engine.add(request)
    return {result.id: replace(result, cached_tokens=0) for result in engine.results()}


class Lacking:
    """A runner that raises at chosen starts, before the step has changed the cache or after.

    With ``overlap`` the engine reads each outcome one step later; the step's own work is then given the tokens that
    the engine doesn't know yet, as a device would take them from where they lie.
    """

    def __init__(self, runner: Any, error: Callable[[], Exception], at: set[int], late: bool, overlap: int = 0) -> None:
        self._runner = runner
        self._error = error
        self._at = at
        self._late = late
        self._chosen: list[int] = []
        self.overlap = overlap
        self.starts = 0
        self.released = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def release_memory(self) -> None:
        self.released += 1

    def start(self, work: list[Work], compiler: Any) -> Any:
        self.starts += 1
        if self.starts in self._at and not self._late:
            raise self._error()
        pending = {item.sequence: item.sequence.tokens[-1] for item in work if item.sequence.tokens[-1] <= PENDING}
        for sequence, token in pending.items():
            sequence.tokens[-1] = self._chosen[PENDING - token]
        try:
            flight = self._runner.start(work, compiler)
        finally:
            for sequence, token in pending.items():
                sequence.tokens[-1] = token
        if self.starts in self._at:
            raise self._error()
        self._chosen = flight.wait().tokens
        return flight


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors are small: threads that wait for each other would cost most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> Engine:
    engine = Engine.load(str(tiny_model("llama")), device="cpu", settings=SETTINGS)
    engine.add_adapter("p0", tiny_adapters[0])
    return engine


def lacking(loaded: Engine, error: Callable[[], Exception], at: set[int], late: bool, overlap: int = 0) -> Engine:
    """A new engine over the same model, whose steps lack memory at the starts ``at``."""
    runner: Any = Lacking(loaded._runner, error, at, late, overlap)
    return Engine(loaded.model, runner, SETTINGS, resolve_limits(SETTINGS, "cpu", loaded.config.max_seq_len))


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("late", [*slow(False), True])
def test_at_every_step(loaded: Engine, overlap: int, late: bool) -> None:
    """One lack of memory at each step of the run in turn, with steps read at once or one later."""
    plain = lacking(loaded, MemoryError, set(), late, overlap)
    requests = make_requests(plain)
    expected = answer(plain, requests)
    assert expected == answer(lacking(loaded, MemoryError, set(), late), requests)
    for step in range(1, plain.stats.steps + 1):
        tried = lacking(loaded, LACKING[step % 3], {step}, late, overlap)
        assert answer(tried, requests) == expected, f"memory lacked at step {step}"
        runner: Any = tried._runner
        assert runner.released == tried.stats.oom_steps == 1
        assert tried._core.pool.available == tried._runner.num_blocks - 1, "blocks were lost"


def test_again_and_again(loaded: Engine) -> None:
    requests = make_requests(loaded)
    tried = lacking(loaded, LACKING[0], {1, 2, 3, 5, 8, 13, 14}, late=True, overlap=1)
    assert answer(tried, requests) == answer(lacking(loaded, LACKING[0], set(), late=True), requests)
    assert tried.stats.oom_steps == 7


def test_never_enough(loaded: Engine) -> None:
    """What not even one token's step has memory for is answered with that status; nothing hangs, nothing is lost."""
    requests = make_requests(loaded)
    tried = lacking(loaded, LACKING[0], set(range(1, 10_000)), late=False)
    found = answer(tried, requests)
    assert {result.status for result in found.values()} == {"out_of_memory"}
    assert len(found) == len(requests)
    assert isinstance(found["g0"], GenerateResult)
    assert "free memory" in found["g0"].detail
    assert tried._core.pool.available == tried._runner.num_blocks - 1


def test_other_errors_are_not_taken_for_it(loaded: Engine) -> None:
    tried = lacking(loaded, lambda: RuntimeError("shapes differ"), {2}, late=False)
    with pytest.raises(RuntimeError, match="shapes differ"):
        answer(tried, make_requests(loaded))
