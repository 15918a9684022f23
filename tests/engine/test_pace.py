"""One thread where other processes have the cores, and all of them again where they don't."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from warmeng.engine.cpu.pace import Pace, idle_seconds


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Machine:
    """Two cores, of which this process's threads get a share, and the others leave some idle."""

    def __init__(self, told: bool = True) -> None:
        self.wall = self.processor = self.idle = 0.0
        self.share, self.free, self.told = 1.0, 0.0, told
        self.pace = Pace(lambda: self.wall, lambda: self.processor, lambda: self.idle if self.told else None)

    def steps(self, count: int) -> list[int]:
        """Run steps of a tenth of a second; return each one's number of threads."""
        taken = []
        for _ in range(count):
            with self.pace.step():
                taken.append(torch.get_num_threads())
                with self.pace.measured():
                    self.wall += 0.1
                    self.processor += 0.1 * taken[-1] * self.share
                    self.idle += 0.1 * self.free
            assert torch.get_num_threads() == 2
        return taken


def test_a_process_that_has_its_cores_keeps_its_threads() -> None:
    machine = Machine()
    assert set(machine.steps(100)) == {2}


@pytest.mark.parametrize("told", [True, False])
def test_a_crowded_process_takes_one_thread_and_all_again_later(told: bool) -> None:
    machine = Machine(told)
    machine.share = 0.5
    taken = machine.steps(200)
    assert taken[:5] == [2, 2, 2, 2, 1]
    # Where idle cores can't be counted, all threads are tried ever more rarely.
    assert taken.count(2) == 4 if told else 8 < taken.count(2) < 20
    machine.share, machine.free = 1.0, 1.0
    assert set(machine.steps(400)[-100:]) == {2}


def test_a_step_that_fails_gives_the_threads_back() -> None:
    machine = Machine()
    machine.share = 0.5
    machine.steps(6)
    taken = []

    def fail() -> None:
        with machine.pace.step():
            taken.append(torch.get_num_threads())
            raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        fail()
    assert taken == [1]
    assert torch.get_num_threads() == 2


def test_one_thread_stays_one() -> None:
    torch.set_num_threads(1)
    pace = Pace(lambda: 0.0, lambda: 0.0, lambda: 0.0)
    with pace.step(), pace.measured():
        assert torch.get_num_threads() == 1


def test_idle_seconds_grow() -> None:
    first = idle_seconds()
    assert first is None or first >= 0
