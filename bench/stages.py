"""The stages of one call on a card: what is measured, on one roofline and one set of random weights."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from warmeng.bench.cost_model import generation_floor, grading_floor
from warmeng.bench.grade import grade_requests
from warmeng.bench.hf import RandomHf
from warmeng.bench.lengths import Lengths
from warmeng.bench.profile import decode_until, profile_lines, profile_steps
from warmeng.bench.roofline import measure_roofline
from warmeng.bench.slot_state import Slot
from warmeng.bench.workload import PERSONAS, prompts
from warmeng.engine.checkpoint import load_weights
from warmeng.engine.config import read_config
from warmeng.engine.engine import Engine
from warmeng.engine.gpu.ops import DeviceWeight
from warmeng.engine.prediction.decoder import decoder
from warmeng.engine.random import random_adapter
from warmeng.engine.request import GenerateRequest, GenerateResult, SamplingParams
from warmeng.engine.settings import AUTO, EngineSettings
from warmeng.engine.testing import random_engine

Stage = Callable[[Slot], dict[str, Any]]


def roofline(slot: Slot) -> dict[str, Any]:
    """Measure the two ceilings."""
    sizes = ((2**20,), (64,)) if slot.tiny else ((2**30, 4 * 2**30), (4096, 8192))
    slot.roofline = measure_roofline(slot.where, sizes=sizes[0], sides=sizes[1], seconds=0.3, say=slot.say)
    return asdict(slot.roofline)


def _run(slot: Slot, engine: Engine, label: str, many: int, personas: int, temperature: float = 0.0) -> dict[str, Any]:
    asked = slot.asked(many, personas, temperature)
    lengths = slot.lengths(many)
    tokens = sum(x.answer for x in lengths)
    seconds, steps = _steps(slot, engine, asked)
    item = 2 if slot.device == "cuda" else 4
    batch = min(len(asked), engine.describe()["settings"]["max_num_seqs"] or 1024)
    floor = generation_floor(decoder(slot.config, item), lengths, batch, slot.roofline).seconds
    rate = tokens / seconds
    slot.rates[label] = rate
    slot.say(f"{label}: {rate:,.0f} output tokens/s, {len(steps)} steps, {floor / seconds:.1%} of the roofline")
    for group in by_rows(steps):
        median, total = group["median_ms"], group["sum_s"]
        slot.say(
            f"  to {group['rows_up_to']:,.0f} rows: {group['steps']:.0f} steps, {median:.2f} ms each, {total:.2f} s"
        )
    return {
        "label": label, "requests": len(asked), "personas": personas, "temperature": temperature, "tokens": tokens,
        "seconds": seconds, "rate": rate, "steps": len(steps), "floor_seconds": floor, "share": floor / seconds,
        "oom_steps": engine.stats.oom_steps, "preemptions": engine.stats.preemptions, "by_rows": by_rows(steps),
    }  # fmt: skip


def _steps(slot: Slot, engine: Engine, asked: list[GenerateRequest]) -> tuple[float, list[tuple[int, float]]]:
    """Answer all requests with nothing cached; returns the seconds, and (rows, seconds) of each step.

    A step's seconds are the host's, from one call to the next: where the device is what is waited for, the device's.
    """
    engine.reset_prefix_cache()
    slot.wait()
    steps: list[tuple[int, float]] = []
    began = last = time.perf_counter()
    for request in asked:
        engine.add(request)
    while engine.busy:
        rows = engine.step()
        now = time.perf_counter()
        steps.append((rows, now - last))
        last = now
    results = list(engine.results())
    assert all(r.status == "ok" for r in results)
    assert len(results) == len(asked)
    assert sum(len(r.token_ids) for r in results if isinstance(r, GenerateResult)) == sum(
        r.sampling.max_new_tokens for r in asked
    )
    return time.perf_counter() - began, steps


def by_rows(steps: list[tuple[int, float]]) -> list[dict[str, float]]:
    """Return how many steps had about how many rows, and the milliseconds of one: the median, and all of them."""
    groups: dict[int, list[float]] = {}
    for rows, seconds in steps:
        groups.setdefault(max(0, rows - 1).bit_length(), []).append(seconds)
    return [
        {"rows_up_to": 2**bits, "steps": len(found), "median_ms": 1e3 * statistics.median(found), "sum_s": sum(found)}
        for bits, found in sorted(groups.items())
    ]


def _warm(slot: Slot, engine: Engine, personas: int) -> None:
    """Capture the graphs and compile what is left: a few requests of each mix, short answers."""
    for first, mix in ((0, personas), (50, 1)):
        asked = slot.asked(40, mix, 0.0, first)
        short = [
            GenerateRequest(r.id, r.prompt, SamplingParams(max_new_tokens=3, ignore_eos=True), r.adapter) for r in asked
        ]
        engine.reset_prefix_cache()
        engine.generate(short)


def _mode(slot: Slot, fast: bool) -> dict[str, Any]:
    mode = "fast" if fast else "deterministic"
    began = time.perf_counter()
    engine = slot.engine(fast)
    made = time.perf_counter() - began
    slot.say(f"{mode}: engine in {made:.1f} s: {engine.describe()['tiles']}, {engine.describe()['attention']}")
    began = time.perf_counter()
    _warm(slot, engine, 3)
    warmed = time.perf_counter() - began
    slot.say(f"{mode}: warm in {warmed:.1f} s")
    runs = [_run(slot, engine, f"{mode}, personas, 1,024 at once", 2048, 3, 0.8)]
    out = {"engine": engine.describe(), "made_seconds": made, "warm_seconds": warmed, "runs": runs}
    if slot.deadline - time.monotonic() > 40:
        runs.append(_run(slot, engine, f"{mode}, base, 1,024 at once", 1024, 1))
    if not fast and slot.deadline - time.monotonic() > 60:
        runs.append(_run(slot, engine, f"{mode}, personas, 512 at once", 512, 3))
    out["profiles"] = [asdict(p) for p in _profiles(slot, engine, mode)]
    del engine
    return out


def _profiles(slot: Slot, engine: Engine, mode: str) -> list[Any]:
    if slot.device != "cuda":
        return []
    found = []
    for many, mix in ((1024, 3), (512, 3), (1024, 1)):
        engine.reset_prefix_cache()
        asked = slot.asked(many, mix, 0.8 if mix == 3 else 0.0)
        for request in asked:
            engine.add(request)
        if many == 1024:
            engine.step()
            engine.step()
            found.append(profile_steps(f"{mode}, {mix} personas, mixed steps", engine, 4, slot.wait))
        decode_until(engine, len(asked), 200)
        engine.step()
        found.append(profile_steps(f"{mode}, {mix} personas, {many} decoding", engine, 6, slot.wait))
        engine.cancel()
        for line in [line for p in found[-2 if many == 1024 else -1 :] for line in profile_lines(p)]:
            slot.say(line)
        if slot.deadline - time.monotonic() < 20:
            break
    return found


def deterministic(slot: Slot) -> dict[str, Any]:
    """The headline: three personas in one batch, the base alone, 512 at once; then where a step's time goes."""
    return _mode(slot, fast=False)


def fast(slot: Slot) -> dict[str, Any]:
    """The same with the library's products."""
    return _mode(slot, fast=True)


def blocks(slot: Slot) -> dict[str, Any]:
    """The headline with cache blocks of 32 slots, from which the memory accelerator brings keys and values."""
    engine = slot.engine(block=32)
    _warm(slot, engine, 3)
    run = _run(slot, engine, "blocks of 32, personas, 1,024 at once", 1024, 3, 0.8)
    return {"engine": engine.describe(), "runs": [run]}


def invariance(slot: Slot) -> dict[str, Any]:
    """Answers of some requests alone, and among 44 to 1,024: every bit of their log-probabilities."""
    engine = slot.engine()
    own, most = slot.count(24), slot.count(1024)

    def asked(many: int) -> list[GenerateRequest]:
        found = []
        for i, r in enumerate(slot.asked(many, 3, 0.0)):
            params = SamplingParams(max_new_tokens=3 if slot.tiny else 20, temperature=0.8 * (i % 2), seed=5,
                                    logprobs=True, ignore_eos=True)  # fmt: skip
            found.append(GenerateRequest(r.id, r.prompt, params, r.adapter, (f"item-{i}", 0)))
        return found

    def bits(many: int, forget: bool = True) -> list[tuple[tuple[int, ...], bytes]]:
        if forget:
            engine.reset_prefix_cache()
        results = engine.generate(asked(many))[:own]
        return [(r.token_ids, torch.tensor(r.logprobs).numpy().tobytes()) for r in results]

    alone = bits(own)
    differing: dict[str, int] = {}
    for many in (most,) if slot.tiny else (44, 255, 256, 257, 300, 1024):
        found = bits(many)
        differing[f"{many} at once"] = sum(a != b for a, b in zip(alone, found, strict=True))
    found = bits(slot.count(300), forget=False)
    differing["300, prefixes cached"] = sum(a != b for a, b in zip(alone, found, strict=True))
    slot.say(f"of {own} requests, those whose bits differ from alone: {differing}")
    del engine
    slot.free()
    # A cache so small that sequences give their blocks back and are computed again.
    block = 2 * slot.config.num_layers * slot.config.num_kv_heads * slot.config.head_dim * 16
    small = EngineSettings(kv_bytes=block * (2 if slot.device == "cuda" else 4) * (60 if slot.tiny else 600))
    engine = random_engine(slot.config, device=slot.device, settings=small, weights=slot.base())
    for i, name in enumerate(PERSONAS[:2]):
        engine.add_adapter(name, random_adapter(slot.config, 8, i + 1))
    found = bits(slot.count(100))
    differing["100, preempted"] = sum(a != b for a, b in zip(alone, found, strict=True))
    slot.say(f"{differing}, {engine.stats.preemptions} preemptions")
    return {"own": own, "differing": differing, "preemptions": engine.stats.preemptions}


def quantised(slot: Slot) -> dict[str, Any]:
    """Weights of each kind, then keys and values of fp8: the headline's rate, and bits alone and in company."""
    runs, differing = [], {}
    # The interpreter takes half a minute for each.
    chosen = [("int4", "fp8")] if slot.tiny else [("fp8", AUTO), ("int4", AUTO), ("int8", AUTO), (AUTO, "fp8")]
    for weights, kv_dtype in chosen:
        name = weights if weights != AUTO else f"keys and values of {kv_dtype}"
        if slot.deadline - time.monotonic() < 25 and not slot.tiny:
            slot.say(f"{name}: no time left")
            break
        engine = slot.engine(weights=weights, kv_dtype=kv_dtype)
        slot.say(f"{name}: {engine.describe()['tiles']}, {engine.describe()['memory']}")
        _warm(slot, engine, 3)
        runs.append(_run(slot, engine, f"{name}, personas, 1,024 at once", 1024, 3, 0.8))
        few, many = (
            [_with_logprobs(r) for r in slot.asked(count, 3, 0.0)] for count in (slot.count(12), slot.count(300))
        )
        engine.reset_prefix_cache()
        alone = engine.generate(few)
        engine.reset_prefix_cache()
        among = engine.generate(many)[: len(alone)]
        pairs = zip(alone, among, strict=True)
        differing[name] = sum((a.token_ids, a.logprobs) != (b.token_ids, b.logprobs) for a, b in pairs)
        slot.say(f"{name}: of {len(alone)} requests the bits of {differing[name]} differ from alone")
        del engine
        slot.free()
    return {"runs": runs, "differing": differing}


def _with_logprobs(request: GenerateRequest) -> GenerateRequest:
    most = min(20, request.sampling.max_new_tokens)
    return replace(request, sampling=replace(request.sampling, max_new_tokens=most, logprobs=True))


def oracle(slot: Slot) -> dict[str, Any]:
    """Log-probabilities of prompts on the same random weights: ours, and transformers' in ours and in single precision.

    A smaller model, so that all three fit; in bf16 ours should be about as near as theirs.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    hidden, inner, heads, layers, vocab = (64, 96, 4, 2, 500) if slot.tiny else (2048, 5632, 16, 8, 32000)
    about = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "intermediate_size": inner,
        "num_attention_heads": heads, "num_key_value_heads": heads // 2, "num_hidden_layers": layers,
        "vocab_size": vocab, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": False,
    }  # fmt: skip
    torch.manual_seed(0)
    dtype = torch.bfloat16 if slot.device == "cuda" else torch.float32
    with torch.device(slot.where):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**about), dtype=dtype, trust_remote_code=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs.save_pretrained(folder)
        config = read_config(folder)
        weights = load_weights(folder, config, dtype, slot.where, DeviceWeight)
    settings = EngineSettings(kv_bytes=2**20 if slot.tiny else 2**30, max_batched_tokens=64 if slot.tiny else None)
    engine = random_engine(config, device=slot.device, settings=settings, weights=weights)
    texts = [text[:200] for text in prompts(slot.lengths(64), vocab)]
    one = SamplingParams(max_new_tokens=1, ignore_eos=True)
    asked = [GenerateRequest(str(i), text, one, prompt_logprobs=True) for i, text in enumerate(texts)]
    ours = torch.cat([torch.tensor(r.prompt_logprobs, dtype=torch.float64) for r in engine.generate(asked)])

    def logprobs(text: tuple[int, ...]) -> Tensor:
        ids = torch.tensor([text], device=slot.where)
        with torch.inference_mode():
            logits = theirs(ids).logits[0, :-1].float().log_softmax(-1)
        picked: Tensor = logits.gather(1, ids[0, 1:, None])[:, 0]
        return picked.double().cpu()

    same = torch.cat([logprobs(text) for text in texts])
    theirs.float()
    exact = torch.cat([logprobs(text) for text in texts])
    found = {
        f"{name}_{of}": float(getattr((values - exact).abs(), of)())
        for name, values in (("ours", ours), ("theirs", same))
        for of in ("mean", "max")
    }
    slot.say(f"log-probabilities of {len(exact):,} tokens, from single precision: {found}")
    return {"tokens": len(exact), **found}


def kernels(slot: Slot) -> dict[str, Any]:
    """Every kernel against its twin and its roofline, and each product at every tile."""
    from warmeng.bench.cases.case import tiny, workload
    from warmeng.bench.kernels import run_all
    from warmeng.bench.tables import kernel_lines

    sizes = tiny("llama-3.1-8b", torch.float32) if slot.tiny else workload(slot.shape, slot.where)
    until = min(slot.deadline - 5, time.monotonic() + 90)
    roof = None if slot.tiny else slot.roofline
    found, left_out = run_all(sizes, roof, budget=0.04, left=lambda: until - time.monotonic())
    for line in kernel_lines(found):
        slot.say(line)
    return {"kernels": [asdict(f) for f in found], "left_out_kernels": left_out}


def huggingface(slot: Slot) -> dict[str, Any]:
    """Static batches of ``generate`` on the same shape and lengths: 256 at once, then 512."""
    slot.weights = None
    slot.free()
    model = RandomHf(slot.shape, slot.where)
    lengths = slot.lengths(1024)
    texts = prompts(lengths, slot.config.vocab_size)
    model.static(texts[:4], [Lengths(x.prompt, 4) for x in lengths[:4]], min(4, len(texts)), 1)
    rates: dict[str, float | None] = {}
    for batch in (256, 512):
        if slot.deadline - time.monotonic() < 45 and batch != 256:
            break
        reached = model.static(texts, lengths, slot.count(batch), 1)
        rates[str(batch)] = reached.rate if reached else None
        slot.say(f"transformers, batch {batch}: {rates[str(batch)]} output tokens/s")
    best = max((r for r in rates.values() if r), default=0.0)
    ours = slot.rates.get("deterministic, personas, 1,024 at once")
    return {"rates": rates, "ratio": ours / best if ours and best else None}


def grade(slot: Slot) -> dict[str, Any]:
    """Exact label grades a second after a cached prefix of 800 tokens."""
    engine = slot.engine(adapters=0)
    prefix, new, many = (40, 10, 4) if slot.tiny else (800, 480, 512)
    engine.score(grade_requests(min(many, 32), slot.config.vocab_size, prefix, new, seed=0))
    began = time.perf_counter()
    results = engine.score(grade_requests(many, slot.config.vocab_size, prefix, new, seed=1))
    seconds = time.perf_counter() - began
    assert all(r.status == "ok" for r in results)
    item = 2 if slot.device == "cuda" else 4
    floor = grading_floor(decoder(slot.config, item), prefix, new + 3, 4, many, slot.roofline).seconds
    slot.say(f"{many / seconds:,.1f} grades a second, {floor / seconds:.1%} of the roofline")
    return {
        "requests": many,
        "seconds": seconds,
        "rate": many / seconds,
        "floor_seconds": floor,
        "share": floor / seconds,
    }


STAGES: dict[str, Stage] = {
    s.__name__: s
    for s in (roofline, deterministic, blocks, invariance, quantised, oracle, fast, grade, huggingface, kernels)
}
