"""Why something was not measured, in one line; it imports nothing that takes long."""

from __future__ import annotations

import os
import sys
import traceback

from warmeng.common.errors import one_line, without_secrets


def reason(problem: Exception) -> str:
    """Return an error's type and the beginning of its message.

    A bench goes on after an error, so its traceback is shown nowhere else: ``WARMENG_DEBUG=1`` prints it on stderr.
    """
    if os.environ.get("WARMENG_DEBUG") == "1":
        sys.stderr.write(without_secrets("".join(traceback.format_exception(problem))))
    return f"{type(problem).__name__}: {one_line(problem)}"
