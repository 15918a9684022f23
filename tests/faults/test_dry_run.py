"""A dry run refuses what the run would refuse, in one line, before it loads or writes anything."""

from __future__ import annotations

import json
import re

import pytest
from studies import one_line, snapshot, widened


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    return widened(tiny_model("llama"), tmp_path_factory.mktemp("dry") / "model")


def command(model, *more):
    return ["run", "--dry-run", "--no-probe", "--model", model, "--limit", "1", *more]


@pytest.mark.slow
def test_a_sound_one_ends_well_and_writes_nothing(model, real_launcher, tmp_path):
    ended = real_launcher.run(command(model, "--judge", "base", "--judge", "owner/name@main", "--out", tmp_path / "r"))
    assert ended.code == 0, ended.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_says_what_workers_would_take_and_where_more_help_little(model, real_launcher, tmp_path):
    fleet = ["--ray", "--workers", "3", "--out", tmp_path / "r"]
    ended = real_launcher.run(command(model, *fleet))
    assert ended.code == 0, ended.err
    assert "workers          3, on a Ray cluster that is started here" in ended.out
    ended = real_launcher.run([a for a in command(model, *fleet) if a != "--no-probe"])
    assert ended.code == 0, ended.err
    (line,) = (line for line in ended.out.splitlines() if line.startswith("with workers"))
    assert re.search(r" 3 as fast as this machine, which alone takes .*; more than about \d+ help little: ", line), line


REFUSED = {
    "device": (["--device", "abacus"], 2, "device is 'abacus'"),
    "judge": (["--judge", "/nowhere/judge"], 65, "no such model '/nowhere/judge'"),
    "judge's revision": (["--judge", "smollm2-135m-instruct@main"], 65, "leave the revision out"),
    "adapter": (["--persona", "x={root}/empty"], 65, "has no adapter_config.json"),
    "adapter's settings": (["--persona", "x={root}/odd"], 65, "adapter_config.json"),
    "folder": (["--out", "{root}/other"], 65, "holds 'thesis.doc' and is no run folder"),
    "file": (["--out", "{root}/other/thesis.doc"], 65, "is not a folder"),
    "another run": (["--out", "{root}/run"], 65, "this run was made with setting"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_run_that_would_be_refused_is_refused(model, real_launcher, tmp_path, what):
    options, code, says = REFUSED[what]
    for name in ("empty", "odd", "other", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "odd" / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    (tmp_path / "other" / "thesis.doc").write_text("")
    manifest = {"format": 1, "planned": 1, "facts": {}, "inputs": {"setting": {"seed": 1}}}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    before = snapshot(tmp_path)
    ended = real_launcher.run(command(model, *(option.format(root=tmp_path) for option in options)))
    assert ended.code == code, ended.err
    assert says in one_line(ended.err)
    assert ended.err.count("\n") == 1
    assert ended.out == ""
    assert snapshot(tmp_path) == before


def test_a_scorer_that_is_not_there_is_refused_before_the_base_is_loaded(model, real_launcher, tmp_path):
    (tmp_path / "warm" / "epoch-1").mkdir(parents=True)
    (tmp_path / "warm" / "epoch-1" / "adapter_config.json").write_text("{}")
    options = [
        "warmth",
        "measure",
        "--model",
        model,
        "--run",
        tmp_path,
        "--scorer",
        "/nowhere/gpt2",
        "--out",
        tmp_path / "w",
    ]
    ended = real_launcher.run(options)
    assert ended.code == 65, ended.err
    assert "no such scorer '/nowhere/gpt2'" in one_line(ended.err)
    assert "loading" not in ended.err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["analyze", "{root}/empty"], "empty: has no file named"),
        (["report", "{root}/empty"], "it has no manifest.json): give the folder of a run"),
        (["export", "{root}/nowhere"], "it is not there): give the folder of a run"),
        (["analyze", "{root}/broken"], "is not a manifest of this version: restore it, or give the folder of a run"),
        (["report", "{root}/broken"], "is not a manifest of this version: restore it, or give the folder of a run"),
        (["export", "{root}/broken"], "is not a manifest of this version: restore it, or give the folder of a run"),
    ],
)
def test_readers_say_what_to_give_them(launcher, tmp_path, arguments, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text('{"format": 1')
    ended = launcher.run([argument.format(root=tmp_path) for argument in arguments])
    assert ended.code == 65
    assert says in one_line(ended.err)
    assert "--out" not in ended.err
