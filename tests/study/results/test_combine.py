"""One grade from all rules, and the paper's two labels."""

import itertools

import pytest

from warmeng.study.grading.grade import GRADES
from warmeng.study.results.combine import combine


def exact(grade, which=None, reason=""):
    return {"grade": grade, "which": which, "reason": reason}


def judged(grade, which=None, **shares):
    return {"judge": "j", "grade": grade, "which": which, "reason": "", "shares": shares or None}


@pytest.mark.parametrize(("first", "second"), list(itertools.product(GRADES, [*GRADES, None])))
def test_a_trusted_judge_counts_also_where_the_exact_rule_decides_otherwise(first, second):
    found = combine(exact(first, "user" if first == "incorrect" else None), judged(second) if second else None)
    decided = first in ("correct", "incorrect", "refusal")
    if second in (None, "unscored") or (decided and first == second):
        assert (found.grade, found.by, found.disputed) == (first, "exact", False)
        assert found.which == ("user" if first == "incorrect" else None)
        return
    assert (found.grade, found.by, found.disputed) == (second, "j", decided)
    assert found.which == ("other" if second == "incorrect" else None)
    if decided:
        assert found.reason == f"disputed: {first} by the exact rule, counted by j"


def test_whose_wrong_answer_a_judge_found_is_kept():
    assert combine(exact("unclear"), judged("incorrect", "user")).which == "user"


@pytest.mark.parametrize(
    ("grade", "refusal_is_correct", "label"),
    [("correct", False, 0), ("incorrect", False, 1), ("unclear", False, 1), ("unscored", False, -1),
     ("refusal", False, -1), ("refusal", True, 0)],
)  # fmt: skip
def test_the_papers_labels(grade, refusal_is_correct, label):
    assert combine(exact(grade), None, refusal_is_correct).binary == label
    assert combine(exact("unscored"), judged(grade), refusal_is_correct).binary == label


def test_a_judges_shares_decide_what_is_unclear():
    near = judged("unclear", correct=0.42, incorrect=0.03, refusal=0.05, unclear=0.5)
    assert combine(exact("unclear"), near).binary == 1
    near = judged("unclear", correct=0.44, incorrect=0.01, refusal=0.14, unclear=0.41)
    assert combine(exact("unclear"), near).binary == 1 - (0.42 < 0.44)
    torn = judged("correct", correct=0.45, incorrect=0.3, refusal=0.0, unclear=0.25)
    assert (combine(exact("unclear"), torn).grade, combine(exact("unclear"), torn).binary) == ("correct", 1)
    assert combine(exact("correct"), torn).binary == 0  # they agree: the rule's word has no shares
    assert combine(exact("incorrect"), torn).binary == 1
    assert combine(exact("correct"), near).binary == 0
