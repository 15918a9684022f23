"""The committed lengths, what a model must do by hand-computed numbers, and the form of what is kept."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
import torch

from warmeng.bench import environment
from warmeng.bench.cost_model import generation_floor, grading_floor
from warmeng.bench.lengths import (
    Lengths,
    decoding_contexts,
    make_lengths,
    mean_context,
    prompts_of,
    read_lengths,
    write,
)  # fmt: skip
from warmeng.bench.roofline import measure_roofline
from warmeng.bench.timing import copies, measure
from warmeng.common.errors import InputError
from warmeng.engine.config import read_config
from warmeng.engine.prediction.card import NOMINAL_H100, Roofline
from warmeng.engine.prediction.decoder import decoder
from warmeng.engine.shapes import SHAPES, shape_config


def test_the_committed_lengths_are_those_that_the_function_makes():
    committed = files("warmeng.bench").joinpath("data/lengths.jsonl").read_bytes()
    assert write(make_lengths()) == committed
    assert read_lengths(3) == make_lengths(3)
    assert len(read_lengths(2050)) == 2050


def test_the_lengths_are_the_workloads():
    lengths = make_lengths()
    assert all(60 <= x.prompt <= 400 and 150 <= x.answer <= 300 for x in lengths)
    assert sum(x.answer for x in lengths) / len(lengths) == pytest.approx(250, abs=3)
    assert mean_context(lengths) == pytest.approx(325, abs=3)
    assert mean_context([Lengths(10, 2)]) == 11.5  # the two tokens see 11 and 12 slots
    contexts = decoding_contexts(4000)
    assert sum(contexts) / len(contexts) == pytest.approx(mean_context(lengths), rel=0.02)
    assert sum(prompts_of(4096)) == 4096
    assert max(prompts_of(4096)) <= 400


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_sound_configurations(shape, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SHAPES[shape]))
    assert shape_config(shape) == read_config(tmp_path) == shape_config(tmp_path)


def test_an_unknown_shape_is_refused_by_name():
    with pytest.raises(InputError, match=r"no such shape 'llama-9': expected a folder or one of llama-3\.1-8b"):
        shape_config("llama-9")


def test_what_llama_8b_must_do():
    # A layer: q and o 4096 x 4096 each, k and v 1024 x 4096 each, three of 14336 x 4096: 218,103,808 numbers.
    # 32 layers and a head of 128256 x 4096: 7,504,658,432 numbers of two bytes.
    model = decoder(shape_config("llama-3.1-8b"))
    assert model.layer_weights == 32 * 218_103_808
    assert model.weight_bytes == 2 * 7_504_658_432 == 15_009_316_864
    assert model.token_operations == 15_009_316_864
    assert model.kv_bytes == 131_072  # 2 x 32 layers x 8 heads x 128 x 2 bytes
    assert model.pair_operations == 4 * 32 * 32 * 128


def test_the_floor_of_generation_by_hand():
    # Per 250 tokens of answer and 200 of prompt: (250 x 15.01 + 200 x 13.96) GFLOP at 800 TFLOP/s is 8.18 ms, and
    # 250 x 325 x 131,072 B at 3.35 TB/s is 3.18 ms: 22.0 thousand tokens a second.
    model = decoder(shape_config("llama-3.1-8b"))
    many = [Lengths(200, 250)] * 2560
    floor = generation_floor(model, many, 512, NOMINAL_H100)
    assert 250 * 2560 / floor.seconds == pytest.approx(22_000, rel=0.01)
    # One sequence at a time reads all weights for each token: 4.48 ms, and little else.
    alone = generation_floor(model, many[:1], 1, NOMINAL_H100)
    assert alone.steps == 250
    assert alone.products == pytest.approx(250 * 15.009e9 / 3.35e12, rel=1e-3)


def test_the_floor_of_grading_by_hand():
    # 480 tokens x 13.96 GFLOP at 800 TFLOP/s: 8.4 ms; with the head and attention 8.7 ms.
    model = decoder(shape_config("llama-3.1-8b"))
    assert 100 / grading_floor(model, 800, 480, 4, 100, NOMINAL_H100).seconds == pytest.approx(115, abs=2)


def test_the_binding_ceiling_is_named():
    roof = Roofline(100.0, 1000.0, "bfloat16", {}, {})
    assert roof.seconds(200.0, 500.0) == 2.0
    assert roof.bound(200.0, 500.0) == "bytes"
    assert roof.bound(10.0, 500.0) == "operations"


def test_the_roofline_of_a_cpu():
    said: list[str] = []
    found = measure_roofline(torch.device("cpu"), sizes=(2**20,), sides=(64,), seconds=0.01, say=said.append)
    assert found.dtype == "float32"
    assert found.bytes_per_second > 1e6
    assert found.operations_per_second > 1e6
    assert len(said) == 2


def test_inputs_are_rotated_while_the_cache_could_hold_them():
    assert copies(1e9) == 1
    assert copies(1e8) == 4
    assert copies(10) == 48
    calls = [0, 0]

    def count(i: int) -> None:
        calls[i] += 1

    timing = measure([lambda: count(0), lambda: count(1)], torch.device("cpu"), 0.001)
    assert 0 < timing.low <= timing.seconds <= timing.high
    assert abs(calls[0] - calls[1]) <= 1


def test_a_line_says_where_it_was_measured(tmp_path):
    where = environment.environment(torch.device("cpu"))
    text = environment.line("roofline", where, {"by_side": {64: 1.0}})
    record = json.loads(text)
    assert "\n" not in text
    assert {"bench", "device", "backend", "driver", "versions", "commit", "by_side"} <= set(record)
    assert set(record["versions"]) == {"torch", "triton", "transformers", "peft", "trl", "warmeng"}
    path = environment.save("roofline", where, text, tmp_path)
    environment.save("roofline", where, text, tmp_path)
    assert path.name == "roofline-cpu.jsonl"
    assert environment.read(tmp_path, "roofline") == [record, record]


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("", "unknown"),
    ],
)
def test_file_names_of_cards(device, expected):
    assert environment.slug(device) == expected
