"""Jobs side by side on a cluster, each in a worker of its own that ends with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from warmeng.common.errors import one_line
from warmeng.fleet.cluster import Cluster, WorkerLost
from warmeng.fleet.crew import MOST_LOSSES, TICK, NoWorkers

T = TypeVar("T")


class Hand:
    """A worker that does one job."""

    def do(self, job: Callable[[], Any]) -> Any:
        """Return what a job gives; raises what it raises."""
        return job()


def run_jobs(
    cluster: Cluster, jobs: Mapping[str, Callable[[], T]], say: Callable[[str], None] = lambda line: None
) -> dict[str, T]:
    """Do jobs by name, as many at once as the cluster has workers for, and return what each gave, in their order.

    A job whose worker dies is done again, and must be able to go on from what it left. What a job raises ends all of
    them. Raises ``NoWorkers`` where the workers of one job died ``MOST_LOSSES`` times.
    """
    waiting = deque((name, 0) for name in jobs)
    under: dict[Any, tuple[str, int, Any]] = {}
    found: dict[str, T] = {}
    try:
        while waiting or under:
            while waiting and len(under) < cluster.workers:
                name, losses = waiting.popleft()
                worker = cluster.start(Hand)
                under[cluster.call(worker, "do", jobs[name])] = name, losses, worker
            for call in cluster.wait(list(under), TICK):
                name, losses, worker = under.pop(call)
                try:
                    found[name] = cluster.get(call)
                except WorkerLost as error:
                    why = one_line(error, 200)
                    if losses + 1 >= MOST_LOSSES:
                        raise NoWorkers(f"{name}: its workers are lost {MOST_LOSSES} times ({why})") from None
                    say(f"{name}: its worker is lost ({why}), and another one goes on")
                    waiting.append((name, losses + 1))
                finally:
                    cluster.kill(worker, None, "")
    finally:
        for _, _, worker in under.values():
            cluster.kill(worker, None, "")
    return {name: found[name] for name in jobs}
