"""Doses and sums of adapters in one batch, against ``peft`` and against themselves alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from warmeng.common.errors import UsageError
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.mixture import BASE, Mixture
from warmeng.engine.request import GenerateRequest, RequestError, SamplingParams

SETTINGS = EngineSettings(kv_bytes=8 * 2**20, max_num_seqs=64)
DOSES = (-1.0, 0.25, 0.5, 1.0, 1.5, 2.0)
TEXTS = ("Hello there", "A longer prompt, which fills more than one block of the cache with its tokens. " * 2, "x")
SUMS = {"a-b": {"a": 0.5, "b": -0.3}, "all": {"a": 1.0, "b": 0.7, "c": -1.2}}


def mixed(base: Path, adapters: list[Path]) -> tuple[Engine, list[str]]:
    """Return an engine with three adapters, doses of the first and sums of all, and what requests may name."""
    engine = Engine.load(str(base), settings=SETTINGS)
    for name, adapter in zip("abc", adapters, strict=False):
        engine.add_adapter(name, adapter)
    for dose in (0.0, *DOSES):
        engine.add_mixture(f"a*{dose}", {"a": dose})
    for name, terms in SUMS.items():
        engine.add_mixture(name, terms)
    return engine, ["a", "b", "c", *(f"a*{dose}" for dose in (0.0, *DOSES)), *SUMS]


def requests(engine: Engine, names: list[str | None]) -> list[GenerateRequest]:
    params = SamplingParams(max_new_tokens=12, temperature=0.7, ignore_eos=True, logprobs=True)
    return [
        GenerateRequest(f"{name} {i}", tuple(engine.tokenizer.encode(text)), params, name, ("", i), None, True)
        for i, text in enumerate(TEXTS)
        for name in names
    ]


def bits(engine: Engine, names: list[str | None]) -> dict[str, tuple[object, ...]]:
    engine.reset_prefix_cache()
    return {r.id: (r.token_ids, r.logprobs, r.prompt_logprobs) for r in engine.generate(requests(engine, names))}


def test_doses_and_sums_equal_peft(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> None:
    """A dose is the adapter with its alpha times the coefficient; a sum is what PEFT concatenates."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = tiny_model("llama")
    engine, names = mixed(base, tiny_adapters)
    names = [name for name in names if name != "a*0.0"]
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    model = PeftModel.from_pretrained(plain, tiny_adapters[0], adapter_name="a")
    for name, adapter in zip("bc", tiny_adapters[1:], strict=False):
        model.load_adapter(adapter, adapter_name=name)
    for name, terms in SUMS.items():
        model.add_weighted_adapter(list(terms), list(terms.values()), name, "cat")
    model.double().eval()
    layers = [m for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "scaling")]
    whole = [layer.scaling["a"] for layer in layers]
    vocab, changed = engine.tokenizer.vocab_size, set()
    for request, result in zip(requests(engine, names), engine.generate(requests(engine, names)), strict=True):
        assert request.adapter is not None
        name, _, dose = request.adapter.partition("*")
        model.set_adapter(name)
        for layer, scale in zip(layers, whole, strict=True):
            layer.scaling["a"] = scale * float(dose or 1)
        ids = request.prompt + result.token_ids
        with torch.no_grad():
            table = model(torch.tensor([ids])).logits[0, :, :vocab].log_softmax(-1)
        expected = table[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        found = torch.tensor(result.prompt_logprobs + result.logprobs, dtype=torch.float64)
        # Of up to twelve nats in float32.
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=2e-6)
        changed.add(tuple(found.tolist()))
    # Only dose 1 is the adapter itself.
    assert len(changed) == len(TEXTS) * (len(names) - 1)


def test_alone_or_among_all_others(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> None:
    """Also where the adapters came in another order."""
    engine, names = mixed(tiny_model("llama"), tiny_adapters)
    together = bits(engine, [None, *names])
    for name in ("a*0.5", "a-b", "all"):
        lone = Engine.load(str(tiny_model("llama")), settings=SETTINGS)
        terms = SUMS.get(name, {"a": 0.5})
        for part in reversed(terms):
            lone.add_adapter(part, tiny_adapters["abc".index(part)])
        lone.add_mixture(name, dict(reversed(terms.items())))
        assert bits(lone, [name]) == {key: together[key] for key in bits(lone, [name])}


def test_dose_one_is_the_adapter_and_dose_zero_the_base(
    tiny_model: Callable[[str], Path], tiny_adapters: list[Path]
) -> None:
    engine, names = mixed(tiny_model("llama"), tiny_adapters)
    found = bits(engine, [None, *names])
    for i in range(len(TEXTS)):
        assert found[f"a*0.0 {i}"] == found[f"None {i}"]
        assert found[f"a*1.0 {i}"] == found[f"a {i}"] != found[f"a*0.5 {i}"]
    assert (engine.probe_adapter("a*0.0"), engine.probe_adapter("a*0.5") > 0) == (0.0, True)


def test_equal_mixtures_share_the_cache_and_others_never_do(
    tiny_model: Callable[[str], Path], tiny_adapters: list[Path]
) -> None:
    engine, _ = mixed(tiny_model("llama"), tiny_adapters)
    engine.add_mixture("also half", {"a*1.0": 0.25, "a": 0.25})
    engine.add_mixture("nearly half", {"a": 0.5000001})
    engine.add_mixture("nothing", {"a": 2.0, "a*2.0": -1.0})
    prompt = tuple(engine.tokenizer.encode(TEXTS[1]))

    def cached(name: str | None) -> int:
        return engine.generate([GenerateRequest("r", prompt, SamplingParams(1), name)])[0].cached_tokens

    for first, same in (("a*0.5", "also half"), ("a*1.0", "a"), ("nothing", None)):
        assert (cached(first), cached(same) > 0) == (0, True)
    assert [cached(name) for name in ("nearly half", "a*-1.0", "a-b")] == [0, 0, 0]


def test_sums_of_mixtures() -> None:
    a, b = Mixture((("a" * 64, 1.0),)), Mixture((("b" * 64, 1.0),))
    half = Mixture.sum_of([(b, -0.5), (a, 0.5)])
    assert half.terms == (("a" * 64, 0.5), ("b" * 64, -0.5))
    assert Mixture.sum_of([(half, 2.0), (b, 1.0)]) == a
    assert Mixture.sum_of([(a, 0.0), (b, -0.0)]) == BASE
    assert (BASE.key, a.key, half.key) == ("", "a" * 64, f"{'a' * 64}*0.5+{'b' * 64}*-0.5")
    for coefficient in (1001.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="expected at most 1000"):
            Mixture.sum_of([(a, coefficient)])


def test_names_are_taken_once_and_terms_are_known(tiny_model: Callable[[str], Path], tiny_adapters: list[Path]) -> None:
    engine = Engine.load(str(tiny_model("llama")), settings=SETTINGS)
    engine.add_adapter("a", tiny_adapters[0])
    engine.add_mixture("half", {"a": 0.5})
    with pytest.raises(UsageError, match="'a' is there already"):
        engine.add_mixture("a", {"half": 1.0})
    with pytest.raises(UsageError, match="'half' is there already"):
        engine.add_adapter("half", tiny_adapters[1])
    with pytest.raises(RequestError, match="'b' is not loaded; loaded: a, half"):
        engine.add_mixture("new", {"b": 1.0})
