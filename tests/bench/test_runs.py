"""The benches of generation and grading on tiny shapes, the kernels' in the interpreter, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from warmeng.bench import environment
from warmeng.bench.finetune import compare_training
from warmeng.bench.grade import grade_requests, measure_grades
from warmeng.bench.hf import RandomHf
from warmeng.bench.lengths import Lengths
from warmeng.bench.plot import draw_all
from warmeng.bench.tables import grade_lines, training_lines, workload_lines
from warmeng.bench.workload import Options, measure_workload
from warmeng.engine.prediction.card import Roofline

ROOF = Roofline(1e10, 1e11, "float32", {}, {})


def warmeng(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command without a card."""
    code = "from warmeng.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **env},
    )


def test_the_workload_on_a_tiny_shape(shape, tmp_path):
    said: list[str] = []
    options = Options(shape, "cpu", repeats=1, modes=("deterministic", "fast"), curve=(2, 400), baseline=False)
    lengths = [Lengths(5 + i, 3 + i) for i in range(6)]
    found = measure_workload(options, roofline=ROOF, lengths=lengths, say=said.append)
    assert [(run.mode, run.mix) for run in found.runs] == [
        ("deterministic", "personas"), ("deterministic", "base"), ("fast", "personas"), ("fast", "base"),
    ]  # fmt: skip
    assert [run.batch for run in found.curve] == [2, 2]
    assert all(run.rate > 0 and 0 < run.share < 1 for run in found.runs)
    assert found.output_tokens == found.runs[0].tokens
    assert found.runs[0].steps >= 8
    assert "deterministic, 400 at once: only 6 requests" in found.left_out
    text = environment.line("workload", environment.environment(torch.device("cpu")), vars(found))
    record = json.loads(text)
    assert {"shape", "config", "runs", "curve", "hf_by_batch", "hf_continuous", "roofline", "predicted_rate"} <= set(
        record
    )
    assert record["config"]["hidden_size"] == 32
    lines = "\n".join(workload_lines(found))
    assert "3 personas, 6 requests" in lines
    assert "left out: deterministic, 400 at once" in lines


def test_what_there_is_no_time_for_is_named(shape):
    found = measure_workload(Options(shape, "cpu", requests=4, repeats=1), roofline=ROOF, left=lambda: 0.0)
    assert found.left_out == ["engine, deterministic: no time left", "transformers: no time left"]
    assert found.runs == []


def test_transformers_runs_the_same_lengths(shape):
    hf = RandomHf(shape, torch.device("cpu"))
    lengths = [Lengths(5, 4), Lengths(9, 7), Lengths(3, 2)]
    prompts = [tuple(range(10, 10 + x.prompt)) for x in lengths]
    found = hf.static(prompts, lengths, 2, rounds=2)
    assert found is not None
    assert found.tokens == 13  # those that were asked for, not those of the longest
    assert found.rate > 0


def test_grading_finds_the_prefix_in_the_cache(shape):
    found = measure_grades(shape, device="cpu", count=3, repeats=1, prefix=64, new=9, roofline=ROOF)
    assert found.cached_share == 1.0
    assert found.rates[0] > 0
    assert "3 labels of two tokens" in grade_lines(found)[1]
    first, other = grade_requests(2, 300, 32, 4)
    assert first.prompt[:32] == other.prompt[:32]
    assert first.prompt != other.prompt


def test_pictures_of_saved_lines_only(tmp_path):
    assert draw_all(tmp_path) == []
    where = environment.Environment("NVIDIA H100 80GB HBM3", "cuda", "1", "13", 132, 1, {}, None)
    run = {"mode": "fast", "mix": "base", "batch": 32, "rates": [9.0, 10.0], "tokens": 100, "floor_seconds": 2.0}
    curve = {
        "shape": "llama-3.1-8b",
        "curve": [run, run | {"batch": 64}],
        "hf_by_batch": {"32": 4.0, "64": "out of memory"},
    }
    environment.save("workload", where, environment.line("workload", where, curve), tmp_path)
    result = {"kernel": "k", "shape": "1 x 2", "share": 0.5, "floor_seconds": 1.0, "others": {"a": {"seconds": 2.0}}}
    kernels = {"shape": "llama-3.1-8b", "results": [result, result | {"share": None}]}
    environment.save("kernels", where, environment.line("kernels", where, kernels), tmp_path)
    pictures = draw_all(tmp_path)
    assert [p.name for p in pictures] == ["workload-h100-llama-3.1-8b.png", "kernels-h100-llama-3.1-8b.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)


@pytest.mark.slow
def test_kernels_without_a_card_are_refused_in_one_line():
    done = warmeng("bench", "kernels")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--interpret" in done.stderr


@pytest.mark.parametrize(("args", "said"), [
    (("generate", "--shape", "llama-3.1-8b"), "--shape"),
    (("generate", "--adapter", "lukewarm"), "--adapter is 'lukewarm', expected a new NAME=FOLDER of a PEFT adapter"),
    (("workload", "--pairs", "4"), "--pairs"),
    (("workload", "--curve", "8,none"), "--curve is '8,none', expected numbers of sequences as 32,64,128"),
    (("host", "--sequences", "0"), "--sequences is '0', expected numbers of sequences as 32,64,128"),
])  # fmt: skip
def test_what_a_bench_does_not_know_is_refused(args, said):
    done = warmeng("bench", *args)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_kernels_are_checked_in_the_interpreter():
    done = warmeng("bench", "kernels", "--interpret", "--only", "attention", "--only", "silu", "--only", "norm")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["interpreted"] is True
    assert len(record["results"]) >= 8
    assert all(r["error"] <= r["tolerance"] and r["seconds"] is None for r in record["results"])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_an_unwritten_output_is_found():
    code = (
        "import os; os.environ['TRITON_INTERPRET'] = '1'\n"
        "import torch\n"
        "from warmeng.bench.cases.case import Case, Work\n"
        "from warmeng.bench.kernels import check\n"
        "work = Work(lambda: (torch.empty(3),), lambda: (torch.ones(3).double(),))\n"
        "case = Case('k', 's', 1, 0, lambda seed: work, 1e-2)\n"
        "found = check(case)\n"
        "assert found.error != found.error and not found.correct\n"
        "assert not torch.are_deterministic_algorithms_enabled()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_trainers_make_the_same_steps_and_the_others_take_their_best_batch(tiny_model):
    few = {"pairs": 2, "batch": 4, "max_length": 512, "trl": False}
    found = compare_training(str(tiny_model()), personas=("warm", "cold"), device="cpu", **few)
    assert set(found.peft_by_micro_batch) == {1, 2, 4}
    assert found.peft_by_micro_batch[found.peft_micro_batch] == max(found.peft_by_micro_batch.values())
    assert len(found.ours) == len(found.peft) == 2
    assert min(a / b for a, b in zip(found.ours, found.peft, strict=True)) <= found.ratio_peft
    assert found.trl == []
    lines = training_lines(found)
    assert [line.split()[0] for line in lines] == ["warmeng", "PEFT,"]
    beside = dataclasses.replace(found, trl=[10.0, 30.0, 20.0], trl_micro_batch=2, ratio_trl=1.5)
    assert "20.0 tokens/s (10.0 to 30.0), 2 conversations at once; ours is 1.50 times" in training_lines(beside)[-1]
