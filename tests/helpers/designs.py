"""What tests ask where they name nothing: answers alone, of four tasks in two contexts."""

from __future__ import annotations

ANSWERS_ALONE = {
    "tasks": (("facts", "misconceptions", "conspiracies", "health"),) * 2,
    "contexts": (("unmodified", "emotion:sad"),) * 2,
    "beliefs": (("none", "wrong"),) * 2,
    "asking": (("open",),) * 2,
}
