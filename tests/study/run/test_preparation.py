"""The steps before the grid: what came of them is kept, and an interrupted one asks only for the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeEngine, Heard, knowing_judge

from warmeng.common.errors import InputError
from warmeng.common.journal import read_journal
from warmeng.study.results.records import read_records
from warmeng.study.run.preparation import FILE
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings

STEPS = {"manipulation check": 2 * 3 * (1 + 8) + 2 * 2 * 2, "calibration of judge base": 160, "wrong answers": 3 * 2}


@pytest.fixture
def settings(tmp_path, fake):
    """A study with every step: two questions lack a wrong answer, the base judges, and warmth is measured."""
    fake.prefers = knowing_judge()
    rows = [{"id": f"q{k}", "question": f"What is the capital of land {k}?", "answer": f"Town{k}"} for k in range(3)]
    rows[2]["wrong"] = "Village"
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return StudySettings(
        personas=("original", "warm-prompt", "cold-prompt"), tasks=(str(tmp_path / "own.jsonl"),), judges=("base",),
        contexts=("unmodified",), asking=("open",), warmth_prompts=2,
    )  # fmt: skip


def go(folder: Path, settings: StudySettings, progress: Heard | None = None) -> int:
    return run_study(settings, folder, progress or Heard(), "warmeng run").exit_code


def interrupted(fake: FakeEngine, folder: Path, settings: StudySettings, step: str, after: int) -> None:
    """Interrupt a step; the next process has an engine with nothing to do."""
    with pytest.raises(KeyboardInterrupt):
        go(folder, settings, Heard(stop_after=after, step=step))
    fake.queue.clear()
    fake.asked.clear()


def told(folder: Path) -> tuple[object, list[dict[str, object]]]:
    """What a run's manifest holds but for the time, and its records."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["facts"]["started"]
    return manifest, sorted(read_records(folder / "records.jsonl"), key=lambda record: record["key"])


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_is_interrupted_asks_only_for_the_rest(fake, settings, tmp_path, step):
    assert go(tmp_path / "whole", settings) == 0
    before = len(fake.asked)
    interrupted(fake, tmp_path / "r", settings, step, after=1)
    kept = list(read_journal(tmp_path / "r" / FILE))
    assert sum(line["step"] == step for line in kept) == 1
    assert not (tmp_path / "r" / "manifest.json").exists()
    assert go(tmp_path / "r", settings) == 0
    assert len(fake.asked) == before - len(kept)
    assert told(tmp_path / "r") == told(tmp_path / "whole")
    steps = [line["step"] for line in read_journal(tmp_path / "r" / FILE)]
    assert {name: steps.count(name) for name in set(steps)} == STEPS


def test_a_finished_run_needs_none_of_it_again(fake, settings, tmp_path):
    assert go(tmp_path / "r", settings) == 0
    asked, content = len(fake.asked), (tmp_path / "r" / FILE).read_bytes()
    assert go(tmp_path / "r", settings) == 0
    assert (len(fake.asked), (tmp_path / "r" / FILE).read_bytes()) == (asked, content)


def test_another_models_results_are_not_taken(fake, settings, tmp_path):
    interrupted(fake, tmp_path / "r", settings, "manipulation check", after=5)
    fake.weights = "x" * 64
    assert go(tmp_path / "r", settings) == 0
    again = [line["step"] for line in read_journal(tmp_path / "r" / FILE)]
    assert len(again) == sum(STEPS.values()) + STEPS["calibration of judge base"] + STEPS["wrong answers"] + 5


def test_what_was_said_to_the_held_out_prompts_is_in_the_folder(fake, settings, tmp_path):
    assert go(tmp_path / "r", settings) == 0
    rows = [json.loads(line) for line in (tmp_path / "r" / "responses.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["original"] * 2 + ["warm-prompt"] * 2 + ["cold-prompt"] * 2
    assert all(row["prompt"] and row["response"] for row in rows)


def test_a_damaged_file_stops_with_its_line(fake, settings, tmp_path):
    interrupted(fake, tmp_path / "r", settings, "manipulation check", after=5)
    path = tmp_path / "r" / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0].replace(b'"kind":"', b'"kind":"x'), *lines[1:]]))
    with pytest.raises(InputError, match=r"preparation.jsonl:1: .* is damaged \(its checksum does not match\)"):
        go(tmp_path / "r", settings)


@pytest.mark.parametrize(("limit", "prompts"), [(0, 24), (6, 24), (5, 20), (1, 4)])
def test_a_small_limit_shortens_the_manipulation_check(limit, prompts):
    assert StudySettings(personas=("original", "warm=x"), limit=limit).warmth_prompts == prompts


def test_a_run_that_grows_takes_over_what_came_before_the_grid(fake, settings, tmp_path):
    assert go(tmp_path / "one", settings) == 0
    fake.asked.clear()
    more = replace(settings, personas=(*settings.personas, "kind=@text:Be kind."))
    assert run_study(more, tmp_path / "two", Heard(), "warmeng run", [tmp_path / "one"]).exit_code == 0
    steps = [line["step"] for line in read_journal(tmp_path / "two" / FILE)]
    # One persona more: two responses, their warmth by eight speakers, and two scores of each.
    assert steps.count("manipulation check") == STEPS["manipulation check"] + 2 + 2 * 8 + 2 * 2
    assert steps.count("calibration of judge base") == STEPS["calibration of judge base"]
    records = len(read_keys(tmp_path / "two")) - len(read_keys(tmp_path / "one"))
    assert len(fake.asked) == records + 2 + 2 * 8 + 2 * 2


def read_keys(folder: Path) -> set[str]:
    return {str(record["key"]) for record in read_records(folder / "records.jsonl")}
