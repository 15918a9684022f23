"""The memory that a process may use, in machines and containers that are only folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmeng.common.memory import memory_limit

MIB = 2**20
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("", {}, 1000 * MIB),
        ("0::/\n", {f"{V2}/memory.max": "max\n"}, 1000 * MIB),
        ("0::/a/b\n", {f"{V2}/a/b/memory.max": "max\n", f"{V2}/a/memory.max": str(300 * MIB)}, 300 * MIB),
        ("0::/a/b\n", {f"{V2}/a/b/memory.max": str(200 * MIB), f"{V2}/a/memory.max": str(300 * MIB)}, 200 * MIB),
        # In a container: the path is the machine's, and the group is the top.
        ("0::/docker/x\n", {f"{V2}/memory.max": str(400 * MIB)}, 400 * MIB),
        ("9:memory:/x\n8:cpu:/y\n", {f"{V1}/x/memory.limit_in_bytes": str(500 * MIB)}, 500 * MIB),
        ("9:memory:/x\n", {f"{V1}/x/memory.limit_in_bytes": "9223372036854771712\n"}, 1000 * MIB),
        ("9:cpu,memory:/\n", {f"{V1}/memory.limit_in_bytes": str(2000 * MIB)}, 1000 * MIB),
        ("nonsense", {f"{V2}/memory.max": "\xff"}, 1000 * MIB),
    ],
)
def test_the_least_limit_counts(groups: str, files: dict[str, str], limit: int, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal:        {1000 * 1024} kB\nMemFree: 5 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit(tmp_path) == limit


def test_a_system_that_tells_nothing_has_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
