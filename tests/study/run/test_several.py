"""One study of several bases: each run is the run of that base alone, and the tables hold them all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes import FakeEngine
from studies import RECORDS, lines, write_quiz

from warmeng.cli.main import warmeng
from warmeng.common.errors import InputError, UsageError
from warmeng.common.progress import Silent
from warmeng.study.run.run import run_study
from warmeng.study.run.several import folders_of, run_several
from warmeng.study.settings import StudySettings, default_folder, load_settings, load_studies, short_name

SMALL = {"personas": ("original", "kind=@text:Be kind."), "limit": 2, "warmth_prompts": 0}


@pytest.fixture
def bases(fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[StudySettings, ...]:
    """Two studies that differ in their base alone."""
    for name in ("one", "two"):
        fake.models[f"some/{name}"] = FakeEngine(weights=name.ljust(64, "w"))
    tasks = (str(write_quiz(tmp_path / "quiz.jsonl")),)
    monkeypatch.setattr("warmeng.study.run.several.check_before", lambda study, folder: None)
    return load_studies(None, {"model": ("some/one", "some/two"), "tasks": tasks, **SMALL})


def test_short_names() -> None:
    for name, short in [
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct"), ("./base/", "base"), ("smollm2", "smollm2"),
        ("openai:gpt-4o", "gpt-4o"), ("..", ""), ("a b/c d", "c-d"), ("x/\u00e9", ""),
    ]:  # fmt: skip
        assert short_name(name) == short


def test_each_base_has_its_own_personas(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("model: [a/x, b/y]\npersonas: [original, 'warm=adapters/{model}/warm']\nseed: 3\n")
    first, second = load_studies(path, {"limit": 4})
    assert (first.model, first.personas[1], first.seed, first.limit) == ("a/x", "warm=adapters/x/warm", 3, 4)
    assert (second.model, second.personas[1]) == ("b/y", "warm=adapters/y/warm")
    (only,) = load_studies(path, {"model": ("c/z",)})
    assert only == load_settings(path, {"model": "c/z", "personas": ("original", "warm=adapters/z/warm")})
    with pytest.raises(UsageError, match="model is a/x, b/y, expected one base"):
        load_settings(path, {})
    assert default_folder((only,)) == only.default_folder
    assert default_folder((first, second)) != default_folder((second, first))


def test_folders_are_named_after_bases_and_never_shared(tmp_path: Path) -> None:
    def studies(*models: str) -> tuple[StudySettings, ...]:
        return tuple(StudySettings(model=model) for model in models)

    assert list(folders_of(studies("a/x", ".."), tmp_path)) == [tmp_path / "x", tmp_path / "model"]
    with pytest.raises(UsageError, match="a/x and b/x would both go to"):
        folders_of(studies("a/x", "b/x"), tmp_path)


def test_each_run_is_that_of_its_base_alone(bases: tuple[StudySettings, ...], tmp_path: Path) -> None:
    found = run_several(bases, tmp_path / "all", Silent())
    assert found.exit_code == 0
    for study, outcome in zip(bases, found.outcomes, strict=True):
        alone = run_study(study, tmp_path / study.model, Silent())
        assert lines(outcome.folder) == lines(alone.folder)
        assert outcome.results == alone.results
    assert found.analysis is not None
    assert found.analysis["models"] == ["one", "two"]
    assert json.loads((tmp_path / "all" / "analysis.json").read_text())["models"] == ["one", "two"]
    rows = found.analysis["tables"]["regressions"]["rows"]
    assert {row["scope"] for row in rows} >= {"all", "model: one", "model: two"}
    # The same again prints what is there; a base that was interrupted goes on.
    assert run_several(bases, tmp_path / "all", Silent()).outcomes == found.outcomes
    second = found.outcomes[1].folder
    records = (second / RECORDS).read_bytes()
    (second / RECORDS).write_bytes(records[: len(records) // 2])
    run_several(bases, tmp_path / "all", Silent())
    assert sorted(lines(second)) == sorted(records.splitlines(keepends=True))


def test_a_base_that_is_not_there_is_told_before_the_first_is_asked(tmp_path: Path, fake) -> None:
    personas = ("original", "warm=adapters/{model}/warm")
    with pytest.raises(InputError, match="adapters/one/warm"):
        run_several(load_studies(None, {"model": ("some/one", "some/two"), **SMALL, "personas": personas}), tmp_path,
                    Silent())  # fmt: skip
    missing = {"model": ("smollm2-135m-instruct", "./nowhere"), "tasks": ("facts",), **SMALL}
    with pytest.raises(InputError, match=r"no such model '\./nowhere'"):
        run_several(load_studies(None, missing), tmp_path, Silent())
    assert not fake.loads


def test_the_command(tmp_path: Path) -> None:
    common = ["run", "--model", "a/x", "--model", "b/x", "--out", str(tmp_path / "r"), "--persona", "original"]
    refused = CliRunner().invoke(warmeng, common)
    assert isinstance(refused.exception, UsageError)
    reused = CliRunner().invoke(warmeng, [*common, "--reuse", str(tmp_path)])
    assert "--reuse names a run of one base" in str(reused.exception)
