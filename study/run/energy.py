"""Energy in joules, where the machine counts it: the processor's own counters (Linux powercap), or NVIDIA's.

The counters tell of the whole package or card, whatever else runs on it.
"""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
# Of work that this machine does not do.
ELSEWHERE = "elsewhere"


class EnergyMeter:
    """Joules since it was made; ``None`` where no counter can be read."""

    def __init__(self, device: str = "cpu", powercap: Path = POWERCAP) -> None:
        """``device``: ``cpu``, ``cuda``, or ``ELSEWHERE``, which is not counted; ``powercap`` holds the counters."""
        self._cuda = device == "cuda"
        counted = device not in ("cuda", ELSEWHERE)
        self._packages = [] if not counted else [p for p in sorted(powercap.glob("*-rapl:*")) if p.name.count(":") == 1]
        self._last = self._read()
        self._joules = 0.0

    def joules(self) -> float | None:
        """Return the energy so far. Call it at least once an hour: the counters wrap around."""
        now = self._read()
        if now is None or self._last is None:
            return None
        for name, value in now.items():
            step = value - self._last.get(name, value)
            self._joules += (step if step >= 0 else step + self._range(name)) / 1e6
        self._last = now
        return self._joules

    def _read(self) -> dict[str, int] | None:
        """Return microjoules by counter."""
        if self._cuda:
            return self._read_cuda()
        try:
            found = {str(p): int((p / "energy_uj").read_text()) for p in self._packages}
        except (OSError, ValueError):
            return None
        return found or None

    def _read_cuda(self) -> dict[str, int] | None:
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            return {"cuda:0": 1000 * int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))}
        except pynvml.NVMLError:
            return None

    def _range(self, name: str) -> int:
        """Return the microjoules at which a counter begins again at zero."""
        try:
            return int((Path(name) / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            return 2**64
