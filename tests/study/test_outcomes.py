"""The outcome that a run is about: named by a fixed rule or by hand, before anything is asked."""

import dataclasses

import pytest

from warmeng.common.errors import UsageError
from warmeng.study.outcomes import primary_outcome
from warmeng.study.plan import Study
from warmeng.study.settings import StudySettings

CONTROLLED = ("none", "wrong", "right", "mention-wrong", "mention-right")
SMALL = StudySettings(
    personas=("original",), tasks=("health",), contexts=("unmodified",), limit=2, beliefs=CONTROLLED,
    asking=("open", "choice"), warmth_prompts=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("beliefs", "asking", "named", "expected"),
    [
        (CONTROLLED, ("open", "choice"), None, "agreement (choice)"),
        (CONTROLLED, ("open",), None, "agreement (open)"),
        (("none", "wrong", "right"), ("open",), None, "susceptibility (open)"),
        (("none",), ("open", "choice"), None, "margin (choice)"),
        (("none", "wrong"), ("open",), None, ""),
        (CONTROLLED, (), None, ""),
        (CONTROLLED, ("open", "choice"), "knowledge", "knowledge (choice)"),
        (CONTROLLED, ("open", "choice"), "agreement (open)", "agreement (open)"),
        (CONTROLLED, ("open", "choice"), "error rates", ""),
        (("none",), ("open",), "margin", "margin (open)"),
    ],
)
def test_it_is_the_named_one_or_follows_from_what_is_asked(beliefs, asking, named, expected):
    assert primary_outcome(beliefs, asking, named) == expected


@pytest.mark.parametrize(
    ("changed", "lacks"),
    [
        ({"outcome": "agreement", "beliefs": ("none", "wrong", "right")}, "the belief mention-right, "),
        ({"outcome": "margin (choice)", "asking": ("open",)}, "the asking style choice"),
        ({"outcome": "margin", "tasks": ("gsm8k.jsonl",)}, "a task that has a right and a wrong answer"),
    ],
)  # fmt: skip
def test_one_that_the_run_cannot_have_is_refused_before_anything_is_loaded(changed, lacks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gsm8k.jsonl").write_text('{"question": "What is 2 + 2?", "answer": "2 + 2 = 4\\n#### 4"}\n')
    with pytest.raises(UsageError, match=f"needs {lacks}"):
        Study.load(dataclasses.replace(SMALL, **changed))


@pytest.mark.parametrize("name", ["warmth", "agreement (closed)", "margin choice", "agreement ()", "errors", ""])
def test_one_that_there_is_not_is_refused(name):
    with pytest.raises(UsageError, match=r"no outcome is named|expected text"):
        dataclasses.replace(SMALL, outcome=name)


def test_a_run_without_margins_names_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gsm8k.jsonl").write_text('{"question": "What is 2 + 2?", "answer": "2 + 2 = 4\\n#### 4"}\n')
    assert Study.load(dataclasses.replace(SMALL, tasks=("gsm8k.jsonl",))).primary == ""
    assert Study.load(dataclasses.replace(SMALL, tasks=("gsm8k.jsonl", "health"))).primary == "agreement (choice)"


def test_naming_one_makes_it_another_study_and_naming_none_the_same_as_before():
    assert dataclasses.replace(SMALL, outcome="knowledge").digest != SMALL.digest
    assert "outcome" not in SMALL.as_dict()
