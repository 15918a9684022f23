"""A run over published question sets, from their files to the report's page."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from fakes import FakeEngine
from structure import structure

from warmeng.common.progress import Silent
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[4] / "shared" / "data" / "tasks"
FILES = ("TruthfulQA.csv", "medqa_us_test.jsonl", "popqa_dev.jsonl")
GOLDEN = Path(__file__).parent / "golden_report.txt"
BELIEFS = ("none", "wrong", "doubt", "right")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with eight questions of each file, in six of the grid's 36 cells each, by the small engine."""
    if not all((DATA / name).exists() for name in FILES):
        pytest.skip("the published question sets are not here")
    settings = StudySettings(
        personas=("original", "warm-prompt", "cold-prompt"),
        tasks=tuple(str(DATA / name) for name in FILES),
        limit=8,
        contexts=("all",),
        beliefs=BELIEFS,
        cells=6,
    )
    folder = tmp_path_factory.mktemp("real") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warmeng.study.run.run.load_engine", lambda settings: FakeEngine())
        assert run_study(settings, folder, Silent(), "again").exit_code == 0
    return folder


def test_every_cell_is_answered_by_every_persona(run_folder: Path) -> None:
    every = [json.loads(line) for line in (run_folder / "records.jsonl").read_bytes().splitlines()]
    rows = [r for r in every if r["kind"] != "margin"]
    assert len(rows) == 3 * 8 * 6 * 3
    assert {r["task"] for r in every if r["kind"] == "margin"} == {"popqa"}
    places = Counter((r["task"], r["item"], r["context"], r["belief"]) for r in rows)
    assert set(places.values()) == {3}
    asked = {(r["task"], r["item"]) for r in rows}
    assert len(asked) == 24
    for task, item in asked:
        assert places[task, item, "unmodified", "none"] == 3
    for task, item, context, belief in places:
        if belief != "none":
            assert (task, item, context, "none") in places, "a claim has its partner without one"
    kinds = Counter((r["task"], r["kind"]) for r in rows)
    assert set(kinds) == {("truthfulqa", "score"), ("medqa", "score"), ("popqa", "answer")}


def test_wrong_answers_are_kept_and_marked(run_folder: Path) -> None:
    items = [json.loads(line) for line in (run_folder / "items.jsonl").read_bytes().splitlines()]
    marked = [i for i in items if i["task"] == "popqa"]
    assert len(marked) == 8
    for item in marked:
        assert set(item["marks"]) & {"wrong answer generated", "wrong answer borrowed"}
        assert item["wrong"]
    assert not any(i["marks"] for i in items if i["task"] == "truthfulqa")


def test_the_report_has_the_golden_structure(run_folder: Path) -> None:
    found = structure((run_folder / "report.html").read_text())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text("\n".join(found) + "\n")
    assert found == GOLDEN.read_text().splitlines()


def test_the_analysis_accounts_for_every_answer(run_folder: Path) -> None:
    analysis = json.loads((run_folder / "analysis.json").read_text())
    assert analysis["planned"] == sum(analysis["statuses"].values()) == 432
    rows = analysis["tables"]["error_rates"]["rows"]
    whole = [r for r in rows if (r["task"], r["context"], r["belief"]) == ("all", "all", "all")]
    grades = ("correct", "incorrect", "refusal", "unclear", "unscored")
    assert sum(r[g] for r in whole for g in grades) == 432
    assert all(r["n"] == r["correct"] + r["incorrect"] for r in whole)
