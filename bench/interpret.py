"""The kernels' results checked in Triton's interpreter, which must be chosen before Triton is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from warmeng.common.errors import UsageError

if TYPE_CHECKING:
    from warmeng.bench.kernels import Found


def check_interpreted(shape: str, only: Sequence[str], say: Callable[[str], None]) -> list[Found]:
    """Check all kernels at sizes of a few dozen. Raises UsageError where Triton was imported to compile."""
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise UsageError("triton was imported before --interpret could choose its interpreter: set TRITON_INTERPRET=1")
    os.environ["TRITON_INTERPRET"] = "1"
    from warmeng.bench.cases.case import tiny
    from warmeng.bench.kernels import run_all

    results, _ = run_all(tiny(shape, torch.float32), None, only=only, say=say)
    return results
