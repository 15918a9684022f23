"""Output tokens a second of engines on the same prompts: each in a process of its own, one pass at a time, in turn."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import torch

from warmeng.bench.cost_model import products_seconds
from warmeng.bench.environment import versions
from warmeng.bench.rivals.process import Failed, RivalProcess
from warmeng.bench.rivals.registry import KINDS, OURS, Entry, Kind
from warmeng.bench.rivals.rival import Task
from warmeng.bench.roofline import measure_products
from warmeng.engine.builtin import cache_folder
from warmeng.engine.config import ModelConfig
from warmeng.engine.folder import read_folder
from warmeng.engine.registry import base_hash, resolve_model

BASE, MIXED = "base", "mixed"
# Precisions whose products have a measured ceiling here.
_CEILINGS = {"f32": torch.float32, "bf16": torch.bfloat16}
Say = Callable[[str], None]


@dataclass
class Measured:
    """One engine in one precision, on the base alone or on the base and adapters in turn."""

    engine: str
    precision: str
    mix: str  # "base" or "mixed"
    about: dict[str, Any]  # options and precisions as the engine has them
    versions: dict[str, str | None]
    load_seconds: float
    batch: int | None = None  # the fastest static batch; None where the engine schedules itself
    # Output tokens a second of each batch while warming up.
    by_batch: dict[int, float] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)  # output tokens a second, one a round
    seconds: list[float] = field(default_factory=list)
    output_tokens: int = 0
    # Over warmeng's rate in the same round, on the same mix.
    ratios: list[float] = field(default_factory=list)
    ratio: float | None = None  # their median
    # Of a mix: over the engine's own rate on the base alone in the same round.
    of_base: list[float] = field(default_factory=list)
    # Prompts whose tokens are those of the reference.
    identical: int | None = None
    # Resident, of the process and what it started, conversion left out; None where the system doesn't tell.
    peak_bytes: int | None = None

    @property
    def title(self) -> str:
        """The engine and its precision as ``--against`` has them, and whether adapters were mixed."""
        return f"{self.engine}:{self.precision}" + (", mixed" if self.mix == MIXED else "")


@dataclass
class Comparison:
    """What ``compare`` measured. The first of ``engines`` is the one that ratios are taken over."""

    model: str
    prompts: int
    prompt_tokens: int
    max_new_tokens: int
    threads: int  # of every engine
    rounds: int
    adapters: list[str]  # of the mix, in whose turns the base comes first
    fast: bool
    instructions: str  # the widest that PyTorch takes here
    engines: list[Measured] = field(default_factory=list)
    # Whose texts the others' are compared with, by mix.
    references: dict[str, str] = field(default_factory=dict)
    # Engines that can't mix adapters in one batch, where that was asked for.
    cannot_mix: list[str] = field(default_factory=list)
    # What failed, with its reason.
    failed: dict[str, str] = field(default_factory=dict)
    # The time of the matrix products of warmeng's first entry at their measured peaks; None where not measured.
    floor_seconds: float | None = None
    roofline_share: float | None = None  # that over the median time
    ceilings: list[dict[str, Any]] = field(default_factory=list)


def chat_prompts() -> list[str]:
    """Return 96 single user messages of very mixed length."""
    text = files("warmeng.bench").joinpath("data/chat_prompts.jsonl").read_bytes()
    return [orjson.loads(line)["prompt"] for line in text.split(b"\n") if line]


@dataclass
class _Running:
    """A loaded engine, with the tokens of its last pass by mix."""

    entry: Entry
    process: RivalProcess
    loaded: dict[str, Any]
    found: dict[str, Measured] = field(default_factory=dict)
    tokens: dict[str, list[list[int]]] = field(default_factory=dict)

    def run(self, mix: str, batch: int | None) -> tuple[float, float]:
        """Make one pass; return its seconds and useful output tokens a second."""
        answer = self.process.ask(do="run", batch=batch, mixed=mix == MIXED)
        self.tokens[mix] = answer["tokens"]
        return answer["seconds"], sum(map(len, answer["tokens"])) / answer["seconds"]


def compare(
    model: str,
    entries: Sequence[Entry],
    *,
    max_new: int = 96,
    rounds: int = 5,
    batch: int | None = None,
    fast: bool = False,
    threads: int | None = None,
    adapters: Mapping[str, str] | None = None,
    kinds: Mapping[str, Kind] = KINDS,
    say: Say = lambda line: None,
) -> Comparison:
    """Run the committed chat prompts through all ``entries``, in rounds of one pass each, after one that warms up.

    All engines are loaded first and stay idle between their passes. ``batch`` fixes static batches; None tries
    several while warming up, and takes the fastest. ``adapters``: PEFT folders by name; with any, engines that can
    mix them in one batch make a second pass in each round, with the base and the adapters in turn. An engine that
    fails is left out from there on, with its reason. Raises InputError where the model can't be found or read.
    """
    source = resolve_model(model, log=say)
    config, tokenizer = read_folder(source.folder)
    prompts = [tokenizer.chat([{"role": "user", "content": text}]) for text in chat_prompts()]
    if threads is not None:
        torch.set_num_threads(threads)
    threads = torch.get_num_threads()
    model_hash = cache(lambda: base_hash(source))
    task = Task(
        str(source.folder), "", threads, max_new, list(config.stop_token_ids), prompts,
        {name: str(Path(folder).resolve()) for name, folder in (adapters or {}).items()}, fast=fast,
    )  # fmt: skip
    result = Comparison(
        model, len(prompts), sum(map(len, prompts)), max_new, threads, rounds, list(task.adapters), fast,
        torch.backends.cpu.get_cpu_capability(),
    )  # fmt: skip
    with ExitStack() as open_processes:
        running: list[_Running] = []
        for entry in entries:
            with _noting(result, entry.label, say):
                kind = kinds[entry.name]
                own = replace(task, precision=entry.precision)
                if (form := kind.precisions[entry.precision].form) is not None:
                    own = replace(own, prepared=_prepared(entry, kind, form, own, model_hash(), say))
                process = open_processes.enter_context(RivalProcess(kind.target, threads))
                say(f"{entry.label}: loading")
                loaded = process.ask(do="load", task=own)
                one = _Running(entry, process, loaded)
                _warm_up(one, result, kind, batch, say)
                running.append(one)
        passes = [(one, found) for one in running for found in one.found.values()]
        for number in range(rounds):
            said = []
            for one, found in passes:
                # What failed in a round is left out of the later ones.
                if len(found.rates) == number:
                    with _noting(result, f"{found.title}, round {number + 1}", say):
                        seconds, rate = one.run(found.mix, found.batch)
                        found.seconds.append(seconds)
                        found.rates.append(rate)
                        said.append(f"{found.title} {rate:.1f}")
            say(f"round {number + 1} of {rounds}, tokens/s: {'; '.join(said)}")
        for one in running:
            for found in one.found.values():
                found.peak_bytes = one.process.peak_bytes()
    _summarise(result, running)
    _measure_ceilings(result, config)
    return result


@contextmanager
def _noting(result: Comparison, what: str, say: Say) -> Iterator[None]:
    """Write down what fails, and go on."""
    try:
        yield
    except Failed as problem:
        result.failed[what] = str(problem)
        say(f"failed: {what}: {problem}")


def _prepared(entry: Entry, kind: Kind, form: str, task: Task, model_hash: str, say: Say) -> str:
    """Return the folder of the converted checkpoint, made in a process of its own unless it is there."""
    made_by = "-".join(f"{name}-{version}" for name, version in versions(kind.distributions).items() if version)
    name = re.sub(r"[^\w.\-]", "_", f"{entry.name}-{form}-{model_hash[:12]}-{made_by}")
    folder = cache_folder() / "rivals" / name
    if folder.is_dir():
        return str(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder.parent))
    try:
        say(f"{entry.label}: converting the checkpoint, once, into {folder}")
        with RivalProcess(kind.target, task.threads) as process:
            process.ask(do="prepare", task=task, into=str(beside))
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return str(folder)


def _warm_up(one: _Running, result: Comparison, kind: Kind, batch: int | None, say: Say) -> None:
    """Make the pass that isn't counted, or one for each static batch that is worth trying."""
    label = one.entry.label
    for mix in (BASE, MIXED) if result.adapters else (BASE,):
        if mix == MIXED and not one.loaded["mixes"]:
            result.cannot_mix.append(label)
            continue
        tried: list[int | None] = one.loaded["batches"] or [None]
        if batch is not None and one.loaded["batches"]:
            tried = [batch]
        if mix == MIXED and BASE in one.found:
            tried = [one.found[BASE].batch]
        rates: dict[int | None, float] = {}
        for size in tried:
            what = f"{label}{', mixed' if mix == MIXED else ''}{f', batch {size}' if size else ''}"
            with _noting(result, what, say):
                _, rates[size] = one.run(mix, size)
                say(f"{what}: {rates[size]:.1f} tokens/s while warming up")
        if rates:
            one.found[mix] = Measured(
                one.entry.name, one.entry.precision, mix, one.loaded["about"], versions(kind.distributions),
                one.loaded["seconds"], max(rates, key=lambda size: rates[size]),
                {size: rate for size, rate in rates.items() if size is not None},
            )  # fmt: skip


def _summarise(result: Comparison, running: Sequence[_Running]) -> None:
    """Fill in ratios and equal texts."""
    for mix in (BASE, MIXED):
        there = [one for one in running if mix in one.found and one.found[mix].rates]
        first = next((one for one in there if one.entry.name == OURS), None)
        by_label = {one.entry.label: one for one in there}
        reference = by_label.get("hf:f32") or by_label.get(f"{OURS}:f32")
        if reference is not None:
            result.references[mix] = reference.entry.label
        for one in there:
            found = one.found[mix]
            found.output_tokens = sum(map(len, one.tokens[mix]))
            if first is not None:
                # Of rounds that both ended.
                found.ratios = [a / b for a, b in zip(found.rates, first.found[mix].rates, strict=False)]
                found.ratio = statistics.median(found.ratios)
            if mix == MIXED and BASE in one.found:
                found.of_base = [a / b for a, b in zip(found.rates, one.found[BASE].rates, strict=False)]
            if reference is not None:
                same = zip(one.tokens[mix], reference.tokens[mix], strict=True)
                found.identical = sum(a == b for a, b in same)
            result.engines.append(found)


def _measure_ceilings(result: Comparison, config: ModelConfig) -> None:
    """Time the products of warmeng's first entry alone, after all engines have ended."""
    ours = next((m for m in result.engines if m.engine == OURS and m.mix == BASE), None)
    if ours is None or ours.precision not in _CEILINGS:
        return
    products = measure_products(config, 96, _CEILINGS[ours.precision])
    computed = result.prompt_tokens + ours.output_tokens
    result.floor_seconds = products_seconds(products, config, computed, ours.output_tokens)
    result.roofline_share = result.floor_seconds / statistics.median(ours.seconds)
    result.ceilings = [asdict(product) for product in products]
