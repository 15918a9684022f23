"""Paired tests: the same question, context, belief, framing and sample, answered by two personas."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from warmeng.study.results.frame import Factor, Frame, Small
from warmeng.study.results.views import BELIEF, MISTAKEN
from warmeng.study.stats.draws import Floats, Ints, number
from warmeng.study.stats.units import asked_plainly, pairs


def mcnemar(frame: Frame, outcome: Small, baseline: str, variants: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the rows of the table ``mcnemar``: exact tests of each variant by model, task, context and belief.

    ``b`` counts pairs that only the baseline answered rightly, ``c`` only the variant. A question may have several
    pairs (samples, or both wrong beliefs), which are not independent: ``p`` is ``flip_p`` over questions, and ``p_fdr``
    controls false discoveries (Benjamini and Hochberg 1995) over all rows of the table, the one family.

    What the paper prints stands beside: both wrong beliefs as one table (``wrong belief``, where both were asked),
    ``p_pairs`` of McNemar's test over pairs, and ``p_pairs_fdr`` within a variant's model x task x table. ``g`` is the
    authors' "Cohen's g", |b-c| / sqrt(b+c); ``cohens_g`` is Cohen's (1988), max(b,c) / (b+c) - 1/2. As in the authors'
    tables the neutral framing is left out (their script asks for it by a name that their files don't have), and a
    condition without discordant pairs is not tested.
    """
    rows: list[dict[str, Any]] = []
    for variant in variants:
        left, right = pairs(frame, baseline, variant)
        decided = (outcome[left] >= 0) & (outcome[right] >= 0) & asked_plainly(frame)[left]
        left, right = left[decided], right[decided]
        for table in belief_tables(frame.take(left).belief):
            use = table.codes >= 0
            rows += _conditions(frame, outcome, variant, left[use], right[use], table.take(use))
    for row, corrected in zip(rows, false_discovery(_values(rows, "p")), strict=True):
        row["p_fdr"] = number(corrected)
    return rows


def belief_tables(belief: Factor) -> list[Factor]:
    """Return each belief as a table of its own, then ``MISTAKEN`` as one where both were asked; -1 is in none."""
    asked = [name for name in belief.names if belief.is_(name).any()]
    found = [belief]
    if set(MISTAKEN) <= set(asked):
        both = np.isin(belief.codes, [belief.names.index(name) for name in MISTAKEN])
        found.append(Factor((BELIEF,), np.where(both, 0, -1).astype(np.int32)))
    return found


def _conditions(
    frame: Frame, outcome: Small, variant: str, left: Ints, right: Ints, table: Factor
) -> list[dict[str, Any]]:
    factors = (frame.model.take(left), frame.task.take(left), table, frame.context.take(left))
    shape = tuple(max(1, len(f.names)) for f in factors)
    cell = np.ravel_multi_index([f.codes for f in factors], shape)
    change = outcome[left].astype(np.int64) - outcome[right]  # 1: only the variant is right
    item = frame.item.codes[left].astype(np.int64)
    rows: list[dict[str, Any]] = []
    for family in np.arange(math.prod(shape)).reshape(-1, shape[3]):
        mine = []
        for k in family:
            here = cell == k
            if not here.any():
                continue
            names = (f.names[int(code)] for f, code in zip(factors, np.unravel_index(k, shape), strict=True))
            head = dict(zip(("model", "task", "belief", "context"), names, strict=True)) | {"variant": variant}
            mine.append(head | tested(change[here], item[here]))
        for row, corrected in zip(mine, false_discovery(_values(mine, "p_pairs")), strict=True):
            row["p_pairs_fdr"] = number(corrected)
        rows += mine
    return rows


def tested(change: Ints, item: Ints) -> dict[str, Any]:
    """Return the exact tests of pairs: ``change`` is 1 where only the second is right, -1 where only the first is.

    ``item`` is each pair's question, ``[pairs]`` both. ``b`` and ``c`` count what only the first and only the second
    has right; ``difference`` is the second's accuracy less the first's, in points.
    """
    n, b, c = len(change), int(np.sum(change < 0)), int(np.sum(change > 0))
    questions, at = np.unique(item, return_inverse=True)
    net = np.bincount(at, weights=change, minlength=len(questions)).astype(np.int64)
    return {
        "n": n,
        "questions": len(questions),
        "b": b,
        "c": c,
        "difference": 100 * (c - b) / n,
        "odds_ratio": b / c if c else None,
        "g": abs(b - c) / math.sqrt(b + c) if b + c else None,
        "cohens_g": max(b, c) / (b + c) - 0.5 if b + c else None,
        "p": number(flip_p(net)),
        "p_pairs": number(exact_p(b, c)),
    }


def flip_p(net: Ints) -> float:
    """Return the exact two-sided p of flipping the signs of whole questions (Fisher 1935, section 21); NaN for no net.

    ``net`` is each question's pairs that only the variant answered rightly, less those that only the baseline did. If
    the personas are alike, a question's net is as likely as its opposite, whatever the dependence within it, so all
    2^k signs of the k nets that are not 0 are equally likely; their sum's distribution is counted, not drawn. With one
    pair a question this is McNemar's exact test; Durkalski et al. (2003) test the same net with a normal distribution.
    """
    sizes, counts = np.unique(np.abs(net[net != 0]), return_counts=True)
    if not len(sizes):
        return math.nan
    from scipy.special import gammaln

    # Place k is the sum 2 k - total: sizes keep their parity.
    found = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        steps = np.zeros(size * count + 1)
        up = np.arange(count + 1)
        ways = gammaln(count + 1) - gammaln(up + 1) - gammaln(count - up + 1)
        steps[::size] = np.exp(ways - count * math.log(2))
        found = np.convolve(found, steps)
    total = len(found) - 1
    extreme = np.abs(2 * np.arange(total + 1) - total) >= abs(int(net.sum()))
    return min(1.0, float(found[extreme].sum()))


def exact_p(b: int, c: int) -> float:
    """Return the two-sided exact p of McNemar's test: twice the smaller binomial tail, at most 1; NaN for no pair."""
    if b + c == 0:
        return float("nan")
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(b, c), b + c, 0.5)))


def false_discovery(p: Floats) -> Floats:
    """Return Benjamini and Hochberg's adjusted p values of one family; NaN stays NaN and counts for nothing."""
    found = np.full(len(p), np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    m = len(tested)
    if m:
        order = tested[np.argsort(-p[tested], kind="stable")]
        scaled = p[order] * m / np.arange(m, 0, -1)
        found[order] = np.minimum(1.0, np.minimum.accumulate(scaled))
    return found


def _values(rows: Iterable[dict[str, Any]], key: str) -> Floats:
    return np.array([math.nan if row[key] is None else row[key] for row in rows])
