"""Grades that people give in place of the rules': everything is computed again with them, and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from records_folder import answer, run_folder

from warmeng.common.errors import InputError
from warmeng.study.report.outcome import gates
from warmeng.study.report.page import load_run
from warmeng.study.results.overruled import FILE
from warmeng.study.results.read import read_run
from warmeng.study.results.tied import mismatches
from warmeng.study.stats.analyze import analyze_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten answers of two personas, all correct by the rules."""
    records = [
        answer(10 * n + k + 1, who, f"q{k}", "correct") for n, who in enumerate(("original", "warm")) for k in range(5)
    ]
    return run_folder(tmp_path / "r", records)


def overrule(folder: Path, *rows: str, header: str = "key,grade,which,who,why") -> None:
    (folder / FILE).write_text("\n".join([header, *rows]) + "\n")


def errors(folder: Path) -> dict[str, float]:
    rows = analyze_run(folder, bootstrap=0)["tables"]["error_rates"]["rows"]
    return {r["persona"]: r["error"] for r in rows if r["task"] == r["context"] == r["belief"] == "all"}


def test_everything_is_computed_again_with_the_grades_by_hand(folder: Path) -> None:
    assert errors(folder) == {"original": 0.0, "warm": 0.0}
    before = json.loads((folder / "analysis.json").read_bytes())
    overrule(folder, f"{11:032x},incorrect,user,Anna,it names the claimed city", f"{12:032x},refusal,,Ben,it declines")
    assert mismatches(before, folder) == ["The analysis was made of another overruled.csv than the run has now."]
    assert errors(folder) == {"original": 0.0, "warm": 0.25}
    _, info = read_run(folder)
    assert info.overruled == {"Anna": 1, "Ben": 1}
    assert info.reasons == {
        "incorrect: overruled by Anna: it names the claimed city": 1, "refusal: overruled by Ben: it declines": 1
    }  # fmt: skip
    run = load_run(folder)
    (gate,) = [gate for gate in gates(run.manifest, run.survey) if gate.name == "Grades by hand"]
    assert gate.text == "2 grades were given by hand (Anna 1, Ben 1): overruled.csv says why."
    (folder / FILE).unlink()
    assert errors(folder) == {"original": 0.0, "warm": 0.0}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["{key},incorrect,,,no"], ":2: who is empty"),
        (["{key},incorrect,,Anna,"], ":2: why is empty"),
        (["{key},wrong,,Anna,no"], ":2: grade is 'wrong', expected one of correct, incorrect"),
        (["{key},correct,user,Anna,no"], ":2: which is 'user', expected user or other, of incorrect ones"),
        (["{key},correct,,Anna,no", "{key},correct,,Ben,yes"], ":3: key .* is there twice"),
        ([f"{99:032x},correct,,Anna,no"], ":2: no answer of the run has the key"),
    ],
)
def test_what_is_no_grade_by_hand_is_refused_with_its_line(folder: Path, rows: list[str], says: str) -> None:
    overrule(folder, *(row.format(key=f"{11:032x}") for row in rows))
    with pytest.raises(InputError, match=rf"overruled\.csv{says}") as refused:
        read_run(folder)
    assert len(str(refused.value).removeprefix(str(folder))) <= 200


def test_an_unknown_column_is_refused(folder: Path) -> None:
    overrule(folder, f"{11:032x},correct,Anna,no,x", header="key,grade,who,why,note")
    with pytest.raises(InputError, match="has the column 'note', expected key, grade, who, why, which"):
        read_run(folder)
    shutil.rmtree(folder)
