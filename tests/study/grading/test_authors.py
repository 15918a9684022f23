"""The exact rules against GPT-4o's labels on the authors' sample answers, where they are at hand."""

from collections import Counter
from pathlib import Path

import pytest

from warmeng.common.delimited import read_csv
from warmeng.study.grading.refusals import refusals
from warmeng.study.grading.rows import read_rows
from warmeng.study.run.grade_file import exact_grade

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "paper" / "sample_llama_70b"
pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the authors' samples are not here")


def files():
    return sorted(SAMPLES.glob("*/*_outputs.csv"))


def test_the_exact_rules_agree_with_the_labels_where_they_decide():
    """The rules were made with these answers in view, so this pins them and is no estimate of their error.

    Most of these answers are long phrases, which no rule over words can know: they are left to a judge.
    """
    found = Counter()
    for path in files():
        for row in read_rows(path, "evaluation"):
            found[row.label, exact_grade(row).grade] += 1
    assert found.total() == 160
    assert found["correct", "correct"] == 17
    assert found["incorrect", "incorrect"] == 1
    assert found["correct", "incorrect"] + found["incorrect", "correct"] == 0
    assert found["incorrect", "refusal"] == 3
    assert found["correct", "unclear"] + found["incorrect", "unclear"] == 139  # undecided: never wrong


def test_our_formulation_of_the_papers_rule_flags_what_theirs_flags():
    theirs, ours, strict = [], [], 0
    for path in files():
        for _, row in read_csv(path):
            found = refusals(row["output"])
            theirs.append(row["refusal"] == "1")
            ours.append(found["paper"])
            strict += found["strict"]
    assert ours == theirs
    assert sum(theirs) == 2
    assert strict == 3  # one has a typographic apostrophe
