"""A run takes over what an earlier one asked too: it ends as if it had asked everything, and asks only what is new."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine, Heard, knowing_judge

from warmeng.common.errors import InputError, UsageError
from warmeng.study.results.records import FILE
from warmeng.study.run.run import Outcome, run_study
from warmeng.study.settings import StudySettings

SMALL = StudySettings(
    personas=("original", "warm-prompt"),
    tasks=("facts", "health"),
    contexts=("unmodified",),
    beliefs=("none", "wrong"),
    limit=2,
    warmth_prompts=0,
)
# What grows: each is a run of its own, the earlier one a part of it.
GROWN: dict[str, dict[str, Any]] = {
    "a persona": {"personas": ("original", "warm-prompt", "cold-prompt")},
    "a belief": {"beliefs": ("none", "wrong", "right")},
    "a context": {"contexts": ("unmodified", "emotion:sad")},
    "items": {"limit": 4},
    "a task": {"tasks": ("facts", "health", "misconceptions")},
    "samples": {"samples": 2},
    "a judge": {"judges": ("a-judge",)},
    "another way of asking": {"asking": ("open", "choice")},
    "nothing": {},
}


def go(folder: Path, settings: StudySettings, reuse: tuple[Path, ...] = (), heard: Heard | None = None) -> Outcome:
    return run_study(settings, folder, heard or Heard(), "warmeng run", reuse)


def content(folder: Path) -> list[bytes]:
    return sorted((folder / FILE).read_bytes().splitlines())


@pytest.mark.parametrize("what", GROWN)
def test_a_grown_run_is_the_run_that_asked_everything(fake: Any, tmp_path: Path, what: str) -> None:
    fake.models["a-judge"] = FakeEngine(prefers=knowing_judge())
    grown = dataclasses.replace(SMALL, **GROWN[what])
    go(tmp_path / "first", SMALL)
    go(tmp_path / "whole", grown)
    fake.asked.clear()
    heard = Heard()
    assert go(tmp_path / "grown", grown, (tmp_path / "first",), heard).exit_code == 0
    assert content(tmp_path / "grown") == content(tmp_path / "whole")
    earlier, all_ = content(tmp_path / "first"), content(tmp_path / "whole")
    shared = len(set(earlier) & set(all_))
    assert shared == len(earlier)
    assert f"{shared} of {len(all_)} records are taken over from {tmp_path / 'first'}" in " ".join(heard.lines)
    judged = sum(b'"judged"' in line for line in all_)
    assert len(fake.asked) == len(all_) - shared - judged
    assert json.loads((tmp_path / "grown" / "manifest.json").read_text())["facts"]["reused"] == [
        str(tmp_path / "first")
    ]
    # Without the earlier run, the same command prints it again.
    assert go(tmp_path / "grown", grown).exit_code == 0


def test_two_earlier_runs_one_of_them_unfinished(fake: Any, tmp_path: Path) -> None:
    whole = dataclasses.replace(SMALL, personas=("original", "warm-prompt", "cold-prompt"))
    go(tmp_path / "whole", whole)
    go(tmp_path / "a", SMALL, heard=Heard(stop_after=5))
    fake.queue.clear()
    go(tmp_path / "b", dataclasses.replace(SMALL, personas=("original", "cold-prompt")))
    fake.asked.clear()
    outcome = go(tmp_path / "grown", whole, (tmp_path / "a", tmp_path / "b"), stopped := Heard(stop_after=1))
    assert outcome.exit_code == 130
    fake.queue.clear()
    assert go(tmp_path / "grown", whole, (tmp_path / "a", tmp_path / "b")).exit_code == 0
    assert content(tmp_path / "grown") == content(tmp_path / "whole")
    told = " ".join(stopped.lines)
    assert "records are taken over from" in told


def test_what_another_machine_or_model_made_is_refused_by_name(fake: Any, tmp_path: Path) -> None:
    go(tmp_path / "first", SMALL)
    grown = dataclasses.replace(SMALL, limit=3)

    def refused(words: str) -> None:
        with pytest.raises(InputError, match=words):
            go(tmp_path / "grown", grown, (tmp_path / "first",))
        assert not (tmp_path / "grown" / "manifest.json").exists()

    for name, value, words in (
        ("weights", "x" * 64, "model weights"),
        ("processor", lambda: {"instructions": "other", "bits": "b" * 64}, "processor instructions"),
    ):
        before = getattr(fake, name)
        setattr(fake, name, value)
        refused(words)
        setattr(fake, name, before)
    fake.tokenizer.template_hash = "v" * 64
    refused("template")
    fake.tokenizer.template_hash = "t" * 64
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    (tmp_path / "first" / "manifest.json").write_text(json.dumps(manifest | {"planned": 1}))
    refused("is not what it was when the run was made")
    with pytest.raises(InputError, match="is no run folder"):
        go(tmp_path / "grown", grown, (tmp_path / "nowhere",))
    with pytest.raises(UsageError, match="is the run's own folder"):
        go(tmp_path / "own", grown, (tmp_path / "own",))


def test_answers_of_other_prompts_are_not_taken(fake: Any, tmp_path: Path) -> None:
    prompt = tmp_path / "p.txt"
    prompt.write_text("Be nice.")
    settings = dataclasses.replace(SMALL, personas=("original", f"x=@{prompt}"))
    go(tmp_path / "first", settings)
    prompt.write_text("Be kind.")
    heard = Heard()
    go(tmp_path / "grown", settings, (tmp_path / "first",), heard)
    half = len(content(tmp_path / "first")) // 2
    assert f"{half} of {2 * half} records are taken over" in " ".join(heard.lines)
    go(tmp_path / "whole", settings)
    assert content(tmp_path / "grown") == content(tmp_path / "whole")
