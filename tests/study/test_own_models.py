"""Personas that are models of their own (``full:``): one model at a time, the same answers as that model alone."""

import dataclasses
import gc
import json
import os
import signal
import weakref

import pytest
from fakes import FakeEngine, FakeTokenizer, knowing_judge

from warmeng.engine.errors import InputError
from warmeng.study.personas import load_personas, parse_persona
from warmeng.study.progress import Silent
from warmeng.study.records import FILE, read_records
from warmeng.study.report.asked import persona_words
from warmeng.study.report.outcome import gates
from warmeng.study.report.table import notes
from warmeng.study.run import run_study
from warmeng.study.settings import StudySettings

MIXED = StudySettings(
    personas=("original", "warm=full:our/warm", "warm-prompt", "both=full:our/warm@warm"), limit=3
)  # fmt: skip


class Heard(Silent):
    def __init__(self, stop_after=None):
        self.lines, self.count, self.stop_after = [], 0, stop_after

    def message(self, text):
        self.lines.append(text)

    def advance(self, persona, work, output_tokens, prompt_tokens):
        self.count += 1
        if self.count == self.stop_after:
            os.kill(os.getpid(), signal.SIGINT)


def go(folder, settings=MIXED, progress=None):
    return run_study(settings, folder, progress or Heard(), "warmeng run")


def records(folder):
    return list(read_records(folder / FILE))


def places(folder, persona):
    """Return a persona's records by place, without what names the persona or the run."""
    hidden = ("key", "persona", "crc32")
    rows = [r for r in records(folder) if r["persona"] == persona and r["kind"] != "judged"]
    return {
        (r["task"], r["context"], r["belief"], r["item"], r["sample"]): {k: v for k, v in r.items() if k not in hidden}
        for r in rows
    }


@pytest.fixture
def own(fake):
    """A model whose answers and likelihoods are not the base's."""
    fake.prefers = knowing_judge()
    fake.models["our/warm"] = FakeEngine(
        answer=lambda prompt, request: f"Dear friend, {len(prompt)} {request.noise_key}",
        prefers=lambda prompt, label: -2.0 - len(label) % 5,
        weights="o" * 64,
    )
    return fake.models["our/warm"]


def test_a_spec_names_a_model_of_its_own_and_perhaps_a_prompt(tmp_path):
    plain, prompted = load_personas(["warm=full:owner/name", f"both=full:{tmp_path}@warm"])
    assert (plain.model, plain.adapter, plain.system) == ("owner/name", None, None)
    assert prompted.model == str(tmp_path)
    assert "caring" in prompted.system
    assert persona_words("warm=full:owner/name") == "warm: a model of its own, owner/name"
    assert persona_words("w=full:owner/name@cold") == "w: a model of its own, owner/name with the cold system prompt"
    for wrong in ("full:", "full:/not/there", "full:no such"):
        with pytest.raises(InputError, match=r"^persona warm: "):
            parse_persona(f"warm={wrong}")


def test_its_answers_are_those_of_a_run_on_that_model_alone(fake, own, tmp_path):
    assert go(tmp_path / "mixed").exit_code == 0
    alone = dataclasses.replace(MIXED, model="our/warm", personas=("original", "warm-prompt"))
    assert go(tmp_path / "alone", alone).exit_code == 0
    base = dataclasses.replace(MIXED, personas=("original", "warm-prompt"))
    assert go(tmp_path / "base", base).exit_code == 0
    for persona, as_what, where in (
        ("warm", "original", "alone"), ("both", "warm-prompt", "alone"),
        ("original", "original", "base"), ("warm-prompt", "warm-prompt", "base"),
    ):  # fmt: skip
        mine = places(tmp_path / "mixed", persona)
        assert len(mine) == 48
        assert mine == places(tmp_path / where, as_what)
    assert places(tmp_path / "mixed", "warm") != places(tmp_path / "mixed", "original")


def test_one_model_is_in_memory_at_a_time(fake, own, tmp_path, monkeypatch):
    alive = []

    def load(settings):
        gc.collect()
        assert [engine() for engine in alive] == [None] * len(alive)
        source = fake.models.get(settings.model, fake)
        engine = FakeEngine(source.answer, source.prefers, source.weights)
        alive.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr("warmeng.study.run.load_engine", load)
    settings = dataclasses.replace(MIXED, judges=("base", "our/judge"))
    fake.models["our/judge"] = FakeEngine(prefers=knowing_judge(), weights="j" * 64)
    assert go(tmp_path / "r", settings).exit_code == 0
    assert len(alive) == 6  # judge, own, base, own, base (judging what the own model answered), judge


def test_the_base_judges_what_the_other_model_answered(fake, own, tmp_path):
    outcome = go(tmp_path / "r", dataclasses.replace(MIXED, judges=("base",)))
    assert outcome.exit_code == 0
    judged = [r for r in records(tmp_path / "r") if r["kind"] == "judged"]
    answers = [r["key"] for r in records(tmp_path / "r") if r["kind"] == "answer"]
    assert sorted(r["of"] for r in judged) == sorted(answers)
    assert {r["persona"] for r in judged} == {"original", "warm", "warm-prompt", "both"}
    assert outcome.results["run"]["judgments"] == {"planned": 48, "missing": 0, "done": {"base": 48}}
    assert not any("Answer to grade" in own.tokenizer.decode(r.prompt) for r in own.asked)


@pytest.mark.parametrize("after", [1, 60, 130, 190, 235])
def test_interrupted_anywhere_it_continues_to_the_same_records(fake, own, tmp_path, after):
    settings = dataclasses.replace(MIXED, judges=("base",))
    go(tmp_path / "whole", settings)
    assert go(tmp_path / "r", settings, Heard(stop_after=after)).exit_code == 130
    fake.queue.clear()
    own.queue.clear()
    assert go(tmp_path / "r", settings).exit_code == 0
    whole, mine = (sorted((tmp_path / name / FILE).read_bytes().splitlines()) for name in ("whole", "r"))
    assert whole == mine


def test_another_model_in_its_place_is_refused_by_name(fake, own, tmp_path):
    assert go(tmp_path / "r", progress=Heard(stop_after=100)).exit_code == 130
    before = (tmp_path / "r" / FILE).read_bytes()
    for attribute, value, said in (("weights", "x" * 64, "model of warm weights"), ("tokenizer", Other(), "template")):
        kept = getattr(own, attribute)
        setattr(own, attribute, value)
        with pytest.raises(InputError, match=said):
            go(tmp_path / "r")
        setattr(own, attribute, kept)
    assert (tmp_path / "r" / FILE).read_bytes() == before


def test_a_model_that_changes_while_the_run_goes_on_is_refused(fake, own, tmp_path, monkeypatch):
    loads = []

    def load(settings):
        engine = fake.models.get(settings.model, fake)
        loads.append(settings.model)
        if loads.count("our/warm") == 2:
            own.weights = "x" * 64
        return engine

    monkeypatch.setattr("warmeng.study.run.load_engine", load)
    with pytest.raises(InputError, match="model of warm weights"):
        go(tmp_path / "r")
    assert {r["persona"] for r in records(tmp_path / "r")} == {"original", "warm-prompt"}


def test_the_base_under_another_name_is_refused(fake, own, tmp_path):
    own.weights = fake.weights
    with pytest.raises(InputError, match=r"persona warm, both: our/warm is the base itself"):
        go(tmp_path / "r")
    assert not (tmp_path / "r" / "manifest.json").exists()


def test_a_model_that_cannot_be_loaded_names_its_persona(fake, own, tmp_path, monkeypatch):
    def load(settings):
        if settings.model == "our/warm":
            raise InputError("our/warm: has no weights")
        return fake

    monkeypatch.setattr("warmeng.study.run.load_engine", load)
    with pytest.raises(InputError, match="persona warm, both: our/warm: has no weights"):
        go(tmp_path / "r")


class Other(FakeTokenizer):
    template_hash = "u" * 64
    hash = "another"


def test_what_else_differs_is_said_before_and_in_the_results(fake, own, tmp_path):
    same = go(tmp_path / "same")
    assert "warm is a model of its own: our/warm." in notes(same.results)
    own.tokenizer = Other()
    heard = Heard()
    outcome = go(tmp_path / "other", progress=heard)
    assert outcome.exit_code == 0
    assert any("chat template and tokenizer are not the base's" in line for line in heard.lines)
    for name, state, noise in (("same", "held", True), ("other", "unsure", False)):
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        rows = {gate.name: gate for gate in gates(manifest, Found())}
        assert rows["Model of warm"].state == rows["Model of both"].state == state
        assert ("share their noise" in rows["Determinism"].text) is noise
        assert manifest["inputs"]["model of"]["warm"]["weights"] == "o" * 64
        assert set(manifest["facts"]["manipulation"]) == {"original", "warm", "warm-prompt", "both"}


class Found:
    """As little of a survey as the gates need."""

    statuses, grades, judged = {}, {}, {}
