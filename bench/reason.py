"""Why something did not run: one line for the record, and where it happened for whoever debugs."""

from __future__ import annotations

import os
import sys
import traceback

from warmeng.common.errors import one_line, without_secrets

OUT_OF_MEMORY = "out of memory"


def reason(problem: Exception) -> str:
    """Return an error's type and the beginning of its message.

    A bench goes on after an error, so nobody else would show its traceback: ``WARMENG_DEBUG=1`` does, on stderr.
    """
    if os.environ.get("WARMENG_DEBUG") == "1":
        sys.stderr.write(without_secrets("".join(traceback.format_exception(problem))))
    return f"{type(problem).__name__}: {one_line(problem)}"
