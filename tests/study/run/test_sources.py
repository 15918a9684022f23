"""A finished run is printed again only where its models and adapters still have the content that they had."""

import dataclasses
import json
import os
import shutil

import pytest
from fakes import FakeEngine, Heard, knowing_judge
from tiers import slow

from warmeng.common.errors import InputError
from warmeng.engine import stamps
from warmeng.study.report import outcome as outcome_of
from warmeng.study.report.results import notes
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings

WEIGHTS = "model.safetensors"


def checkpoint(folder, content=b"base"):
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(content)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("A model.")
    return folder


@pytest.fixture
def study(fake, tmp_path, monkeypatch):
    """Settings with a base, an adapter, a model of its own and a judge, each in a folder; all files are old enough."""
    monkeypatch.setattr(stamps, "RECENT", 0)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    base, own, judge = (checkpoint(tmp_path / name, name.encode()) for name in ("base", "own", "judge"))
    fake.origin = "local"
    for folder in (own, judge):
        fake.models[str(folder)] = FakeEngine(
            weights=folder.name.ljust(64, "x"), origin="local", prefers=knowing_judge()
        )
    fake.prefers = knowing_judge()
    return StudySettings(
        model=str(base), personas=("original", f"x={adapter}", f"y=full:{own}"), judges=(str(judge),), limit=2,
        warmth_prompts=0, tasks=("facts",),
    )  # fmt: skip


def go(folder, settings):
    heard = Heard()
    return run_study(settings, folder, heard, "warmeng run"), heard.lines


CHANGES = {
    "the base's weights": ("base/model.safetensors", b"BASE", "model model.safetensors"),
    "the base's tokenizer": ("base/tokenizer.json", b"[]", "model tokenizer.json"),
    "the base's configuration": ("base/config.json", b"{}", "model config.json"),
    "a template of the base's own": ("base/chat_template.jinja", b"{{ 1 }}", "model chat_template.jinja absent"),
    "the adapter's weights": ("adapter/adapter_model.safetensors", b"two", "adapter x adapter_model.safetensors"),
    "the adapter's scale": ("adapter/adapter_config.json", b'{"r": 4}', "adapter x adapter_config.json"),
    "a model of its own": ("own/model.safetensors", b"OWN", "model of y model.safetensors"),
    "the judge": ("judge/model.safetensors", b"JUDGE", "judge .*judge model.safetensors"),
}


@pytest.mark.parametrize("what", [*list(CHANGES)[::3], *slow(*(n for k, n in enumerate(CHANGES) if k % 3))])
def test_what_was_replaced_after_the_run_is_refused_by_name(study, tmp_path, what):
    name, content, named = CHANGES[what]
    assert go(tmp_path / "r", study)[0].exit_code == 0
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"this run was made with {named}.*: use the old one") as error:
        go(tmp_path / "r", study)
    assert "\n" not in str(error.value)


def test_what_is_gone_from_a_folder_is_refused(study, tmp_path):
    go(tmp_path / "r", study)
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"adapter x adapter_model.safetensors .*, now it is absent"):
        go(tmp_path / "r", study)


def test_an_adapter_whose_folder_now_has_a_checkpoint_is_refused(study, tmp_path):
    go(tmp_path / "r", study)
    shutil.rmtree(tmp_path / "adapter")
    checkpoint(tmp_path / "adapter")
    with pytest.raises(InputError, match=r"this run was made with adapter x"):
        go(tmp_path / "r", study)


@pytest.mark.parametrize("how", ["nothing", "touched", "copied", "beside"])
def test_the_same_content_prints_again_and_is_read_only_where_it_looks_different(study, tmp_path, how, monkeypatch):
    go(tmp_path / "r", study)
    reads = []
    monkeypatch.setattr(stamps, "known_sha256", lambda path: reads.append(path.name) or known(path))
    if how == "touched":
        os.utime(tmp_path / "base" / WEIGHTS)
    elif how == "copied":
        shutil.move(tmp_path / "base", tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", tmp_path / "base")
    elif how == "beside":  # no part of the model
        (tmp_path / "base" / "README.md").write_text("The same model.")
    outcome, said = go(tmp_path / "r", study)
    assert outcome.exit_code == 0
    assert "this run is finished; its tables again" in said[0]
    expected = {"touched": [WEIGHTS], "copied": ["config.json", WEIGHTS, "tokenizer.json"]}
    assert reads == expected.get(how, [])


known = stamps.known_sha256


def test_a_file_that_was_just_written_is_read_again(study, tmp_path, monkeypatch):
    """Two writes within the clock's step leave size and times the same."""
    monkeypatch.setattr(stamps, "RECENT", 2 * 10**9)
    go(tmp_path / "r", study)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    before = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match=r"adapter x adapter_model.safetensors"):
        go(tmp_path / "r", study)


def test_what_cannot_be_compared_is_said(study, tmp_path):
    go(tmp_path / "r", study)
    shutil.rmtree(tmp_path / "base")
    outcome, said = go(tmp_path / "r", study)
    assert outcome.exit_code == 0
    assert said[1] == "not compared with what the run was made with: model"
    path = tmp_path / "r" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["facts"]["files"]  # as runs of an earlier version
    path.write_text(json.dumps(manifest))
    (tmp_path / "r" / "sessions.jsonl").unlink()
    names = go(tmp_path / "r", study)[1][1]
    assert names.endswith(f"model, adapter x, model of y, judge {tmp_path / 'judge'}")


def test_a_run_that_goes_on_compares_what_it_loads(study, fake, tmp_path):
    """Other bytes with the same content (another header, say) are no other adapter."""
    heard = Heard(stop_after=2)
    run_study(study, tmp_path / "r", heard, "warmeng run")
    fake.queue.clear()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{ "r": 8 }')
    assert go(tmp_path / "r", study)[0].exit_code == 0


def test_shards_are_compared_with_their_index(study, tmp_path):
    folder = tmp_path / "base"
    (folder / WEIGHTS).unlink()
    for k in (1, 2):
        (folder / f"model-0000{k}-of-00002.safetensors").write_bytes(b"%d" % k)
    (folder / "model.safetensors.index.json").write_text("{}")
    settings = dataclasses.replace(study, judges=())
    go(tmp_path / "r", settings)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"3")
    with pytest.raises(InputError, match=r"model model-00002-of-00002.safetensors"):
        go(tmp_path / "r", settings)


def test_a_template_and_a_base_of_the_adapters_own_are_said_and_recorded(fake, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/another"}')
    settings = StudySettings(personas=("original", f"warm={adapter}"), limit=2, warmth_prompts=0, tasks=("facts",))
    outcome, said = go(tmp_path / "r", settings)
    told = [line for line in said if line.startswith("persona warm")]
    assert [line.partition(f"{adapter}: ")[2].partition(":")[0] for line in told] == [
        "it has a chat template of its own and the base's is used", "it names another base (owner/another)",
    ]  # fmt: skip
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    gate = manifest["facts"]["gates"]["warm"]
    assert (gate["same_template"], gate["other_base"]) == (False, "owner/another")
    assert any("names another base (owner/another)" in line for line in notes(outcome.results))


def test_the_report_tells_what_of_an_adapter_is_not_the_bases():
    told = outcome_of._adapter("warm", "It moves", {"same_template": False, "other_base": "owner/another"})
    assert (told.state, told.text.count("a difference may come from there")) == ("unsure", 2)
    for gate in ({}, {"same_template": True, "other_base": None}, {"same_template": None}):
        assert outcome_of._adapter("warm", "It moves", gate).state == "held"
