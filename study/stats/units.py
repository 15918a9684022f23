"""Which answers are compared and counted together: pairs, the plain framing, the tasks that are pooled."""

from __future__ import annotations

import numpy as np

from warmeng.common.errors import InputError
from warmeng.study.results.frame import Factor, Flags, Frame
from warmeng.study.results.views import named
from warmeng.study.stats.draws import Ints
from warmeng.study.tasks.task import is_general

PAIRED = ("model", "item", "context", "belief", "framing")


def pairs(frame: Frame, first: str, second: str) -> tuple[Ints, Ints]:
    """Return the rows of two personas that answer the same: ``[pairs]`` each, in the order of the first's rows.

    Raises ``InputError`` where a persona has two answers with the same question, sample, context, belief and framing.
    """
    key = unit_key(frame)
    mine = [np.flatnonzero(frame.persona.is_(name)) for name in (first, second)]
    for name, rows in zip((first, second), mine, strict=True):
        if len(np.unique(key[rows])) != len(rows):
            raise InputError(
                f"persona {name!r} has two answers with the same question, sample, context and belief: give each once"
            )
    _, left, right = np.intersect1d(key[mine[0]], key[mine[1]], assume_unique=True, return_indices=True)
    order = np.argsort(left)
    return mine[0][left[order]], mine[1][right[order]]


def unit_key(frame: Frame) -> Ints:
    """Return a number for each row that is the same for what is paired: everything but the persona."""
    key = frame.sample.astype(np.int64)
    for name in PAIRED:
        factor: Factor = getattr(frame, name)
        key = key * max(1, len(factor.names)) + factor.codes
    return key


def asked_plainly(frame: Frame) -> Flags:
    """Return the answers that tables by place in the grid count: those of the plain framing, ``[n]``.

    The neutral framing is asked without a belief alone, so pooling it would weigh those places twice. The paper's
    regressions take both framings, and its paired tests the plain one.
    """
    return frame.framing.is_("plain")


def pooled_tasks(frame: Frame) -> Flags:
    """Return the answers that a row over all tasks counts: tasks of general ability are out where there are others."""
    study = ~named(frame.task, is_general)
    return study if study.any() else np.ones(len(frame), dtype=bool)
