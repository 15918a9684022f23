"""The exact rules against the labelled answers: how many they decide, and how many of those rightly, by style."""

from collections import Counter

import pytest

from warmeng.common.files import read_jsonl
from warmeng.study.results.combine import DECIDED
from warmeng.study.run.calibrate import GRADED, MEASURED, calibrate_exact, grade_labelled
from warmeng.study.stats.correction import MIN_EXACT

STYLES = ("plain", "warm", "cold")
RULES = ("alias", "number", "refusal")
# Answers, how many of them are decided, and how many of those as labelled (docs/grading.md has the same table).
MEASURED_SO = {
    ("alias", "plain"): (66, 36, 36), ("alias", "warm"): (71, 33, 33), ("alias", "cold"): (40, 27, 27),
    ("number", "plain"): (26, 23, 23), ("number", "warm"): (20, 16, 16), ("number", "cold"): (10, 8, 8),
    ("refusal", "plain"): (160, 55, 54), ("refusal", "warm"): (60, 19, 19), ("refusal", "cold"): (120, 48, 48),
}  # fmt: skip


@pytest.fixture(scope="module")
def measured():
    return list(grade_labelled())


def right(graded):
    same = graded.found.grade == graded.row.label
    return same and (graded.which is None or graded.found.which == graded.which)


def test_measured_answers_are_not_those_of_development():
    rows = [row for _, row in read_jsonl(GRADED)]
    assert Counter(row["part"] for row in rows) == {"development": 1240, MEASURED: 573}
    assert len({(row["question"], row["answer"]) for row in rows}) == len({row["id"] for row in rows}) == len(rows)
    assert {row["persona"] for row in rows} == set(STYLES)


@pytest.mark.parametrize("style", STYLES)
def test_what_is_decided_of_development_is_decided_rightly_in_every_style(style):
    decided = [g for g in grade_labelled(part="development") if g.row.persona == style and g.found.grade in DECIDED]
    wrong = [(g.row.answer, g.row.label, g.which, g.found) for g in decided if not right(g)]
    assert len(decided) > 150
    assert len(wrong) <= 0.01 * len(decided), wrong


def test_decided_and_right_are_the_counts_that_are_told(measured):
    found = {key: [0, 0, 0] for key in MEASURED_SO}
    for g in measured:
        counts = found[g.grading, g.row.persona]
        decided = g.found.grade in DECIDED
        for k, flag in enumerate((True, decided, decided and right(g))):
            counts[k] += flag
    assert {key: tuple(counts) for key, counts in found.items()} == MEASURED_SO


def test_no_style_is_decided_wrongly_more_often_than_another(measured):
    """A correction of the user is no agreement, however kind: the error that depended on the persona."""
    for g in measured:
        if g.row.belief in ("wrong", "doubt") and g.row.label == "correct":
            assert g.found.grade != "incorrect", g.row.answer


def test_the_exact_rules_errors_are_measured_as_a_judges():
    found = calibrate_exact().as_dict()
    for style in STYLES:
        entry = found["by_persona"][style]
        assert entry["found"] + entry["passed"] >= MIN_EXACT * (entry["incorrect"] + entry["correct"])
        assert entry["correct"] > 20
    assert found["n"] == sum(n for n, _, _ in MEASURED_SO.values())
