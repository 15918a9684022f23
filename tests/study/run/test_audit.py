"""Auditing a run: what it compares, and that one changed thing is found by place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fakes import FakeEngine

from warmeng.cli.audit import audit as command
from warmeng.cli.main import warmeng
from warmeng.common.errors import InputError, UsageError
from warmeng.common.journal import encode
from warmeng.common.progress import Silent
from warmeng.study.results.records import FILE, read_records
from warmeng.study.run.audit import SAMPLE, audit
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings
from warmeng.study.stats.analyze import analyze_run

SMALL = StudySettings(personas=("original", "warm-prompt"), tasks=("facts",), limit=3, warmth_prompts=0)
ALL = 10_000


@pytest.fixture
def run(fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run with its analysis, by the small engine, which audits meet too."""
    folder = tmp_path / "r"
    run_study(SMALL, folder, Silent())
    analyze_run(folder, bootstrap=50)
    monkeypatch.setattr("warmeng.study.run.audit.load_engine", lambda settings: fake)
    return folder


def change_record(folder: Path, change: Callable[[dict[str, Any]], None], which: int | None = None) -> str:
    """Change one record, the first written answer's unless told, and write all lines with their checksums.

    Return its key.
    """
    records = list(read_records(folder / FILE))
    if which is None:
        which = next(k for k, record in enumerate(records) if record["kind"] == "answer")
    change(records[which])
    lines = [encode({name: value for name, value in record.items() if name != "crc32"}) for record in records]
    (folder / FILE).write_bytes(b"".join(lines))
    return str(records[which]["key"])


EVERYTHING = ("none", "wrong", "right", "doubt", "mention-wrong", "mention-right", "friend-wrong", "friend-right",
              "deny-wrong", "unrelated")  # fmt: skip


def test_controls_and_choices_are_made_again_like_answers(fake: FakeEngine, tmp_path: Path, monkeypatch) -> None:
    """Each control belief and both orders of the choice: a changed score is found wherever it is."""
    settings = replace(SMALL, contexts=("unmodified",), beliefs=EVERYTHING, asking=("open", "choice"), limit=1)
    run_study(settings, tmp_path / "r", Silent())
    analyze_run(tmp_path / "r", bootstrap=0)
    monkeypatch.setattr("warmeng.study.run.audit.load_engine", lambda settings: fake)
    records = list(read_records(tmp_path / "r" / FILE))
    found = audit(tmp_path / "r", ALL, Silent())
    assert found.differences == ()
    # Two personas; an answer, its margin and two orders.
    assert found.of == len(records) == 2 * len(EVERYTHING) * 4

    def change(record: dict[str, Any]) -> None:
        record["margin"]["right"]["own"] -= 1e-9

    for belief, order in (("mention-right", "right-first"), ("deny-wrong", "wrong-first")):
        folder = Path(shutil.copytree(tmp_path / "r", tmp_path / belief))
        which = next(k for k, r in enumerate(records) if (r["belief"], r.get("order")) == (belief, order))
        key = change_record(folder, change, which)
        lines = [line for line in audit(folder, ALL, Silent()).differences if line.startswith(FILE)]
        assert len(lines) == 1
        assert key[:12] in lines[0]
        assert "margin.right.own" in lines[0]


def test_a_run_that_is_what_it_says(run: Path, fake: FakeEngine) -> None:
    fake.asked.clear()
    found = audit(run, ALL, Silent())
    assert found.differences == ()
    assert found.answers == found.of == len(fake.asked) > 20
    assert found.most_differing == 0
    assert len(found.compared) == 4
    fake.asked.clear()
    part = audit(run, 10, Silent())
    assert part.differences == ()
    assert len(fake.asked) == 10
    assert part.most_differing == pytest.approx(1 - 0.01**0.1)
    # The command's default is this one.
    assert next(p.default for p in command.params if p.name == "sample") == SAMPLE
    assert 1 - 0.01 ** (1 / SAMPLE) < 0.01 < 1 - 0.01 ** (1 / (SAMPLE - 1))
    fake.asked.clear()
    done = CliRunner().invoke(warmeng, ["audit", str(run), "--sample", "0"])
    assert done.exit_code == 0, done.output
    assert "nothing differs: no answer was made again" in done.output
    assert not fake.asked


def test_samples_are_others_each_time_unless_a_seed_is_given(run: Path, fake: FakeEngine) -> None:
    def drawn(seed: int | None) -> set[str]:
        fake.asked.clear()
        audit(run, 6, Silent(), seed)
        return {request.id for request in fake.asked}

    assert drawn(3) == drawn(3)
    assert len({frozenset(drawn(None)) for _ in range(4)}) > 1


def test_one_changed_answer_is_found(run: Path) -> None:
    key = change_record(run, lambda record: record.update(text=record["text"] + " Indeed."))
    found = audit(run, ALL, Silent())
    assert any(f"key {key[:12]}.text: is " in line for line in found.differences), found.differences
    assert any("analysis.json: The analysis was made of another records.jsonl" in line for line in found.differences)
    done = CliRunner().invoke(warmeng, ["audit", str(run), "--sample", str(ALL)], standalone_mode=False)
    assert done.return_value == 1
    assert f"key {key[:12]}.text" in done.output


def test_one_changed_grade_is_found_in_the_tables_without_a_model(run: Path, fake: FakeEngine) -> None:
    fake.asked.clear()

    def flip(record: dict[str, Any]) -> None:
        record["grade"] = "incorrect" if record["grade"] == "correct" else "correct"

    change_record(run, flip)
    differences = audit(run, 0, Silent()).differences
    assert any(line.startswith("results.json: tables.error_rates") for line in differences)
    assert any(line.startswith("analysis.json: tables.") for line in differences)
    assert not fake.asked


@pytest.mark.parametrize("name", ["results.json", "analysis.json"])
def test_one_changed_cell_is_found(run: Path, name: str) -> None:
    whole = json.loads((run / name).read_text())
    whole["tables"]["error_rates"]["rows"][0]["n"] += 1
    (run / name).write_text(json.dumps(whole))
    differences = audit(run, 0, Silent()).differences
    assert any(f"{name}: tables.error_rates.rows[0].n: is " in line for line in differences)


def test_other_weights_prompts_and_files_are_refused_by_name(run: Path, fake: FakeEngine, tmp_path: Path) -> None:
    fake.weights = "x" * 64
    with pytest.raises(InputError, match="weights"):
        audit(run, 5, Silent())
    fake.weights = "w" * 64
    template = fake.tokenizer.template_hash
    fake.tokenizer.template_hash = "u" * 64
    with pytest.raises(InputError, match="template"):
        audit(run, 5, Silent())
    fake.tokenizer.template_hash = template
    edited = Path(shutil.copytree(run, tmp_path / "edited"))
    (edited / "manifest.json").write_text((edited / "manifest.json").read_text().replace('"limit": 3', '"limit": 4'))
    with pytest.raises(InputError):
        audit(edited, 0, Silent())
    short = Path(shutil.copytree(run, tmp_path / "short"))
    lines = (short / FILE).read_bytes().splitlines(keepends=True)
    (short / FILE).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UsageError, match="expected a finished run"):
        audit(short, 0, Silent())
    with pytest.raises(InputError):
        audit(tmp_path / "nothing", 0, Silent())


def test_one_of_many_is_met_as_often_as_the_sample_promises(
    run: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., int]
) -> None:
    """Every answer has the same chance to be made again: sample over all."""
    met: list[set[str]] = []
    module = "warmeng.study.run.audit"
    monkeypatch.setattr(f"{module}.tables_again", lambda *given: [])
    monkeypatch.setattr(f"{module}.answers_again", lambda *given: met.append(set(given[3])) or [])
    monkeypatch.setattr(f"{module}.refuse_untied", lambda *given: None)
    trials, sample = count(100, 1000), 12
    whole = audit(run, ALL, Silent()).of
    (keys,) = met
    met.clear()
    for seed in range(trials):
        audit(run, sample, Silent(), seed)
    share = sample / whole
    most = 5 * (trials * share * (1 - share)) ** 0.5
    for key in sorted(keys)[::7]:
        assert abs(sum(key in drawn for drawn in met) - trials * share) < most
