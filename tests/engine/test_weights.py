"""An engine on quantised weights: as a plain twin computes it, in any company, with adapters beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from batches import essence, make_requests, run
from quantizing import SCHEMES, awq, tiny
from torch import Tensor
from transformers.models.llama import modeling_llama

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.config import read_config
from warmeng.engine.cpu.lora import CarriedLayers
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.identity import identity_of
from warmeng.engine.load import choose_weights
from warmeng.engine.provenance import provenance
from warmeng.engine.random import random_adapter
from warmeng.engine.request import GenerateRequest, SamplingParams
from warmeng.engine.shapes import shape_config
from warmeng.kernels.linear import add_lora
from warmeng.kernels.lora import CarriedAdapters, CarriedRows, Changes, Loras
from warmeng.kernels.quantized import RowScaled, quantize, round_weight, through_fp8
from warmeng.study.report.settings_text import weights_words
from warmeng.study.settings import StudySettings

SMALL = EngineSettings(kv_bytes=4 * 2**20, max_num_seqs=96)
KINDS = ("int8", "fp8", "int4")
TEXT = "A much longer prompt that spans several blocks of the cache, so that its tail attends to earlier ones. " * 2


class TwinLinear(torch.nn.Module):
    """A linear layer as the rules of quantised products have it, with sums of double precision."""

    def __init__(self, linear: torch.nn.Linear, kind: str, input_scale: float | None = None) -> None:
        super().__init__()
        self.weight, self.bias, self.input_scale = round_weight(linear.weight.detach(), kind), linear.bias, input_scale

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if isinstance(self.weight, RowScaled):
            values, scales = quantize(rows, self.weight.values.dtype, self.input_scale)
            sums = (values.double() @ self.weight.values.double().t()).float()
            y = sums * scales[:, None] * self.weight.scales
        else:
            y = (rows.double() @ self.weight.dequantized().double().t()).float()
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], y.shape[-1])


def twin(folder: Path, kind: str | None, input_scale: float | None = None) -> torch.nn.Module:
    """Return transformers' model of a plain checkpoint, its layers rounded to a kind."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    if kind is not None:
        for layer in model.model.layers:
            for block in (layer.self_attn, layer.mlp):
                for name, child in list(block.named_children()):
                    if isinstance(child, torch.nn.Linear):
                        setattr(block, name, TwinLinear(child, kind, input_scale))
    return model


def greedy(model: torch.nn.Module, ids: tuple[int, ...], count: int, vocab: int) -> list[int]:
    found = list(ids)
    with torch.no_grad():
        for _ in range(count):
            found.append(int(model(torch.tensor([found])).logits[0, -1, :vocab].argmax()))
    return found[len(ids) :]


def check_against(engine: Engine, model: torch.nn.Module) -> None:
    vocab = engine.tokenizer.vocab_size
    params = SamplingParams(max_new_tokens=12, ignore_eos=True)
    for k, text in enumerate(("Hello there", TEXT)):
        ids = tuple(engine.tokenizer.encode(text))
        (found,) = engine.generate([GenerateRequest(str(k), ids, params)])
        assert list(found.token_ids) == greedy(model, ids, 12, vocab)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen2-bias"])
def test_greedy_tokens_are_those_of_a_plain_twin(tiny_model: Callable[[str], Path], kind: str, family: str) -> None:
    folder = tiny_model(family)
    engine = Engine.load(str(folder), device="cpu", settings=replace(SMALL, weights=kind))
    check_against(engine, twin(folder, kind))


@pytest.mark.parametrize("name", list(SCHEMES))
@pytest.mark.slow
def test_greedy_tokens_of_a_quantised_checkpoint_too(
    tmp_path: Path, tiny_model: Callable[[str], Path], name: str
) -> None:
    folder, plain = tiny(tiny_model("llama"), tmp_path, SCHEMES[name])
    engine = Engine.load(str(folder), device="cpu", settings=SMALL)
    assert engine.quantization is not None
    kind = engine.quantization["kind"]
    if kind == "int4":
        check_against(engine, twin(plain, None))
        return
    dtype = torch.int8 if kind == "int8" else torch.float8_e4m3fn
    model = twin(plain, None)
    for layer in model.model.layers:  # type: ignore[union-attr, operator]
        for block in (layer.self_attn, layer.mlp):
            for part, child in list(block.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(block, part, Stored(child.weight.detach(), dtype, 0.02 if name == "fp8 static" else None))
    check_against(engine, model)


class Stored(torch.nn.Module):
    """A linear layer whose rows are rounded and whose weight, dequantised before, is multiplied as it is."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, scale: float | None) -> None:
        super().__init__()
        self.weight, self.dtype, self.scale = weight, dtype, scale

    def forward(self, x: Tensor) -> Tensor:
        values, scales = quantize(x.flatten(0, -2), self.dtype, self.scale)
        y = (values.double() @ self.weight.double().t() * scales[:, None]).float()
        return y.view(*x.shape[:-1], y.shape[-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_base_and_adapters_in_one_batch_are_as_alone(tiny_model: Callable[[str], Path], kind: str) -> None:
    engine = Engine.load(str(tiny_model("llama")), device="cpu", settings=replace(SMALL, weights=kind))
    alone = Engine.load(str(tiny_model("llama")), device="cpu", settings=replace(SMALL, weights=kind))
    for name, seed in (("a", 1), ("b", 2)):
        engine.add_adapter(name, random_adapter(engine.config, 4, seed))
    requests = make_requests(engine, 36, [None, "a", "b"])
    together = run(engine, requests)
    for adapter in (None, "a", "b"):
        some = [r for r in requests if r.adapter == adapter]
        assert run(engine, some) == {r.id: together[r.id] for r in some}
    # The base's bits are those of an engine that has no adapters at all.
    base = [r for r in requests if r.adapter is None]
    assert {r.id: essence(r) for r in alone.generate(base)} == {r.id: together[r.id] for r in base}
    # Adapters count: the same prompt is answered otherwise.
    text = GenerateRequest("x", requests[0].prompt, SamplingParams(max_new_tokens=4, logprobs=True))
    bits = [essence(engine.generate([replace(text, adapter=name)])[0]) for name in (None, "a", "b")]
    assert len(set(bits)) == 3


def test_keys_and_values_of_fp8(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's bits are the same in any company, with a cached prefix too; a twin rounds keys and values in place."""
    engine = Engine.load(str(tiny_model("llama")), device="cpu", settings=replace(SMALL, kv_dtype="fp8"))
    engine.add_adapter("a", random_adapter(engine.config, 4, 1))
    requests = make_requests(engine, 24, [None, "a"])
    together = run(engine, requests)
    assert {r.id: essence(r) for r in engine.generate(requests[::5])} == {r.id: together[r.id] for r in requests[::5]}
    assert run(engine, requests[7:8]) == {requests[7].id: together[requests[7].id]}
    plain = Engine.load(str(tiny_model("llama")), device="cpu", settings=SMALL)
    prompt = tuple(engine.tokenizer.encode(TEXT))
    asked = [GenerateRequest("x", prompt, SamplingParams(max_new_tokens=1, logprobs=True), prompt_logprobs=True)]
    found, other = engine.generate(asked)[0], plain.generate(asked)[0]
    model = twin(tiny_model("llama"), None)
    attend = modeling_llama.eager_attention_forward

    def rounded(module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, *others: Any, **named: Any) -> Any:
        return attend(module, q, through_fp8(k), through_fp8(v), *others, **named)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", rounded)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, :-1, : engine._runner.vocab_size].log_softmax(-1)
    expected = logits[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
    # What falls on the other side of a half is a step away.
    torch.testing.assert_close(torch.tensor(found.prompt_logprobs), expected, atol=0.02, rtol=0)
    assert float((torch.tensor(other.prompt_logprobs) - expected).abs().max()) > 0.02
    facts = [identity_of(e.describe()) for e in (engine, plain)]
    assert [f.get("kv_dtype") for f in facts] == ["fp8", None]
    with pytest.raises(UsageError, match="kv_dtype is 'int8', expected one of auto, fp8"):
        EngineSettings(kv_dtype="int8")


def test_adapters_are_multiplied_with_rows_that_are_not_rounded(tiny_model: Callable[[str], Path]) -> None:
    engine = Engine.load(str(tiny_model("llama")), device="cpu", settings=replace(SMALL, weights="int8"))
    ops = engine._runner.ops  # type: ignore[attr-defined]
    engine.add_adapter("a", random_adapter(engine.config, 4, 1))
    (layers,) = engine._runner._adapters.layers.values()  # type: ignore[attr-defined]
    x = torch.randn(8, 48, generator=torch.Generator().manual_seed(5))
    everywhere = CarriedRows(torch.arange(8), torch.ones(8))
    loras = Loras([layers[0]["qkv"]])
    carried = CarriedAdapters(8, [everywhere], loras.ranks)
    mixed, base = SimpleNamespace(adapters=CarriedLayers([{"qkv": loras}], carried)), SimpleNamespace(adapters=None)
    expected = ops.project(x, 0, "qkv", base)
    add_lora(expected, x, Changes(loras, carried))
    assert torch.equal(ops.project(x, 0, "qkv", mixed), expected)


def test_the_kind_is_part_of_what_determines_results(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    folder = str(tiny_model("llama"))
    facts = {}
    for kind in ("auto", *KINDS):
        engine = Engine.load(folder, device="cpu", settings=replace(SMALL, weights=kind))
        facts[kind] = engine.describe() | {"bits": engine.processor()["bits"]}
    assert "quantization" not in facts["auto"]
    assert "quantization" not in identity_of(facts["auto"])
    assert len({str(identity_of(f)) for f in facts.values()}) == len({f["bits"] for f in facts.values()}) == 4
    assert facts["int4"]["quantization"] == {
        "kind": "int4",
        "scheme": "int4, groups of 128 (64 or 32 where these fit), symmetric, to the nearest",
        "group": 128,
        "by": "warmeng, at load",
    }
    stored, _ = tiny(tiny_model("llama"), tmp_path, awq(16))
    about = Engine.load(str(stored), device="cpu", settings=SMALL).quantization
    assert about == {
        "kind": "int4", "scheme": "int4, groups of 16, with zero points (awq)", "group": 16, "by": "the checkpoint",
    }  # fmt: skip
    told = weights_words({"quantization": about})
    assert told is not None
    assert told.startswith("original is original (int4 weights): int4, groups of 16, with zero points (awq)")
    assert weights_words(facts["auto"]) is None


def test_what_can_not_be_chosen(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    folder, _ = tiny(tiny_model("llama"), tmp_path, awq(16))
    config = read_config(folder)
    assert choose_weights("int4", config) == choose_weights("auto", config) == "auto"
    with pytest.raises(UsageError, match="the checkpoint's are int4 already: take auto, or the original"):
        choose_weights("int8", config)
    with pytest.raises(UsageError, match="weights is 'nf4', expected one of auto, int8, fp8, int4"):
        EngineSettings(weights="nf4")
    small, large = shape_config("llama-3.1-8b"), shape_config("llama-3.1-70b")
    assert choose_weights("int8", small) == "int8"
    assert [choose_weights(kind, large) for kind in ("fp8", "int4", "auto")] == ["fp8", "int4", "auto"]
    with pytest.raises(UsageError, match=r"breaks models of the shape of Llama 3\.1 70B .* take fp8 or int4"):
        choose_weights("int8", large)


def test_settings_name_it_and_keep_their_folder_without_it() -> None:
    plain = StudySettings()
    assert "weights" not in plain.as_dict()
    assert plain.digest == StudySettings(weights="auto").digest != StudySettings(weights="int4").digest
    with pytest.raises(UsageError, match="no kind of weights is named 'int5': use auto, int8, fp8, int4"):
        StudySettings(weights="int5")


def test_products_of_fp8_are_not_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[[str], Path]
) -> None:
    monkeypatch.setattr("warmeng.engine.load.multiplies_bf16", lambda: True)
    chosen = replace(SMALL, weights="fp8", dtype="bfloat16")
    with pytest.raises(UsageError, match="products of fp8 are summed in float32 here"):
        Engine.load(str(tiny_model("llama")), device="cpu", settings=chosen)


def test_of_an_adapter_it_is_told_that_it_was_trained_on_other_weights(
    tmp_path: Path, tiny_model: Callable[[str], Path], tiny_adapters: list[Path]
) -> None:
    import shutil

    adapter = tmp_path / "adapter"
    shutil.copytree(tiny_adapters[0], adapter)
    (adapter / "warmeng.json").write_text('{"base_hash": "%s"}' % ("0" * 64))
    plain = Engine.load(str(tiny_model("llama")), device="cpu", settings=SMALL)
    with pytest.raises(InputError, match="an adapter for another base"):
        plain.add_adapter("a", adapter)
    folder, _ = tiny(tiny_model("llama"), tmp_path, awq(16))
    # The original's hash is not known to a quantised checkpoint.
    Engine.load(str(folder), device="cpu", settings=SMALL).add_adapter("a", adapter)
    found = provenance(adapter, "base", None, "int4")
    assert found.other_precision == "int4"
    assert any("the base's weights are int4, and nothing says that it was trained on such" in x for x in found.lines())
    (adapter / "warmeng.json").write_text('{"weights": "int4"}')
    assert provenance(adapter, "base", None, "int4").other_precision is None
    assert provenance(adapter, "base", None).other_precision == "in full precision"


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.full
def test_the_built_in_model_keeps_its_bits(kind: str) -> None:
    engine = Engine.load("smollm2-135m-instruct", device="cpu", settings=EngineSettings(weights=kind))
    requests = make_requests(engine, 48, [None])
    together = run(engine, requests)
    for request in requests[::12]:
        assert run(engine, [request])[request.id] == together[request.id]
