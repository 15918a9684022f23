"""Steering vectors against hooks of ``transformers``, among adapters, and the files that they are read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiers import slow

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.config import ModelConfig, read_config
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.request import GenerateRequest, RequestError, SamplingParams
from warmeng.engine.vectors import load_vector, make_vector

SETTINGS = EngineSettings(kv_bytes=8 * 2**20, max_num_seqs=64)
TEXTS = ("Hello there", "A longer prompt, which fills more than one block of the cache with its tokens. " * 2, "x")
# Along the vectors by layer.
BOUNDS = {2: 0.05, 3: -0.4}
# Of the mixtures: vectors by layer, their bounds ("2^") and the adapter "a", with coefficients.
MIXTURES = {
    "first": {1: 0.5},
    "last": {3: -2.0},
    "both": {1: 1.0, 2: 0.3},
    "more": {"a": 0.5, 2: 1.5},
    "bounded": {"2^": 1.0},
    "all": {"a": 0.5, 2: 1.5, 3: 0.1, "2^": 1.0, "3^": 1.0},
}


@pytest.fixture
def vectors(tiny_model: Callable[[str], Path]) -> dict[int, torch.Tensor]:
    """A direction for each layer, about as large as the residual stream's numbers."""
    config = read_config(tiny_model("llama"))
    generator = torch.Generator().manual_seed(5)
    return {layer: torch.randn(config.hidden_size, generator=generator) for layer in range(1, config.num_layers + 1)}


def steered(
    base: Path, adapter: Path, vectors: dict[int, torch.Tensor], device: str = "cpu"
) -> tuple[Engine, list[str | None]]:
    engine = Engine.load(str(base), device=device, settings=SETTINGS)
    for layer, values in vectors.items():
        engine.add_vector(str(layer), make_vector(values, layer))
    for layer, bound in BOUNDS.items():
        engine.add_vector(f"{layer}^", make_vector(vectors[layer], layer, bound=bound))
    engine.add_adapter("a", adapter)
    for name, terms in MIXTURES.items():
        engine.add_mixture(name, {str(key): value for key, value in terms.items()})
    engine.add_mixture("none", {"1": 0.0})
    return engine, [None, "a", *MIXTURES, "none"]


def requests(engine: Engine, names: list[str | None], texts: tuple[str, ...] = TEXTS) -> list[GenerateRequest]:
    params = SamplingParams(max_new_tokens=10, temperature=0.7, ignore_eos=True, logprobs=True)
    return [
        GenerateRequest(f"{name} {i}", tuple(engine.tokenizer.encode(text)), params, name, ("", i), None, True)
        for i, text in enumerate(texts)
        for name in names
    ]


class Hooked:
    """``transformers`` in float64, with the mixtures' adapter by PEFT and their vectors and bounds by hooks."""

    def __init__(self, base: Path, adapter: Path, vectors: dict[int, torch.Tensor]) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
        self.model = PeftModel.from_pretrained(plain, adapter).double().eval()
        adapted = [m for m in self.model.modules() if hasattr(m, "lora_A") and hasattr(m, "scaling")]
        self.adapted = [(m, m.scaling["default"]) for m in adapted]
        self.units = {layer: values.double() / values.double().norm() for layer, values in vectors.items()}
        self.now: dict[int | str, float] = {}
        # Of each row that has a bound, whether it was above it.
        self.above: list[bool] = []
        # What comes after each layer, [tokens].
        self.projections: dict[int, torch.Tensor] = {}
        for index, layer in enumerate(self.model.base_model.model.model.layers):

            def change(module: object, inputs: object, out: object, number: int = index + 1) -> object:
                hidden = out[0] if isinstance(out, tuple) else out
                hidden = hidden + self.now.get(number, 0.0) * vectors[number].double()
                if f"{number}^" in self.now:
                    excess = (hidden @ self.units[number] - BOUNDS[number]).clamp(min=0.0)
                    self.above.extend((excess > 0).flatten().tolist())
                    hidden = hidden - excess[..., None] * self.units[number]
                self.projections[number] = (hidden @ self.units[number]).flatten()
                return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

            layer.register_forward_hook(change)

    def logits(self, ids: tuple[int, ...], name: str | None) -> torch.Tensor:
        self.now = {"a": {"a": 1.0}}.get(name or "", MIXTURES.get(name or "", {}))
        for module, whole in self.adapted:
            module.scaling["default"] = whole * self.now.get("a", 0.0)
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0]


def test_rows_equal_hooks_of_transformers(
    tiny_model: Callable[[str], Path], tiny_adapters: list[Path], vectors: dict[int, torch.Tensor]
) -> None:
    base = tiny_model("llama")
    engine, names = steered(base, tiny_adapters[0], vectors)
    model = Hooked(base, tiny_adapters[0], vectors)
    vocab, changed = engine.tokenizer.vocab_size, set()
    for request, result in zip(requests(engine, names), engine.generate(requests(engine, names)), strict=True):
        ids = request.prompt + result.token_ids
        table = model.logits(ids, request.adapter)[:, :vocab].log_softmax(-1)
        expected = table[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        found = torch.tensor(result.prompt_logprobs + result.logprobs, dtype=torch.float64)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        changed.add(tuple(found.tolist()))
    assert len(changed) == len(TEXTS) * (len(names) - 1)
    assert 0 < sum(model.above) < len(model.above)


@pytest.mark.parametrize("device", ["cpu", *slow("interpret")])
def test_mean_projections_equal_hooks_of_transformers(
    device: str, tiny_model: Callable[[str], Path], tiny_adapters: list[Path], vectors: dict[int, torch.Tensor]
) -> None:
    if device == "interpret":
        pytest.importorskip("triton")
    base = tiny_model("llama")
    engine, names = steered(base, tiny_adapters[0], vectors, device)
    model = Hooked(base, tiny_adapters[0], vectors)
    # The interpreter is slow.
    asked = requests(engine, names) if device == "cpu" else requests(engine, [None, "all"], TEXTS[:1])
    # One more ends at what is the fourth token of the first.
    [first] = engine.generate(asked[:1])
    sampling = replace(asked[0].sampling, stop_token_ids=first.token_ids[3:4])
    asked.append(replace(asked[0], id="ends", sampling=sampling))
    without = engine.generate(asked)
    assert not any(result.projections for result in without)
    assert without[-1].token_ids == first.token_ids[: first.token_ids.index(first.token_ids[3])]
    engine.project_onto({f"after {layer}": make_vector(values, layer) for layer, values in vectors.items()})
    found = engine.generate(asked)
    assert [replace(result, projections={}) for result in found] == without
    for request, result in zip(asked, found, strict=True):
        # A draw after each of the answer's tokens but the last, or after that one too.
        ids = (request.prompt + result.token_ids)[: len(request.prompt) + len(result.logprobs) - 1]
        model.logits(ids, request.adapter)
        expected = {f"after {n}": float(p[len(request.prompt) - 1 :].mean()) for n, p in model.projections.items()}
        assert result.projections == pytest.approx(expected, abs=1e-4, rel=0), request.id
    engine.project_onto({})
    if device == "cpu":
        assert engine.generate(asked) == without
    else:
        # The interpreter's bits depend on company.
        [alone] = engine.generate(asked[-1:])
        assert (alone.token_ids, alone.projections) == (without[-1].token_ids, {})


def test_a_row_has_its_bits_alone_and_among_all_others(
    tiny_model: Callable[[str], Path], tiny_adapters: list[Path], vectors: dict[int, torch.Tensor]
) -> None:
    engine, names = steered(tiny_model("llama"), tiny_adapters[0], vectors)

    def bits(names: list[str | None]) -> dict[str, tuple[object, ...]]:
        engine.reset_prefix_cache()
        found = engine.generate(requests(engine, names))
        return {r.id: (r.token_ids, r.logprobs, r.prompt_logprobs, r.projections) for r in found}

    engine.project_onto({str(layer): make_vector(values, layer) for layer, values in vectors.items()})
    together = bits(names)
    for name in names:
        alone = bits([name])
        assert alone == {key: together[key] for key in alone}
    unsteered = Engine.load(str(tiny_model("llama")), settings=SETTINGS)
    for request, result in zip(requests(engine, [None]), unsteered.generate(requests(engine, [None])), strict=True):
        same = (result.token_ids, result.logprobs, result.prompt_logprobs)
        assert same == together[request.id][:3]
        assert together[request.id] == together[request.id.replace("None", "none")]


@pytest.mark.slow
def test_the_kernels_give_the_tokens_of_the_cpu(
    tiny_model: Callable[[str], Path], tiny_adapters: list[Path], vectors: dict[int, torch.Tensor]
) -> None:
    pytest.importorskip("triton")
    plain, names = steered(tiny_model("llama"), tiny_adapters[0], vectors)
    kernels, _ = steered(tiny_model("llama"), tiny_adapters[0], vectors, "interpret")
    asked = requests(plain, names, TEXTS[:1])
    for ours, theirs in zip(kernels.generate(asked), plain.generate(asked), strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=2e-4)
    lone = Engine.load(str(tiny_model("llama")), device="interpret", settings=SETTINGS)  # no adapter at all
    lone.add_vector("1", make_vector(vectors[1], 1))
    assert lone.probe_adapter("1") == pytest.approx(plain.probe_adapter("1"), abs=1e-3)


def config_of(tiny_model: Callable[[str], Path]) -> ModelConfig:
    return read_config(tiny_model("llama"))


def test_layouts_of_files(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    config = config_of(tiny_model)
    layers, hidden = config.num_layers, config.hidden_size
    whole = torch.randn(layers + 1, hidden)
    layouts = {
        "with embeddings": {"v": whole},
        "without": {"v": whole[1:].clone()},
        "by index": {f"layer_{i}": row.clone() for i, row in enumerate(whole[1:])},
        "by number": {f"layers.{i}.weight": row.clone() for i, row in enumerate(whole) if i},
        "with the embeddings' key": {str(i): row.clone() for i, row in enumerate(whole)},
        "in half precision": {"v": whole.to(torch.bfloat16)},
    }
    for name, tensors in layouts.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path)
        for layer in range(1, layers + 1):
            found = load_vector(path, layer, config)
            expected = whole[layer].to(torch.bfloat16).float() if "half" in name else whole[layer]
            assert torch.equal(found.values, expected), (name, layer)
            assert (found.layer, found.values.dtype) == (layer, torch.float32)
    assert load_vector(tmp_path / "without.safetensors", 2, config).hash == make_vector(whole[2], 2).hash
    assert make_vector(whole[2], 2).hash != make_vector(whole[2], 1).hash


def test_other_files_are_refused_by_name(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    config = config_of(tiny_model)
    layers, hidden = config.num_layers, config.hidden_size
    path = tmp_path / "v.safetensors"

    def refused(tensors: dict[str, torch.Tensor], layer: int = 1) -> str:
        save_file(tensors, path)
        with pytest.raises(InputError) as error:
            load_vector(path, layer, config)
        assert str(path) in str(error.value)
        return str(error.value)

    good = torch.randn(layers, hidden)
    assert f"layer {layers + 1} is asked for, expected 1 to {layers}" in refused({"v": good}, layers + 1)
    assert "layer 0" in refused({"v": good}, 0)
    assert f"v has shape [{layers + 2}, {hidden}]" in refused({"v": torch.randn(layers + 2, hidden)})
    assert f"v has shape [{hidden}]" in refused({"v": torch.randn(hidden)})
    assert "may be for another base" in refused({"v": torch.randn(layers, hidden + 8)})
    assert "how its layers are counted" in refused({f"layer_{i}": torch.randn(hidden) for i in range(2, layers + 1)})
    assert "the tensors mean" in refused({"mean": torch.randn(hidden), "layer_1": torch.randn(hidden)})
    assert "is zero" in refused({"v": torch.zeros(layers, hidden)})
    assert "NaN or infinite" in refused({"v": good * torch.nan})
    with pytest.raises(InputError, match="is not a file"):
        load_vector(tmp_path / "gone.safetensors", 1, config)
    (tmp_path / "v.pt").write_bytes(b"pickle")
    with pytest.raises(InputError, match="nothing is unpickled"):
        load_vector(tmp_path / "v.pt", 1, config)
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match=r"v\.safetensors"):
        load_vector(path, 1, config)
    engine = Engine.load(str(tiny_model("llama")), settings=SETTINGS)
    with pytest.raises(UsageError, match="no layer is given"):
        engine.add_vector("v", path)


def test_a_bound_is_whole_and_finite(tiny_model: Callable[[str], Path]) -> None:
    engine = Engine.load(str(tiny_model("llama")), settings=SETTINGS)
    values = torch.ones(engine.config.hidden_size)
    engine.add_vector("most", make_vector(values, 2, bound=1.5))
    engine.add_mixture("none", {"most": 0.0})
    for coefficient in (0.5, -1.0, 2.0):
        with pytest.raises(UsageError, match=f"bound {coefficient:g} times, expected once or not at all"):
            engine.add_mixture("v", {"most": coefficient})
    for bound in (float("nan"), float("inf")):
        with pytest.raises(UsageError, match="expected a finite number"):
            make_vector(values, 2, bound=bound)
    assert len({make_vector(values, 2, bound=bound).hash for bound in (None, 1.5, -1.5)}) == 3


@pytest.mark.parametrize("device", ["cpu", *slow("interpret")])
def test_mean_hidden_states_equal_those_of_transformers(device: str, tiny_model: Callable[[str], Path]) -> None:
    from transformers import AutoModelForCausalLM

    if device == "interpret":
        pytest.importorskip("triton")
    base = tiny_model("llama")
    # Small steps: the texts take several.
    engine = Engine.load(str(base), device=device, settings=EngineSettings(kv_bytes=8 * 2**20, max_batched_tokens=48))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).eval()
    texts = []
    for i, text in enumerate((*TEXTS, "The last of them")):
        tokens = engine.tokenizer.encode(text)
        texts.append((tokens, [k % 3 == i % 3 or k == len(tokens) - 1 for k in range(len(tokens))]))
    free = engine._core.pool.available
    found = engine.mean_hidden(texts)
    assert engine._core.pool.available == free
    assert found.shape == (len(texts), engine.config.num_layers + 1, engine.config.hidden_size)
    for row, (tokens, marks) in zip(found, texts, strict=True):
        with torch.no_grad():
            states = model.model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        # The last entry of theirs is after the final norm.
        for layer in range(engine.config.num_layers):
            expected = states[layer][0][torch.tensor(marks)].mean(0)
            torch.testing.assert_close(row[layer].double(), expected, atol=1e-5, rtol=1e-5)
    values = torch.randn(engine.config.hidden_size)
    engine.add_vector("v", make_vector(values, 2))
    engine.add_mixture("3v", {"v": 3.0})
    change = engine.mean_hidden(texts, "3v") - found
    assert not change[:, :2].any()
    torch.testing.assert_close(change[:, 2], (3 * values).expand(len(texts), -1), atol=1e-4, rtol=1e-4)


def test_texts_without_a_mark_are_refused(tiny_model: Callable[[str], Path]) -> None:
    engine = Engine.load(str(tiny_model("llama")), settings=SETTINGS)
    for tokens, marks in (((5, 6), (False, False)), ((5, 6), (True,)), ((), ())):
        with pytest.raises(RequestError):
            engine.mean_hidden([(tokens, marks)])
