"""A run on quantised weights tells what they change, beside one in full precision; or what would tell it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine, Heard

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.request import GenerateRequest
from warmeng.engine.scheme import CHECKPOINT
from warmeng.study.plan import Study
from warmeng.study.report.page import write_report
from warmeng.study.results.labels import FILE as LABELS
from warmeng.study.results.manifest import require_manifest
from warmeng.study.run.audit import tables_again
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings
from warmeng.study.stats.fidelity import FILE, read_fidelity

FULL = StudySettings(
    personas=("original", "warm-prompt"), tasks=("facts",), contexts=("unmodified",),
    beliefs=("none", "wrong", "right"), limit=6, warmth_prompts=0,
)  # fmt: skip
INT4 = replace(FULL, weights="int4")
ABOUT = {"kind": "int4", "scheme": "int4, groups of 128", "group": 128, "by": "warmeng, at load"}
MISSING = "run the same command with --weights auto and --out FULL, then this one again with --fidelity FULL"


def go(folder: Path, settings: StudySettings, full: Path | None = None, heard: Heard | None = None) -> Any:
    return run_study(settings, folder, heard or Heard(), "warmeng run", full=full)


@pytest.fixture
def full(fake: Any, tmp_path: Path) -> Path:
    """A run in full precision, in which the first question is answered wrong."""
    fake.answer = answering(1)
    assert go(tmp_path / "full", FULL).exit_code == 0
    return tmp_path / "full"


@pytest.fixture
def int4(full: Path, fake: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where a run on weights of int4 goes. On these another question is answered wrong, and every log-probability is
    twice what it was, so every margin is.
    """
    fake.answer = answering(2)
    quantise(fake, monkeypatch)
    return tmp_path / "int4"


def answering(wrong: int) -> Any:
    """Return what answers the first questions wrong, and others right."""
    items = Study.load(FULL).tasks[0].items

    def answer(prompt: str, request: GenerateRequest) -> str:
        (k,) = (k for k, item in enumerate(items) if item.question in prompt)
        return items[k].wrong if k < wrong else items[k].answer

    return answer


def place(row: Any) -> bool:
    """Whether a row is about everything together."""
    return (row["task"], row["context"], row["belief"]) == ("all", "all", "all")


def quantise(fake: Any, monkeypatch: pytest.MonkeyPatch, **about: str) -> None:
    described, before = {**fake.describe(), "quantization": {**ABOUT, **about}}, fake.prefers
    monkeypatch.setattr(fake, "describe", lambda: described)
    monkeypatch.setattr(fake, "prefers", lambda prompt, label: 2 * before(prompt, label))


def test_results_and_report_tell_what_precision_changes(full: Path, int4: Path) -> None:
    outcome = go(int4, INT4, full)
    assert outcome.exit_code == 0
    tables = outcome.results["tables"]
    answers = {row["persona"]: row for row in tables["run_answers"]["rows"] if place(row)}
    whole = answers["original"]
    # Of 6 questions under 3 beliefs.
    assert (whole["n"], whole["changed"], whole["b"], whole["c"]) == (18, pytest.approx(3 / 18), 3, 0)
    assert [(row["persona"], row["value"]) for row in tables["run_contrasts"]["rows"] if place(row)] == [
        ("warm-prompt", 0.0)
    ]
    before = json.loads((full / "results.json").read_bytes())["tables"]["susceptibility"]["rows"]
    for persona in ("original", "warm-prompt"):
        (was,) = {
            row["value"] for row in before if row["persona"] == persona and row["measure"] == "susceptibility"
            and row["task"] == "all"
        }  # fmt: skip
        (shift,) = [
            row for row in tables["run_margins"]["rows"]
            if row["persona"] == persona and row["against"] == "" and row["outcome"] == "susceptibility (open)"
        ]  # fmt: skip
        assert shift["value"] == pytest.approx(was)
        assert shift["low"] < was < shift["high"]
    told = (int4 / "results.md").read_text()
    assert MISSING not in told
    assert "### Answers in two runs" in told
    assert "### Personas in two runs" in told
    assert "### Margins in two runs" in told
    assert "- Beside full precision: First: no quantisation, products in float32" in told
    assert "- Beside full precision: original: 16.7% of the answers have another grade" in told
    page = write_report(int4).read_text()
    assert 'id="table-run-margins"' in page
    assert "what that changes is in the tables of two runs" in page
    assert "16.7% of the answers have another grade" in page
    audited = list(tables_again(int4, require_manifest(int4), Study.load(INT4)))
    assert not [line for line in audited if line.startswith("results.json")]


def test_without_a_run_in_full_precision_its_absence_is_told_with_what_makes_it(full: Path, int4: Path) -> None:
    assert go(int4, INT4).exit_code == 0
    assert MISSING in (int4 / "results.md").read_text()
    assert MISSING in write_report(int4).read_text()
    # The same command again with the run, as told, which asks nothing.
    assert go(int4, INT4, full).exit_code == 0
    assert MISSING not in (int4 / "results.md").read_text()
    assert "quantised" not in (full / "results.md").read_text()


def test_of_a_quantised_checkpoint_the_original_is_asked_for(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantise(fake, monkeypatch, by=CHECKPOINT)
    go(tmp_path / "r", FULL)
    assert "with the original as --model and --out FULL" in (tmp_path / "r" / "results.md").read_text()


def test_a_comparison_is_of_the_records_that_are_there(full: Path, int4: Path) -> None:
    go(int4, INT4, full)
    assert read_fidelity(int4) is not None
    (int4 / LABELS).write_text("{}")
    assert read_fidelity(int4) is None
    (int4 / FILE).write_text("{}")
    with pytest.raises(InputError, match="is no comparison of this version: make it again with --fidelity"):
        read_fidelity(int4)


def test_what_is_no_run_of_the_same_in_full_precision_is_refused_before_anything_is_asked(
    fake: Any, full: Path, int4: Path, tmp_path: Path
) -> None:
    fake.asked.clear()
    for first, settings, said in (
        (full, replace(INT4, temperature=0.7), "the setting temperature of .* is not that of"),
        (full, replace(INT4, limit=5), "items of .* is not that of|the setting limit of"),
        (int4, INT4, "is the run's own folder"),
        (tmp_path / "none", INT4, "none"),
    ):
        with pytest.raises((UsageError, InputError), match=said):
            go(int4, settings, first)
    assert not fake.asked
    fake.describe = FakeEngine().describe
    with pytest.raises(UsageError, match="are in one precision"):
        go(int4, FULL, full)
    assert not (int4 / "records.jsonl").exists()
