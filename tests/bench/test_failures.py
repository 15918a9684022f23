"""What fails costs its own number and no other: modes, batches of other software, cases, captures."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from warmeng.bench import environment, hf, timing
from warmeng.bench.hf import HfRate
from warmeng.bench.lengths import Lengths, read_lengths
from warmeng.bench.record import Options, Run, WorkloadResult
from warmeng.bench.tables import workload_lines
from warmeng.bench.workload import make_engine, measure_workload, warming
from warmeng.engine.prediction.card import Roofline
from warmeng.engine.settings import EngineSettings, resolve_limits

ROOF = Roofline(1e10, 1e11, "float32", {}, {})
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def test_a_mode_that_fails_costs_no_other(shape, monkeypatch, capsys):
    def make(config: Any, device: str, settings: EngineSettings) -> Any:
        if not settings.fast:
            raise RuntimeError("no such\nkernel " + 400 * "x")
        return make_engine(config, device, settings)

    def broken(*args: object) -> None:
        raise OSError("no such model")

    monkeypatch.setattr(hf, "RandomHf", broken)
    kept: list[int] = []
    options = Options(shape, "cpu", repeats=1, modes=("deterministic", "fast"))
    found = measure_workload(
        options, make=make, roofline=ROOF, lengths=[Lengths(4, 3)] * 3, keep=lambda r: kept.append(len(r.runs))
    )
    assert [run.mode for run in found.runs] == ["fast", "fast"]
    assert found.failed == ["deterministic"]
    assert found.left_out[0].startswith("engine, deterministic: RuntimeError: no such kernel xxx")
    assert len(found.left_out[0]) < 360
    assert found.left_out[1] == "transformers: OSError: no such model"
    assert kept == [1, 2, 2]  # after each run, and before transformers
    assert [run.oom_steps for run in found.runs] == [0, 0]
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("WARMENG_DEBUG", "1")
    measure_workload(dataclasses.replace(options, modes=("deterministic",)), make=make, roofline=ROOF,
                     lengths=[Lengths(4, 3)])  # fmt: skip
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_saves_what_there_is_and_fails(shape, tmp_path):
    args = ["bench", "workload", "--shape", shape, "--requests", "2", "--repeats", "1",
            "--baseline", "none", "--save", str(tmp_path / "saved")]  # fmt: skip
    code = """
from warmeng.bench import workload
from warmeng.engine.prediction.card import Roofline
from warmeng.cli.main import main
from warmeng.engine.engine import Engine
workload.measure_roofline = lambda *given, **more: Roofline(1e10, 1e11, "float32", {}, {})
del Engine.add_adapter
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode != 0
    assert "the engine failed, deterministic" in done.stderr
    assert [p.name for p in (tmp_path / "saved").iterdir()] == ["workload-cpu.jsonl"]
    assert [record["runs"] for record in environment.read(tmp_path / "saved", "workload")] == [[]]


def test_what_was_there_when_a_bench_was_ended(tmp_path):
    partial = environment.Partial("workload", torch.device("cpu"), tmp_path)
    for count in (1, 2):
        partial.keep({"runs": [0] * count})
    (path,) = tmp_path.iterdir()
    assert path.suffix == ".partial"
    assert json.loads(path.read_text())["runs"] == [0, 0]
    assert environment.read(tmp_path, "workload") == []
    partial.remove()
    assert not path.exists()
    environment.Partial("workload", torch.device("cpu"), None).keep({})
    assert list(tmp_path.iterdir()) == []


def beside(shape: str, rates: dict[int, Any], monkeypatch: pytest.MonkeyPatch, asked: list[int]) -> WorkloadResult:
    """Return what stands beside a run of 1,000 tokens a second, where ``transformers`` reaches ``rates``."""

    class Fake:
        def __init__(self, shape: str, device: torch.device) -> None:
            pass

        def static(self, prompts: object, lengths: object, batch: int, rounds: int) -> HfRate | None:
            if batch == 4:
                return HfRate(1, 1.0)
            asked.append(batch)
            rate = rates[batch]
            if isinstance(rate, Exception):
                raise rate
            return rate and HfRate(rate, 1.0)

        def continuous(self, prompts: list[Any], lengths: list[Any], patience: float) -> HfRate | str:
            asked.append(len(prompts))
            return HfRate(90, 1.0)

    monkeypatch.setattr(hf, "RandomHf", Fake)
    lengths = [Lengths(3, 2)] * 600
    result = measure_workload(Options(shape, "cpu", modes=(), baseline=False), roofline=ROOF, lengths=lengths)
    result.runs.append(Run("fast", "personas", 4, 600, 1200, [1000.0], 9, 1.0, 0.5, oom_steps=2))
    kept: list[dict[int, Any]] = []
    hf.compare(
        Options(shape, "cpu"), torch.device("cpu"), [(1, 2, 3)] * 600, lengths, result, say=lambda line: None,
        left=lambda: 100.0, keep=lambda r: kept.append(dict(r.hf_by_batch)),
    )  # fmt: skip
    assert kept
    assert kept[-1] == result.hf_by_batch
    return result


def test_transformers_goes_on_with_smaller_batches(shape, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(hf, "find_spec", lambda name: None)
    found = beside(shape, {256: None, 128: 200, 64: 100, 32: 50}, monkeypatch, asked)
    assert asked == [256, 128, 64, 32, 128]  # the likeliest first; few requests where all tokens are multiplied
    assert list(found.hf_by_batch.items()) == [(32, 50.0), (64, 100.0), (128, 200.0), (256, "out of memory")]
    assert found.left_out == ["transformers, batch 512: fewer were out of memory already"]
    assert found.hf_batch == 128
    assert found.ratio == 5.0
    lines = "\n".join(workload_lines(found))
    assert "continuous batching: paged SDPA, no flash-attn" in lines
    assert "fast, personas, 600 requests: 2 steps found no memory" in lines
    assert lines.index("batch 32") < lines.index("batch 128") < lines.index("batch 256")


def test_there_is_no_ratio_without_the_likeliest_batch(shape, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(hf, "find_spec", lambda name: object() if name == "flash_attn" else None)
    found = beside(shape, {256: ValueError("odd"), 128: 200, 512: 300, 64: 100, 32: 50}, monkeypatch, asked)
    assert asked == [256, 128, 512, 64, 32, 512]
    assert found.hf_by_batch[256] == "ValueError: odd"
    assert found.hf_continuous_name == "continuous batching"
    assert found.ratio is None
    assert found.left_out == ["ratio: transformers was not measured at batch 256, its likeliest best"]


@pytest.mark.parametrize("batch", [1, 40, 512, 1024])
def test_warming_up_has_the_whole_batch_at_once(batch):
    limits = resolve_limits(EngineSettings(), "cuda", 8192)
    short = warming(read_lengths(batch), limits, "cuda")
    prompts, answers = [x.prompt for x in short], [x.answer for x in short]
    sizes, steps = set(), 0
    while any(answers):
        decoding = [i for i in range(batch) if prompts[i] == 0 and answers[i]]
        room = limits.max_batched_tokens - len(decoding)
        for i in decoding:
            answers[i] -= 1
        for i in range(batch):  # a prompt's last part chooses the first token of its answer
            taken = min(prompts[i], room)
            room -= taken
            prompts[i] -= taken
            answers[i] -= taken > 0 and prompts[i] == 0
        sizes, steps = sizes | {len(decoding)}, steps + 1
    assert max(sizes) == batch
    assert sizes >= set(range(1, min(batch, 8)))  # the smallest graphs too are captured before anything is timed
    assert steps < 64 + 2 * 75
    assert max(x.answer for x in warming(read_lengths(batch), limits, "cpu")) <= 4


def test_what_is_declared_uncaptured_is_never_captured(monkeypatch):
    tried: list[str] = []

    def failing(calls: object) -> None:
        tried.append("capture")
        raise RuntimeError("the host was asked")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(timing, "_capture", failing)
    monkeypatch.setattr(timing, "_events", lambda run, count, budget, way: tried.append(way))
    timing.measure([lambda: None], torch.device("cuda"), captured=False)
    assert tried == ["events"]
    timing.measure([lambda: None], torch.device("cuda"))
    assert tried == ["events", "capture", "events"]


@needs_triton
def test_cases_that_were_measured_outlive_the_allocator(monkeypatch):
    from warmeng.bench import kernels

    cases = [SimpleNamespace(kernel=f"k{i}", shape="s", bytes=1, after_bytes=0, operations=0, tolerance=1) for i in
             range(3)]  # fmt: skip

    def check(case: Any) -> kernels.Found:
        if case.kernel == "k0":
            raise ValueError("wrong")
        return kernels.Found(case.kernel, case.shape, 1, 0, 1, error=0.0)

    def empty_cache() -> None:
        emptied.append(1)
        assert len(emptied) < 2, "INTERNAL ASSERT FAILED"

    emptied: list[int] = []
    kept: list[int] = []
    monkeypatch.setattr(kernels, "all_cases", lambda sizes, only: cases)
    monkeypatch.setattr(kernels, "check", check)
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    sizes: Any = SimpleNamespace(device=torch.device("cuda"))
    found, left_out = kernels.run_all(sizes, None, keep=lambda some: kept.append(len(some)))
    assert [f.kernel for f in found] == ["k0", "k1"]
    assert found[0].failed == "ValueError: wrong"
    assert kept == [1, 2]
    assert len(left_out) == 1
    assert left_out[0].startswith("k2, s: after k1, s, memory can't be given back: AssertionError: INTERNAL")


@needs_triton
def test_only_ours_are_poisoned():
    from warmeng.bench import kernels
    from warmeng.bench.cases.case import Case, Work

    def strict() -> tuple[torch.Tensor]:
        return (torch.ones(1) * torch.are_deterministic_algorithms_enabled(),)

    work = Work(strict, lambda: (torch.ones(1).double(),), {"other": strict}, {"variant": strict})
    case = Case("k", "s", 1, 0, lambda seed: work, 1e-2)
    assert kernels._error(case, "variant", ours=True) == 0.0
    assert kernels._error(case, "other", ours=False) == 1.0


@needs_triton
def test_what_asks_the_host_is_declared():
    from warmeng.bench.cases.case import tiny
    from warmeng.bench.kernels import all_cases

    cases = all_cases(dataclasses.replace(tiny("llama-3.1-8b", torch.float32), timed=True), ["sample", "decode"])
    asks = {case.kernel: case.uncaptured for case in cases}
    assert asks["decode attention"] == {"flex_attention, dense"}
    assert asks["sample: temperature 1"] == {"softmax, sort, multinomial"}
    assert asks["sample: greedy"] == set()


@needs_triton
def test_what_stands_beside_attention_computes_the_same():
    from warmeng.bench.cases import attention
    from warmeng.bench.cases.case import tiny

    sizes = dataclasses.replace(tiny("llama-3.1-8b", torch.float32), timed=True)
    assert sizes.config.num_heads > sizes.config.num_kv_heads
    for case in attention.cases(sizes):
        work = case.make(3)
        assert case.uncaptured <= set(work.others)
        for name, other in work.others.items():
            if name not in case.uncaptured:  # those are compiled, which takes a minute
                assert work.error(other(), work.twin()) <= case.tolerance, (case.kernel, case.shape, name)
