"""The same study gives the same records, byte for byte, whatever runs beside each request and in whatever order.

A tiny model of random weights with random adapters answers a study of sampled and greedy generations, constrained
ones, and probabilities of labels of one and of many tokens.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from dataclasses import replace

import pytest
import torch
from res_studies import STEPS, Forgetful, Shuffled, write_tasks
from studies import widened
from tiers import full

from warmeng.common.progress import Silent
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings

ROOMY = EngineSettings(kv_bytes=32 * 2**20)
TIGHT = 448 * 2**10  # bytes of a cache that is too small for what is running


@pytest.fixture(scope="module")
def settings(tiny_model, tiny_adapters, tmp_path_factory, count):
    root = tmp_path_factory.mktemp("study")
    return StudySettings(
        model=str(widened(tiny_model("llama"), root / "model")),
        personas=("original", *(f"a{k}={folder}" for k, folder in enumerate(tiny_adapters[:4]))),
        tasks=tuple(write_tasks(root, count(1, 6))),
        contexts=count(("unmodified",), ("unmodified", "emotion:sad")),
        beliefs=("none", "wrong"),
        limit=count(2, 6),
        temperature=0.9,
        top_p=0.95,
        number_temperature=0.0,
        samples=count(1, 2),
        max_new_tokens=count(12, 40),
        warmth_prompts=0,
        seed=3,
    )


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a study on an engine with settings of its own; gives its records in order, and the engine's totals."""
    monkeypatch.setattr("warmeng.study.plan.STEPS_TOKENS", STEPS)
    monkeypatch.setattr("warmeng.study.run.finish.conclude", lambda *given: True)
    made = []

    def go(settings, engine=ROOMY, around=lambda engine: engine, threads=1, progress=None, folder=None):
        stats = []

        def load(chosen):
            loaded = Engine.load(chosen.model, settings=engine)
            stats.append(loaded.stats)
            return around(loaded)

        monkeypatch.setattr("warmeng.study.run.run.load_engine", load)
        folder = folder or tmp_path / f"run{len(made)}"
        made.append(folder)
        with on_threads(threads):
            outcome = run_study(settings, folder, progress or Silent(), "again")
        records = sorted((folder / "records.jsonl").read_bytes().splitlines())
        return outcome.exit_code, records, stats[0] if stats else None

    return go


@contextlib.contextmanager
def on_threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference():
    return {}


@pytest.fixture
def whole(settings, run, reference):
    """The study's records as the default settings give them."""
    if not reference:
        code, records, stats = run(settings)
        assert code == 0
        assert stats.cached_tokens > 0, "personas share prefixes among their own requests"
        assert stats.preemptions == 0
        rows = [json.loads(line) for line in records]
        assert {row["kind"] for row in rows} == {"answer", "score", "margin"}
        assert {row["status"] for row in rows} == {"ok"}
        texts = {row["text"] for row in rows if row["kind"] == "answer"}
        assert len(texts) > 0.5 * sum(row["kind"] == "answer" for row in rows), "answers differ, so equality says much"
        reference.update(records=records)
    return reference["records"]


def same(found, expected):
    """Compare records, and name the first that differs rather than print all of them."""
    assert len(found) == len(expected)
    different = [(a, b) for a, b in zip(found, expected, strict=True) if a != b]
    assert not different, f"{len(different)} of {len(found)} differ: {different[0]}"


@pytest.mark.slow
@pytest.mark.parametrize("size", [7, *full(1, 2, 64)])
def test_in_batches_of(settings, run, whole, size):
    code, found, _ = run(settings, replace(ROOMY, max_num_seqs=size))
    assert code == 0
    same(found, whole)


@pytest.mark.slow
def test_in_small_steps(settings, run, whole):
    same(run(settings, replace(ROOMY, max_batched_tokens=48, max_num_seqs=5))[1], whole)


@pytest.mark.slow
def test_in_any_order(settings, run, whole, count):
    for seed in range(count(1, 8)):
        same(run(settings, around=lambda engine, seed=seed: Shuffled(engine, seed))[1], whole)


@pytest.mark.slow
def test_after_preemption(settings, run, whole, count):
    for size in (64, 16)[: count(1, 2)]:
        _, found, stats = run(settings, replace(ROOMY, kv_bytes=TIGHT, max_num_seqs=size))
        assert stats.preemptions > 0
        same(found, whole)


@pytest.mark.slow
def test_without_any_cached_prefix(settings, run, whole):
    _, found, stats = run(settings, replace(ROOMY, max_num_seqs=1), Forgetful)
    assert stats.cached_tokens == 0
    same(found, whole)


@pytest.mark.slow
def test_one_persona_or_five(settings, run, whole, count):
    for persona in settings.personas[-count(1, 5) :]:
        name = persona.partition("=")[0]
        _, found, _ = run(replace(settings, personas=(persona,)))
        same(found, [line for line in whole if json.loads(line)["persona"] == name])


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, *full(3)])
def test_on_more_threads(settings, run, whole, count, threads):
    """Threads share a tensor's elements among them: where, changes with the rows of a batch."""
    for size in count((7,), (7, 31)):
        same(run(settings, replace(ROOMY, max_num_seqs=size), threads=threads)[1], whole)


class Interrupting(Silent):
    """Interrupts after some records."""

    def __init__(self, after):
        self.after = after

    def advance(self, name):
        self.after -= 1
        if self.after == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_interrupted_and_resumed(settings, run, whole, tmp_path, count):
    """Each part runs with another batch size and cache, and the last one on another number of threads."""
    rng, folder, stops = random.Random(2), tmp_path / "cut", 0
    parts = count(3, 12)
    while True:
        size, progress = rng.choice([2, 9, 64]), Interrupting(rng.randint(1, 2 * len(whole) // parts))
        engine = replace(ROOMY, max_num_seqs=size, kv_bytes=rng.choice([TIGHT, ROOMY.kv_bytes]))
        code, found, _ = run(settings, engine, threads=rng.choice([1, 2]), progress=progress, folder=folder)
        if code == 0:
            break
        assert code == 130
        stops += 1
    assert stops >= 2
    same(found, whole)


@pytest.mark.slow
def test_in_another_process(settings, real_launcher, whole, tmp_path):
    """Its hashes are seeded otherwise, it has one thread, and the cache and batches of the command line."""
    lists = {"personas": "--persona", "tasks": "--tasks", "contexts": "--contexts", "beliefs": "--beliefs",
             "asking": "--asking"}  # fmt: skip
    options = ["run"]
    for name, option in lists.items():
        for value in getattr(settings, name):
            options += [option, value]
    for name in ("model", "limit", "temperature", "top_p", "samples", "max_new_tokens", "warmth_prompts", "seed"):
        options += [f"--{name.replace('_', '-')}", getattr(settings, name)]
    study = tmp_path / "study.yaml"
    study.write_text("number_temperature: 0.0\n")
    ended = real_launcher.run([*options, "--out", tmp_path / "r", study], setup=["res_studies", "short_answers"])
    assert ended.code == 0, ended.err
    same(sorted((tmp_path / "r" / "records.jsonl").read_bytes().splitlines()), whole)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama-3.1-rope", "mistral-head-dim", "qwen2-bias", "qwen3-norm", "llama-tied"])
def test_other_families(settings, run, tiny_model, tmp_path, tier, family):
    if tier != "full" and family != "qwen3-norm":
        pytest.skip("one family without the full counts")
    other = replace(settings, model=str(widened(tiny_model(family), tmp_path / family)), personas=("original",))
    found = [
        run(other, replace(ROOMY, max_num_seqs=size, kv_bytes=room))[1]
        for size, room in ((1, ROOMY.kv_bytes), (7, ROOMY.kv_bytes), (64, 2 * TIGHT))
    ]
    same(found[1], found[0])
    same(found[2], found[0])
