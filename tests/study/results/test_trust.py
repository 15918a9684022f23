"""Whose judgments count, and several judges together by their measured errors."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from records_folder import answer, judged, run_folder

from warmeng.study.grading.grade import GRADES
from warmeng.study.results.read import read_run
from warmeng.study.results.trust import KINDS, TOGETHER, Trust, Verdict, posterior
from warmeng.study.stats.judges import disputed


def confusion(rows):
    return {kind: dict(zip(KINDS, row, strict=True)) for kind, row in zip(KINDS, rows, strict=True)}


SHARP = confusion([[30, 2, 0, 0], [1, 31, 0, 0], [0, 0, 31, 1], [1, 1, 0, 30]])
LAX = confusion([[31, 0, 0, 1], [14, 16, 0, 2], [0, 2, 30, 0], [10, 2, 0, 20]])


def facts(**confusions):
    return {name: {"trusted": True, "confusion": found} for name, found in confusions.items()}


def test_one_judge_counts_alone_and_several_together() -> None:
    assert Trust.of({}).name is None
    assert Trust.of({"a": {"trusted": False, "confusion": SHARP}}).name is None
    assert Trust.of(facts(a=SHARP)).name == "a"
    assert Trust.of(facts(a=SHARP, b=LAX)).name == TOGETHER
    # Of an earlier version, which did not record how a judge errs.
    assert Trust.of({"a": {"trusted": True}, **facts(b=LAX)}).name == "a"


def test_the_probabilities_are_bayes_rule_over_the_counts() -> None:
    found = posterior([(SHARP, "incorrect"), (LAX, "correct")])
    direct = {
        kind: (SHARP[kind]["incorrect"] + 0.5) / (sum(SHARP[kind].values()) + 2)
        * (LAX[kind]["correct"] + 0.5) / (sum(LAX[kind].values()) + 2)
        for kind in KINDS
    }  # fmt: skip
    assert found == pytest.approx({kind: value / sum(direct.values()) for kind, value in direct.items()})
    # The lax judge's "correct" says little, and the sharp one is believed.
    assert max(found, key=found.get) == "incorrect"


def test_verdicts_that_say_nothing_count_for_nothing() -> None:
    trust = Trust.of(facts(a=LAX, b=SHARP))
    assert trust.together([Verdict("a", "unscored"), Verdict("other", "correct")]) is None
    alone = trust.together([Verdict("a", "unscored"), Verdict("b", "refusal")])
    assert (alone.grade, alone.reason) == ("refusal", "")
    split = trust.together([Verdict("b", "incorrect", "user"), Verdict("a", "correct")])
    assert (split.grade, split.which, split.reason) == ("incorrect", "user", "a: correct, b: incorrect")
    # No label tells two judges apart: the first one's grade.
    mirrored = confusion([[20, 12, 0, 0], [12, 20, 0, 0], [0, 0, 32, 0], [0, 0, 0, 32]])
    even = Trust.of(facts(a=mirrored, b=mirrored))
    assert even.together([Verdict("b", "correct"), Verdict("a", "incorrect")]).grade == "incorrect"


def test_a_run_counts_what_its_judges_say_together(tmp_path) -> None:
    records = [
        answer(1, "original", "a", "correct"),
        judged(11, 1, "lax", "correct", {"correct": 1.0}),
        judged(12, 1, "sharp", "incorrect", which="user"),
        answer(2, "original", "b", "unclear"),
        judged(13, 2, "lax", "refusal"),
        judged(14, 2, "sharp", "refusal"),
    ]
    judges = facts(lax=LAX, sharp=SHARP)
    frame, info = read_run(run_folder(tmp_path / "run", records, planned=2, judges=judges))
    assert [GRADES[g] for g in frame.grade] == ["incorrect", "refusal"]
    assert [GRADES[g] for g in frame.judges[TOGETHER]] == ["incorrect", "refusal"]
    assert info.judged == {"lax": 2, "sharp": 2}
    [row] = disputed(frame, TOGETHER)
    assert (row["disputed"], row["to_incorrect"]) == (1, 1)


def test_together_they_err_less_than_the_best_of_them_and_than_a_majority() -> None:
    """Three judges that err independently, two of them lax: measured on 128 labelled answers."""
    rng = np.random.default_rng(0)
    truths = {"sharp": SHARP, "lax": LAX, "lax too": LAX}
    chances = {n: np.array([[c[k][g] for g in KINDS] for k in KINDS]) for n, c in truths.items()}
    chances = {n: (c + 0.5) / (c + 0.5).sum(1, keepdims=True) for n, c in chances.items()}

    def grades(kinds):
        return {n: [rng.choice(4, p=c[k]) for k in kinds] for n, c in chances.items()}

    labelled = np.repeat(range(4), 32)
    seen = grades(labelled)
    measured = {
        n: confusion([np.bincount([g for g, k in zip(given, labelled, strict=True) if k == kind], minlength=4).tolist()
                      for kind in range(4)])
        for n, given in seen.items()
    }  # fmt: skip
    trust = Trust.of(facts(**measured))
    kinds = rng.choice(4, size=2000, p=[0.5, 0.3, 0.1, 0.1])
    right = Counter()
    for i, said in enumerate(zip(*grades(kinds).values(), strict=True)):
        found = trust.together([Verdict(n, KINDS[g]) for n, g in zip(truths, said, strict=True)])
        right["together"] += found.grade == KINDS[kinds[i]]
        right["sharp"] += said[0] == kinds[i]
        right["majority"] += Counter(said).most_common(1)[0][0] == kinds[i]
    assert right["together"] > right["sharp"]
    assert right["together"] > right["majority"] + 20


@pytest.mark.parametrize("given", list(itertools.product(KINDS, repeat=2)))
def test_shares_are_probabilities(given) -> None:
    shares = posterior([(SHARP, given[0]), (LAX, given[1])])
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares.values())
