"""A run continues only as what it was: whatever changed is refused by name, and the folder stays as it is."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from studies import RECORDS, lines, one_line, snapshot, write_quiz


@dataclass
class Study:
    """A study whose every part can be changed: its files, its command line, and what the engine says of itself."""

    root: Path
    options: dict[str, str] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.items, self.prompt, self.statements = (self.root / n for n in ("quiz.jsonl", "kind.txt", "said.yaml"))
        self.adapter = self.root / "adapter"
        write_quiz(self.items, 3)
        self.prompt.write_text("Be kind.")
        self.statements.write_text("emotion:sad:\n  - I am so sad.\n")
        self.adapter.mkdir()
        (self.adapter / "adapter_model.safetensors").write_bytes(b"one")

    def command(self, folder):
        options = {"--judge": "other", "--seed": "0", **self.options}
        given = [part for name, value in options.items() for part in (name, value)]
        return ["run", "--persona", "original", "--persona", f"x={self.adapter}@{self.prompt}", "--tasks", self.items,
                "--contexts", "unmodified,emotion:sad", "--statements", self.statements, "--warmth-prompts", "0",
                "--limit", "0", *given, "--out", folder]  # fmt: skip

    def run(self, launcher, folder):
        return launcher.run(self.command(folder), changes=self.engine)


@pytest.fixture(scope="module")
def begun(launcher, tmp_path_factory):
    """A study, and its run that was stopped in the middle of a record, also by a judge."""
    from injecting import Plan

    root = tmp_path_factory.mktemp("begun")
    made = Study(root)
    plan = Plan(str(root / "r"), kinds=("write",), names=(RECORDS,), at=20, kill="middle")
    assert launcher.run(made.command(root / "r"), plan).code == -9
    assert made.run(launcher, root / "whole").code == 0
    return made


def write(name: str, text: str) -> Callable[[Study], None]:
    return lambda study: (study.root / name).write_text(text)


def option(name: str, value: str) -> Callable[[Study], None]:
    return lambda study: study.options.update({name: value})


def says(name: str, value: Any) -> Callable[[Study], None]:
    return lambda study: study.engine.update({name: value})


def other_answer(study: Study) -> None:
    rows = [json.loads(line) for line in study.items.read_text().splitlines()]
    rows[1]["answer"] = "Somebody"
    study.items.write_text("".join(json.dumps(row) + "\n" for row in rows))


CHANGES: dict[str, tuple[Callable[[Study], Any], str]] = {
    "weights": (says("weights", "x" * 64), "model weights"),
    "numerics version": (says("numerics", 2), "model numerics 1, now it is 2"),
    "dtype": (says("dtype", "bfloat16"), 'model dtype "float32", now it is "bfloat16"'),
    "device": (says("device", "cuda"), 'model device "cpu"'),
    "machine": (says("machine", "another"), "model machine"),
    "fast": (says("deterministic", False), "model deterministic true, now it is false"),
    "torch": (says("versions", {"torch": "9"}), 'model torch "0", now it is "9"'),
    "template": (says("template", "v" * 64), "template"),
    "tokenizer": (says("tokenizer", "v" * 64), "tokenizer sha256"),
    "tokenizer's library": (says("versions", {"torch": "0", "tokenizers": "9"}), "tokenizer library absent"),
    "processor's instructions": (says("instructions", "AVX2"), 'processor instructions "any", now it is "AVX2"'),
    "processor's bits": (says("bits", "c" * 64), "processor bits bbbbbbbbbbbb, now it is cccccccccccc"),
    "adapter": (write("adapter/adapter_model.safetensors", "two"), "adapter x"),
    "item": (other_answer, "items quiz"),
    "system prompt": (write("kind.txt", "Be kinder."), "system prompt x"),
    "statement": (write("said.yaml", "emotion:sad:\n  - I am very sad.\n"), "statements emotion:sad"),
    "seed": (option("--seed", "1"), "setting seed 0, now it is 1"),
    "temperature": (option("--temperature", "0.5"), "setting temperature 0.8, now it is 0.5"),
    "top-p": (option("--top-p", "0.9"), "setting top_p"),
    "length": (option("--max-new-tokens", "9"), "setting max_new_tokens"),
    "beliefs": (option("--beliefs", "none"), "setting beliefs"),
    "composition": (option("--composition", "paper"), "setting composition"),
    "samples": (option("--samples", "2"), "setting samples"),
    "model's name": (option("--model", "another"), "setting model"),
    "judge": (option("--judge", "base"), 'setting judges ["other"], now it is ["base"]'),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_refused_by_name_and_the_folder_stays_as_it_is(begun, launcher, tmp_path, what):
    change, named = CHANGES[what]
    shutil.copytree(begun.root / "r", tmp_path / "r")
    (tmp_path / "r" / "run.lock").unlink()  # of the process that was killed: whoever comes next removes it
    before = snapshot(tmp_path / "r")
    kept = {path: path.read_bytes() for path in begun.root.rglob("*") if path.is_file()}
    mine = copy.deepcopy(begun)  # of the same files: settings hold their paths
    try:
        change(mine)
        ended = mine.run(launcher, tmp_path / "r")
    finally:
        for path, data in kept.items():
            path.write_bytes(data)
    assert ended.code == 65, ended.err
    line = one_line(ended.err)
    assert f"this run was made with {named}" in line
    assert "use the old one, or choose another --out" in line
    assert snapshot(tmp_path / "r") == before


def test_a_changed_judge_model_is_refused_when_it_comes_to_judge(begun, launcher, tmp_path):
    """Judges are models of their own, loaded late: what was answered until then is kept, and the change is named."""
    shutil.copytree(begun.root / "r", tmp_path / "r")
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    manifest["inputs"]["judges"]["other"]["weights"] = "z" * 64
    (tmp_path / "r" / "manifest.json").write_text(json.dumps(manifest))
    ended = begun.run(launcher, tmp_path / "r")
    assert ended.code == 65
    assert "prompts or grading rules" in one_line(ended.err) or "judges other weights" in one_line(ended.err)


def test_unchanged_it_continues_to_the_same_records(begun, launcher, tally, tmp_path):
    shutil.copytree(begun.root / "r", tmp_path / "r")
    ended = begun.run(launcher, tmp_path / "r")
    assert ended.code == 0, ended.err
    tally.count(tmp_path / "r", lines(begun.root / "whole"))


def test_a_finished_run_ends_well_without_loading_a_model(begun, launcher):
    folder = begun.root / "whole"
    before = snapshot(folder)
    begun.engine["no_model"] = True
    try:
        ended = begun.run(launcher, folder)
        other = begun.run(launcher, begun.root / "new")
    finally:
        del begun.engine["no_model"]
    assert ended.code == 0, ended.err
    assert "this run is finished; its tables again" in ended.err
    assert "Error rates" in ended.out
    assert snapshot(folder) == before
    assert other.code == 70, "loading was not made impossible"
    assert not (begun.root / "new").exists(), "a run that came to nothing leaves no folder"


def test_answers_that_never_come_are_a_failure(launcher, tmp_path):
    """Planned is the sum of all statuses, or the exit code says that it is not."""
    made = Study(tmp_path)
    made.engine["loses"] = 5
    ended = made.run(launcher, tmp_path / "r")
    assert ended.code not in (0, 130)
    del made.engine["loses"]
    assert made.run(launcher, tmp_path / "r").code == 0
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    assert results["run"]["planned"] == sum(results["grades"].values())
    assert results["run"]["missing"] == 0


def test_tables_of_a_run_that_lacks_answers_end_with_a_failure(launcher, tmp_path, monkeypatch):
    """Whatever else went wrong: the count at the end sees it."""
    from fakes import FakeEngine

    from warmeng.common.progress import Silent
    from warmeng.study.plan import Study as Plan
    from warmeng.study.results.manifest import read_manifest
    from warmeng.study.run.finish import UNBALANCED, finish
    from warmeng.study.run.run import run_study
    from warmeng.study.settings import StudySettings

    monkeypatch.setattr("warmeng.study.run.run.load_engine", lambda settings: FakeEngine())
    monkeypatch.setattr("warmeng.study.run.finish.conclude", lambda *given: True)
    asked = {"contexts": ("unmodified", "emotion:sad"), "beliefs": ("none", "wrong"), "asking": ("open",)}
    settings = StudySettings(personas=("original",), tasks=("facts",), limit=2, warmth_prompts=0, **asked)
    run_study(settings, tmp_path / "r", Silent(), "again")
    path = tmp_path / "r" / RECORDS
    whole = lines(tmp_path / "r")
    gone = next(line for line in whole if b'"kind":"answer"' in line)
    path.write_bytes(b"".join(line for line in whole if line != gone))
    said = []
    progress = Silent()
    progress.message = said.append
    outcome = finish(Plan.load(settings), tmp_path / "r", read_manifest(tmp_path / "r"), progress, "warmeng run")
    assert outcome.exit_code == UNBALANCED != 0
    assert any(
        "1 of 8 answers, 0 judgments and 0 scores beside them are missing: get them with: warmeng run" in line
        for line in said
    )
