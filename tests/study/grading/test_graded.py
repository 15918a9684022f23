"""The exact rules against the labelled answers: how many they decide, and how many of those rightly, by style."""

import hashlib
from collections import Counter

import pytest

from warmeng.common.files import read_jsonl
from warmeng.study.results.combine import DECIDED
from warmeng.study.run.calibrate import GRADED, MEASURED, calibrate_exact, grade_labelled
from warmeng.study.stats.correction import MIN_EXACT

STYLES = ("plain", "warm", "cold")
RULES = ("alias", "number", "refusal")
# Answers, and how many of them are decided, in the measured part (docs/grading.md has the same table).
COVERAGE = {
    ("alias", "plain"): (100, 55), ("alias", "warm"): (79, 54), ("alias", "cold"): (74, 69),
    ("number", "plain"): (30, 29), ("number", "warm"): (12, 11), ("number", "cold"): (22, 20),
    ("refusal", "plain"): (11, 10), ("refusal", "warm"): (10, 7), ("refusal", "cold"): (8, 5),
}  # fmt: skip


@pytest.fixture(scope="module")
def measured():
    return list(grade_labelled())


def right(graded):
    return graded.found.grade == graded.row.label and graded.found.which == graded.which


def test_the_parts_are_divided_by_the_questions_hash():
    rows = [row for _, row in read_jsonl(GRADED)]
    assert len(rows) == 786
    for row in rows:
        even = hashlib.sha256(row["question"].encode()).digest()[0] % 2 == 0
        assert row["part"] == ("development" if even else MEASURED)
    assert len({(row["question"], row["answer"]) for row in rows}) == len(rows)
    assert {row["persona"] for row in rows} == set(STYLES)


@pytest.mark.parametrize("style", STYLES)
def test_what_is_decided_is_decided_rightly_in_every_style(measured, style):
    decided = [g for g in measured if g.row.persona == style and g.found.grade in DECIDED]
    wrong = [(g.row.answer, g.row.label, g.which, g.found) for g in decided if not right(g)]
    assert len(decided) > 70
    assert len(wrong) <= 0.01 * len(decided), wrong


def test_the_share_decided_is_the_one_that_is_told(measured):
    n, decided = Counter(), Counter()
    for g in measured:
        n[g.grading, g.row.persona] += 1
        decided[g.grading, g.row.persona] += g.found.grade in DECIDED
    assert {key: (n[key], decided[key]) for key in n} == COVERAGE


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
        assert entry["correct"] > 30
    assert found["n"] == sum(n for n, _ in COVERAGE.values())
