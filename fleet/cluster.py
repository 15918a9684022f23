"""Ray: where workers' processes come from. The only module that imports it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from warmeng.common.errors import UsageError, WarmengError, one_line
from warmeng.fleet.settings import LOCAL, FleetSettings

# Of Ray's own store on this machine: adapters pass through it, and it spills to the disk.
STORE_BYTES = 100 * 2**20
# Ray's processes of this machine listen on the loopback interface alone, and report nothing; workers have the priority
# of any process, where Ray would give them a low one.
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


class WorkerLost(Exception):
    """A worker's process, its node or the way to it is gone. The message says what is known."""


class Cluster(Protocol):
    """What a fleet needs to have workers. Calls of one worker run one after the other, in the order made."""

    # Workers that have room, and the device of their engines.
    workers: int
    device: str
    # CPU cores, so threads, of each; None leaves them to the worker.
    cores: int | None

    def start(self, kind: type) -> Any:
        """Return a new worker, an object of a class in a process of its own, which may have to wait for room."""

    def call(self, worker: Any, method: str, *given: Any) -> Any:
        """Call a method of a worker; return what ``wait`` and ``get`` take."""

    def wait(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        """Return the calls that have ended, after so many seconds at most."""

    def get(self, call: Any) -> Any:
        """Return what a call that has ended gave. Raises what it raised, and ``WorkerLost``."""

    def put(self, value: Any) -> Any:
        """Return what stands for a value in calls, so that it is sent to each node once."""

    def kill(self, worker: Any, pid: int | None, host: str) -> None:
        """End a worker, whatever it does."""


def require_ray() -> None:
    """Raise ``UsageError`` where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--ray needs Ray, which is not installed: pip install 'warmeng[ray]'")


@dataclass
class RayCluster:
    """A Ray cluster that this process has joined, or started."""

    ray: Any
    workers: int
    device: str
    cores: int | None
    folder: str | None
    # What each worker has, in words.
    told: str

    def start(self, kind: type) -> Any:
        """Return a new actor."""
        needs = {"num_cpus": self.cores, "num_gpus": 1 if self.device == "cuda" else 0}
        # Ours to start again, since what it has loaded must be compared.
        return self.ray.remote(kind).options(**needs, max_restarts=0, max_task_retries=0).remote()

    def call(self, worker: Any, method: str, *given: Any) -> Any:
        """Call a method of an actor."""
        return getattr(worker, method).remote(*given)

    def wait(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        """Return the calls that have ended."""
        done, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=0)
        if not done:
            done, _ = self.ray.wait(list(calls), num_returns=1, timeout=seconds)
        return list(done)

    def get(self, call: Any) -> Any:
        """Return what a call gave."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(call)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, WarmengError):
                raise cause from None
            raise WorkerLost(one_line(f"it failed with {type(cause).__name__}: {cause}")) from None
        except errors.RayError as error:
            raise WorkerLost(_why(error)) from None

    def put(self, value: Any) -> Any:
        """Put a value into Ray's store."""
        return self.ray.put(value)

    def kill(self, worker: Any, pid: int | None, host: str) -> None:
        """End an actor; a process of this machine that is stopped does not hear Ray, so it is ended itself."""
        self.ray.kill(worker)
        if pid is not None and host == socket.gethostname():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                return

    def close(self) -> None:
        """Leave the cluster; one that was started ends."""
        self.ray.shutdown()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _why(error: Exception) -> str:
    """Return one line of what Ray tells of a lost actor: after a headline and indented facts comes the cause."""
    headline, *told = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")] or [""]
    cause = " ".join(told).partition("Some common causes")[0]
    return one_line(cause or headline or type(error).__name__, 200)


def join(settings: FleetSettings, device: str = "auto") -> RayCluster:
    """Join a Ray cluster, or start one on this machine, and see how many workers it has room for.

    ``device``: "cpu", "cuda" (one GPU for each worker), or "auto" for GPUs where there are some. Raises ``UsageError``
    where Ray is not installed, the cluster is not there, or it has less room than is asked for.
    """
    require_ray()
    local = settings.address == LOCAL
    if local:
        os.environ.update(ENVIRONMENT)
    with _signals_kept():
        import ray

        folder = tempfile.mkdtemp(prefix="warmeng-ray-") if local else None
        try:
            if local:
                ray.init(
                    address="local", num_cpus=_cores(settings), include_dashboard=False, log_to_driver=False,
                    object_store_memory=STORE_BYTES, logging_level="CRITICAL", _temp_dir=folder,
                )  # fmt: skip
            else:
                ray.init(address=settings.address, log_to_driver=False, logging_level="CRITICAL")
            # It has no setting for this: what it says of workers that died would stand among a run's tables on stdout,
            # and the fleet says it too.
            ray._private.worker.print_to_stdstream = lambda *given, **more: None
        except Exception as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            do = "see that this machine can start it" if local else "see that it runs there, or leave the address out"
            raise UsageError(f"Ray at {settings.address}: {one_line(error)}: {do}") from None
    try:
        return _measured(ray, settings, device, folder)
    except BaseException:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _cores(settings: FleetSettings) -> int:
    """Return the CPU cores that a cluster of this machine lends: all there are, or more where they are asked for."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(here, (settings.workers or 1) * (settings.cores or 1))


def _measured(ray: Any, settings: FleetSettings, device: str, folder: str | None) -> RayCluster:
    """Say how many workers the cluster has room for, node by node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cpus = ([int(node.get(kind, 0)) for node in nodes] for kind in ("GPU", "CPU"))
    if device == "auto":
        device = "cuda" if any(gpus) else "cpu"
    if device == "cuda":
        cores, room = settings.cores or 1, 0
        room = sum(min(g, c // cores) for g, c in zip(gpus, cpus, strict=True))
        what = f"{sum(gpus)} GPUs and {sum(cpus)} CPU cores"
    else:
        # One worker a node with all its cores, or as many as are asked for with their share of them.
        cores = settings.cores or _share(cpus, settings.workers or sum(c > 0 for c in cpus))
        room = sum(c // cores for c in cpus)
        what = f"{sum(cpus)} CPU cores on {len(nodes)} nodes"
    workers = settings.workers or room
    if not 0 < workers <= room:
        raise UsageError(
            f"Ray at {settings.address}: has {what}, room for {room} workers of {cores} cores"
            f"{' and a GPU' if device == 'cuda' else ''}, not for {workers}: ask for fewer workers or cores"
        )
    told = f"{cores} CPU core{'s' * (cores > 1)}{' and a GPU' if device == 'cuda' else ''} each"
    return RayCluster(ray, workers, device, cores, folder, told)


def _share(cpus: Sequence[int], workers: int) -> int:
    """Return the most cores a worker may have so that so many workers find room; 1 where they find none."""
    return next((n for n in range(max(cpus, default=1), 1, -1) if sum(c // n for c in cpus) >= workers), 1)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep this process's handlers of signals: Ray puts its own in the place of one, on the main thread."""
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, former)
