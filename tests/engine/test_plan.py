"""What a base takes: against the tensors themselves, made without memory; and the command that tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from warmeng.cli.main import warmeng
from warmeng.common.cards import CARDS
from warmeng.common.errors import UsageError
from warmeng.engine.checkpoint import load_weights, num_weights, projection_shapes
from warmeng.engine.config import read_config
from warmeng.engine.engine import Engine
from warmeng.engine.plan import KINDS, cpu_weight_bytes, plans, refuse_beyond_memory, refuse_too_large, weight_bytes
from warmeng.engine.scheme import Scheme
from warmeng.engine.shapes import shape_config
from warmeng.kernels.linear import Projection
from warmeng.kernels.quantized import Int4, RowScaled, Weight, round_weight

GIB = 2**30


def held(weight: Weight) -> int:
    """Return the bytes of a weight's tensors."""
    if isinstance(weight, torch.Tensor):
        return weight.nbytes
    parts = (getattr(weight, field.name) for field in fields(weight))
    return sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.1-70b", "qwen2.5-32b", "smollm2-135m"])
def test_weights_take_what_their_tensors_take(name: str, kind: str) -> None:
    config = shape_config(name)
    shapes = projection_shapes(config)
    head = shapes.pop("head")
    layer = 0
    for shape in shapes.values():
        plain = torch.empty(shape, dtype=torch.bfloat16, device="meta")
        layer += held(plain if kind == "bfloat16" else round_weight(plain, kind))
    outer = 2 * head[0] * head[1] * (1 if config.tie_word_embeddings else 2)
    bias = shapes["qkv"][0] if config.qkv_bias else 0
    norms = 2 * (config.num_layers * (2 * config.hidden_size + bias) + config.hidden_size)
    assert weight_bytes(config, kind) == config.num_layers * layer + outer + norms


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen2-bias", "qwen3-norm", "llama-tied"])
def test_a_whole_model_takes_what_is_planned(tiny_model: Callable[[str], Path], family: str, kind: str) -> None:
    folder = tiny_model(family)
    config = read_config(folder)
    seen: list[int] = []

    class Held:
        def __init__(self, weight: Weight) -> None:
            self.shape = (weight.shape[0], weight.shape[1])
            seen.append(held(weight))

        def multiply(self, x: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError

    project: Callable[[Weight], Projection] = Held
    found = load_weights(folder, config, torch.bfloat16, project=project, kind="auto" if kind == "bfloat16" else kind)
    # A tied head is the embedding.
    beside = 0 if config.tie_word_embeddings else found.embed.nbytes
    for layer in found.layers:
        vectors = (layer.attn_norm, layer.mlp_norm, layer.qkv_bias, layer.q_norm, layer.k_norm)
        beside += sum(vector.nbytes for vector in vectors if vector is not None)
    assert weight_bytes(config, kind) == sum(seen) + beside + found.final_norm.nbytes


def test_a_checkpoints_own_groups_and_zeros_count() -> None:
    scheme = Scheme("awq", "int4", 64, symmetric=False)
    config = replace(shape_config("llama-3.1-8b"), quantization=scheme)
    (only,) = plans(config, 80 * GIB, 512)
    assert only.kind == "int4"
    body = num_weights(config) - 2 * config.vocab_size * config.hidden_size
    # Half a byte a weight, and for 64 of them a scale of 2 bytes and a zero of 1.
    assert only.weights == pytest.approx(body * (0.5 + 3 / 64) + 4 * config.vocab_size * config.hidden_size, rel=1e-4)


def test_large_models_on_one_card() -> None:
    h100, h200 = (CARDS[name] * 2**20 for name in ("h100", "h200"))
    config = shape_config("llama-3.1-70b")
    on = {memory: {p.kind: p for p in plans(config, memory, 325)} for memory in (h100, h200)}
    sizes = {kind: plan.weights / GIB for kind, plan in on[h100].items()}
    assert sizes == pytest.approx({"bfloat16": 131.4, "int8": 67.7, "fp8": 67.7, "int4": 36.8}, abs=0.1)
    assert on[h100]["bfloat16"].sequences == 0
    # Numbers of half the size: twice the sequences, or one more.
    assert all(p.fp8_sequences // 2 == p.sequences for plans in on.values() for p in plans.values())
    assert 0 < on[h200]["bfloat16"].sequences < 100 < on[h100]["int4"].sequences < on[h200]["fp8"].sequences
    small = {p.kind: p for p in plans(shape_config("qwen2.5-32b"), h100, 325)}
    assert small["bfloat16"].weights / GIB == pytest.approx(61.0, abs=0.1)
    assert small["fp8"].weights / GIB == pytest.approx(32.0, abs=0.1)


def test_the_command() -> None:
    found = CliRunner().invoke(warmeng, ["models", "plan", "llama-3.1-70b", "--gpu", "h100", "--answers", "300"])
    assert found.exit_code == 0, found.output
    rows = {line.split()[0]: line.split()[1:] for line in found.output.splitlines()[2:]}
    assert rows["bfloat16"] == ["131.4", "no", "0", "0", "-"]
    assert 0 < float(rows["fp8"][-1]) < 1
    assert "predicted from bytes and operations at assumed shares of the card's ceilings, not measured" in found.output
    assert rows["fp8"][0] == "67.7"
    assert int(rows["int4"][2].replace(",", "")) > int(rows["fp8"][2].replace(",", "")) > 0
    other = CliRunner().invoke(warmeng, ["models", "plan", "llama-3.1-8b", "--gpu", "l40s"])
    assert "Hours are predicted for h100 and h200 alone" in other.output
    none = CliRunner().invoke(warmeng, ["models", "plan", "llama-3.1-8b", "--tokens", "100"])
    assert "--new-tokens is 192 of --tokens 100, expected fewer" in str(none.exception)
    none = CliRunner().invoke(warmeng, ["models", "plan", "no-such-model"])
    assert none.exit_code != 0


def test_kinds_are_those_of_the_layout() -> None:
    w = torch.ones(4, 64)
    assert [type(round_weight(w, kind)) for kind in KINDS[1:]] == [RowScaled, RowScaled, Int4]


@pytest.mark.parametrize(
    ("name", "free", "said"),
    [
        ("llama-3.1-70b", 80, "131.4 GiB as bfloat16, and of the card's 80.0 GiB 80.0 GiB are free: take --weights fp8 "
         "(67.7 GiB) or --weights int4 (36.8 GiB)"),
        ("llama-3.1-70b", 30, "take a smaller model, or a larger card: one model is not divided among several"),
        ("llama-3.1-8b", 10, "take --weights int8 (8.5 GiB) or --weights fp8 (8.5 GiB) or --weights int4 (5.3 GiB)"),
        ("llama-3.1-8b", 2, "of the card's 80.0 GiB 2.0 GiB are free: end what else uses the card"),
    ],
)  # fmt: skip
def test_a_model_that_is_too_large_for_a_card_is_refused_with_what_would_fit(name: str, free: int, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        refuse_too_large(shape_config(name), "bfloat16", free * GIB, 80 * GIB)
    assert said in str(caught.value)
    refuse_too_large(shape_config(name), "int4", 40 * GIB, 80 * GIB)


def test_a_model_that_is_beyond_the_memory_of_a_process_is_refused_before_it_is_read(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"about 29\.9 GiB and the cache 0\.2 GiB, and this process may use 16\.0 GiB"):
        refuse_beyond_memory(cpu_weight_bytes(shape_config("llama-3.1-8b"), "bfloat16", False), GIB // 4, 16 * GIB)
    refuse_beyond_memory(cpu_weight_bytes(shape_config("llama-3.1-8b"), "bfloat16", True), GIB // 4, 20 * GIB)
    refuse_beyond_memory(10**15, 0, None)
    monkeypatch.setattr("warmeng.engine.load.memory_limit", lambda: 2**20)
    with pytest.raises(UsageError, match=r"this process may use 0\.0 GiB"):
        Engine.load(str(tiny_model("llama")), device="cpu")
