"""Where a fleet's workers run, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass

from warmeng.common.errors import UsageError

# Ray is started on this machine for the run, and ends with it.
LOCAL = "local"


@dataclass(frozen=True)
class FleetSettings:
    """A Ray cluster's address, or ``LOCAL``; the workers (None: what the cluster has room for), and their CPU cores."""

    address: str = LOCAL
    workers: int | None = None
    # Of each worker; None divides what is there.
    cores: int | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "cores"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}, expected at least 1")
        if "://" in self.address:
            raise UsageError(
                f"the Ray address is {self.address}, expected HOST:PORT or auto: run the command on a machine of the "
                "cluster"
            )
