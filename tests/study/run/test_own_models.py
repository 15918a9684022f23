"""Personas that are models of their own (``full:``): one model at a time, the same answers as that model alone."""

import dataclasses
import gc
import json
import weakref

import pytest
from fakes import FakeEngine, FakeTokenizer, Heard, knowing_judge
from tiers import slow

from warmeng.common.errors import InputError
from warmeng.study.export.export import export_run
from warmeng.study.personas import load_personas, parse_persona
from warmeng.study.report.outcome import gates
from warmeng.study.report.results import notes
from warmeng.study.report.settings_text import asked, persona_words
from warmeng.study.results.manifest import require_manifest
from warmeng.study.results.records import FILE, read_records
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings

MIXED = StudySettings(
    personas=("original", "warm=full:our/warm", "warm-prompt", "both=full:our/warm@warm"), limit=3, warmth_prompts=2
)  # fmt: skip


def go(folder, settings=MIXED, progress=None):
    return run_study(settings, folder, progress or Heard(), "warmeng run")


def records(folder):
    return list(read_records(folder / FILE))


def places(folder, persona):
    """Return a persona's records by place, without what names the persona or the run."""
    hidden = ("key", "persona", "crc32")
    rows = [r for r in records(folder) if r["persona"] == persona and r["kind"] not in ("judged", "margin")]
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
    assert (plain.model, plain.changes, plain.system) == ("owner/name", (), None)
    assert prompted.model == str(tmp_path)
    assert "caring" in prompted.system
    assert persona_words("warm=full:owner/name") == "warm: a model of its own, owner/name"
    assert persona_words("w=full:owner/name@cold") == "w: a model of its own, owner/name with the cold system prompt"
    for wrong in ("full:", "full:/not/there", "full:no such"):
        with pytest.raises(InputError, match=r"^persona warm: "):
            parse_persona(f"warm={wrong}")


def test_a_revision_is_divided_from_the_name(tmp_path, fake):
    at = load_personas(["warm=full:owner/name@main@", "both=full:owner/name@v1@warm"])
    assert [p.model for p in at] == ["owner/name@main", "owner/name@v1"]
    assert "caring" in at[1].system
    (tmp_path / "a@b").mkdir()
    assert parse_persona(f"warm=full:{tmp_path}/a@b@").model == f"{tmp_path}/a@b"
    fake.models["owner/name"] = FakeEngine(weights="n" * 64)
    settings = dataclasses.replace(MIXED, personas=("original", "warm=full:owner/name@main@"))
    assert go(tmp_path / "r", settings).exit_code == 0
    assert ("owner/name", "main") in [(s.model, s.revision) for s in fake.loads]


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

    monkeypatch.setattr("warmeng.study.run.run.load_engine", load)
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


@pytest.mark.parametrize("after", [150, *slow(60, 235)])
@pytest.mark.slow
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

    monkeypatch.setattr("warmeng.study.run.run.load_engine", load)
    with pytest.raises(InputError, match="model of warm weights"):
        go(tmp_path / "r")
    assert {r["persona"] for r in records(tmp_path / "r")} == {"original", "warm-prompt"}


def test_the_base_by_its_name_is_refused_before_anything_is_loaded(fake, own, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    settings = dataclasses.replace(MIXED, model=str(folder), personas=("original", f"warm=full:{folder}/../model"))
    with pytest.raises(InputError, match=r"persona warm: .* is the base itself"):
        go(tmp_path / "r", settings)
    assert fake.loads == []


@pytest.mark.parametrize("judge", [MIXED.model, "our/warm"])
def test_every_token_is_counted_once_whichever_engine_is_used_again(fake, own, tmp_path, judge, monkeypatch):
    own.prefers = knowing_judge()
    engines = []

    def load(settings):
        source = fake.models.get(settings.model, fake)
        engines.append(FakeEngine(source.answer, source.prefers, source.weights))
        return engines[-1]

    monkeypatch.setattr("warmeng.study.run.run.load_engine", load)
    settings = dataclasses.replace(MIXED, judges=(judge,))
    assert go(tmp_path / "r", settings).exit_code == 0
    sessions = [json.loads(line) for line in (tmp_path / "r" / "sessions.jsonl").read_text().splitlines()]
    assert len(sessions) >= 3
    for key in ("output_tokens", "prompt_tokens"):
        assert sum(s[key] for s in sessions) == sum(getattr(engine.stats, key) for engine in engines)


def test_a_dry_run_counts_the_manipulation_check_with_one_persona_on_the_base(fake, own, tmp_path, monkeypatch):
    from warmeng.study.run import dry_run as dryrun

    monkeypatch.setattr(dryrun, "load_engine", lambda settings: fake)
    monkeypatch.setattr(dryrun, "load_tokenizer", lambda settings: (fake.tokenizer, fake.config, 2**30))
    clock = iter(range(10_000))
    monkeypatch.setattr(dryrun.time, "monotonic", lambda: float(next(clock)))
    for personas in (("original", "warm=full:our/warm"), ("warm=full:our/warm", "both=full:our/warm@warm")):
        settings = dataclasses.replace(MIXED, personas=personas, warmth_prompts=1500)
        fake.asked.clear()
        shown = "\n".join(dryrun.dry_run(settings, tmp_path / "new"))
        assert "our/warm for " in shown
        assert "of which 0 s for the manipulation check" not in shown
        assert any(getattr(r, "noise_key", ("",))[0].startswith("heldout/") for r in fake.asked)


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

    monkeypatch.setattr("warmeng.study.run.run.load_engine", load)
    with pytest.raises(InputError, match="persona warm, both: our/warm: has no weights"):
        go(tmp_path / "r")


def test_an_export_names_the_model_that_answered(fake, own, tmp_path):
    own.tokenizer = Other()
    go(tmp_path / "r")
    export_run(tmp_path / "r", "lm-eval", tmp_path / "out")
    for persona, model, template in (("original", MIXED.model, "t" * 64), ("warm", "our/warm", "u" * 64)):
        (results,) = (tmp_path / "out" / persona).glob("results_*.json")
        found = json.loads(results.read_text())
        assert (found["model_name"], found["chat_template_sha"]) == (model, template)
        assert found["config"]["model_args"] == f"pretrained={model},persona={persona}"


class Other(FakeTokenizer):
    template_hash = "u" * 64
    hash = "another"
    default_system = "You are another."


def test_what_else_differs_is_said_before_and_in_the_results(fake, own, tmp_path):
    same = go(tmp_path / "same")
    assert "warm is a model of its own: our/warm." in notes(same.results)
    own.tokenizer = Other()
    heard = Heard()
    outcome = go(tmp_path / "other", progress=heard)
    assert outcome.exit_code == 0
    assert any("chat template and tokenizer are not the base's" in line for line in heard.lines)
    for name, state, noise in (("same", "held", True), ("other", "unsure", False)):
        manifest = require_manifest(tmp_path / name)
        rows = {gate.name: gate for gate in gates(manifest, Found())}
        assert rows["Model of warm"].state == rows["Model of both"].state == state
        assert ("share their noise" in rows["Determinism"].text) is noise
        assert manifest.inputs["model of"]["warm"]["weights"] == "o" * 64
        assert manifest.facts.adds_default_system == ["original"]
        told = {fact.name: fact.text for fact in asked(manifest, {}, [])}
        assert ("all personas share" in told["Seed"]) is noise
        added = "You are another." if name == "other" else "You are a fake."
        assert added in told["Template of warm"]
        assert "Template of both" not in told
        measured = manifest.facts.manipulation
        assert set(measured) == {"original", "warm", "warm-prompt", "both"}
        assert {persona for persona, row in measured.items() if "kl" in row} == {"original", "warm-prompt"}
        assert measured["original"]["kl"]["mean"] == 0.0
        assert measured["warm-prompt"]["kl"]["mean"] != 0.0
        assert len(measured["warm"]["by_prompt"]) == len(measured["original"]["kl"]["by_prompt"])


class Found:
    """As little of a survey as the gates need."""

    statuses, grades, judged, disputed, lengths, overruled = {}, {}, {}, {}, {}, {}
    beside = 0
