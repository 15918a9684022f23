"""One training step against PEFT's, on random models of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from warmeng.engine.adapters import TARGETS
from warmeng.engine.config import read_config
from warmeng.finetune.frozen import FrozenWeight, frozen
from warmeng.finetune.layers import apply
from warmeng.finetune.lora import AdapterParameters
from warmeng.finetune.loss import ChunkedCrossEntropy
from warmeng.finetune.model import MicroRow, Sample, TrainingModel
from warmeng.finetune.noise import Dropout
from warmeng.finetune.optim import Adam, clip
from warmeng.kernels.quantized import Weight

CPU = torch.device("cpu")
LENGTHS = [40, 17, 90, 2]
RANK, SCALE = 4, 2.0


def samples(seed: int = 0) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index, length in enumerate(LENGTHS):
        learn = torch.zeros(length, dtype=torch.bool)
        learn[length // 2 :] = True
        if length > 50:
            learn[60:70] = False  # a second user's turn
        found.append(Sample(index, torch.randint(3, 250, (length,), generator=generator), learn))
    return found


def make_adapter(model: TrainingModel, seed: int, targets: tuple[str, ...] = TARGETS) -> AdapterParameters:
    adapter = AdapterParameters(model.config, targets, RANK, CPU)
    adapter.initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in adapter.pairs:
        for pair in layer.values():
            pair.b_t.normal_(0, 0.05, generator=generator)
    return adapter


def gradients(adapter: AdapterParameters) -> dict[str, torch.Tensor]:
    """The gradients under PEFT's names."""
    copy = object.__new__(AdapterParameters)
    copy.pairs = [
        {t: type(p)(p.a_grad, p.b_t_grad, p.a_grad, p.b_t_grad) for t, p in layer.items()} for layer in adapter.pairs
    ]
    return copy.tensors()


class Masked(torch.nn.Module):
    """Stands in for PEFT's dropout of one module, with our masks."""

    def __init__(self, dropout: Dropout, layer: int, target: str, width: int) -> None:
        super().__init__()
        self.dropout, self.layer, self.target, self.width = dropout, layer, target, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(x.shape)
        kept = self.dropout.keep(self.layer, self.target, self.width, CPU)
        for row, part in enumerate(torch.split(kept, LENGTHS)):
            mask[row, : len(part)] = part.float() / (1 - self.dropout.rate)
        return x * mask


def peft_step(folder: Path, adapter: AdapterParameters, dropout: Dropout | None, rate: float) -> dict[str, Any]:
    """Loss, gradients and updated weights of PEFT on one padded batch, with torch's own AdamW and clipping."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    modules = [f"{t}_proj" for t in adapter.targets]
    lora = LoraConfig(r=RANK, lora_alpha=RANK * SCALE, lora_dropout=0.1, target_modules=modules, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    model.train(dropout is not None)
    own = dict(model.named_parameters())
    for name, value in adapter.tensors().items():
        own[name.replace(".weight", ".default.weight")].data.copy_(value)
    if dropout is not None:
        for index, layer in enumerate(model.base_model.model.model.layers):
            for target in adapter.targets:
                module = getattr(layer.self_attn if target in "qkvo" else layer.mlp, f"{target}_proj")
                module.lora_dropout["default"] = Masked(dropout, index, target, module.in_features)
    batch = samples()
    ids, mask = (torch.zeros(len(batch), max(LENGTHS), dtype=torch.int64) for _ in range(2))
    labels = torch.full_like(ids, -100)
    for row, sample in enumerate(batch):
        n = len(sample.tokens)
        ids[row, :n], mask[row, :n] = sample.tokens, 1
        labels[row, :n] = torch.where(sample.learn, sample.tokens, -100)
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    trained = {n.replace(".default", ""): p for n, p in own.items() if "lora_" in n}
    grads = {name: p.grad.clone() for name, p in trained.items()}
    torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
    torch.optim.AdamW(trained.values(), lr=rate, eps=1e-3, weight_decay=0.01).step()
    return {"loss": float(loss.detach()), "grads": grads, "weights": {n: p.detach() for n, p in trained.items()}}


def our_step(
    model: TrainingModel, adapter: AdapterParameters, dropout: Dropout | None, cuts: list[int]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients, the batch cut into rows of so many samples."""
    batch, loss, at = samples(), 0.0, 0
    share = 1 / sum(s.targets for s in batch)
    adapter.grad.zero_()
    for count in cuts:
        part = batch[at : at + count]
        at += count
        lengths = [len(s.tokens) for s in part]
        own = None
        if dropout is not None:
            own = Dropout(dropout.rate, dropout.seed, dropout.step, [s.index for s in part], lengths)
        row = MicroRow(tuple(part), {"p": slice(0, sum(lengths))})
        loss += model.backward(row, {"p": adapter}, SCALE, {"p": share}, own)["p"]
    assert at == len(batch)
    return loss, gradients(adapter)


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], most: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(value.norm()) > 0, name
        assert float((found[name] - value).norm() / value.norm()) < most, name


FAMILIES = ("llama", "llama-3.1-rope", "llama-tied", "llama-mha", "mistral-head-dim", "qwen2-bias", "qwen3-norm")


@pytest.mark.parametrize("with_dropout", [False, True], ids=["plain", "dropout"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_equals_pefts(family: str, with_dropout: bool, tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model(family)
    model = TrainingModel.load(folder, read_config(folder), 128, CPU)
    adapter = make_adapter(model, 1)
    dropout = Dropout(0.1, 5, 3, range(len(LENGTHS)), LENGTHS) if with_dropout else None
    expected = peft_step(folder, adapter, dropout, 1e-3)
    loss, grads = our_step(model, adapter, dropout, [len(LENGTHS)])
    assert loss == pytest.approx(expected["loss"], rel=1e-6)
    assert_close(grads, expected["grads"], 1e-5)
    norm = clip(adapter.grad, 1.0)
    assert norm == pytest.approx(float(torch.cat([g.flatten() for g in expected["grads"].values()]).norm()), rel=1e-5)
    before = adapter.tensors()
    # With the usual epsilon, Adam's first step is the gradient's sign, where rounding decides on numbers near zero.
    Adam.zeros(adapter.flat).update(adapter.flat, adapter.grad, 1e-3, 0.9, 0.999, 1e-3, 0.01)
    after = adapter.tensors()
    assert_close(
        {n: after[n] - before[n] for n in after}, {n: w - before[n] for n, w in expected["weights"].items()}, 1e-4
    )


def test_adam_equals_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(500, generator=generator)
    theirs = torch.nn.Parameter(ours.clone())
    reference, adam = torch.optim.AdamW([theirs], lr=1e-3, betas=(0.8, 0.99), weight_decay=0.1), Adam.zeros(ours)
    for step in range(1, 20):
        theirs.grad = torch.randn(500, generator=generator) / step
        for group in reference.param_groups:
            group["lr"] = 1e-3 / step
        reference.step()
        adam.update(ours, theirs.grad, 1e-3 / step, 0.8, 0.99, 1e-8, 0.1)
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-7, rtol=1e-6)


def test_cutting_the_batch_changes_nothing_but_rounding(tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("llama")
    model = TrainingModel.load(folder, read_config(folder), 128, CPU)
    adapter = make_adapter(model, 1)
    dropout = Dropout(0.1, 5, 3, range(len(LENGTHS)), LENGTHS)
    whole, whole_grads = our_step(model, adapter, dropout, [4])
    for cuts in ([1, 1, 1, 1], [2, 2], [1, 3]):
        loss, grads = our_step(model, adapter, dropout, cuts)
        assert loss == pytest.approx(whole, rel=1e-6)
        assert_close(grads, whole_grads, 1e-5)


def test_two_personas_in_one_pass_equal_two_runs(tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("qwen2-bias")
    model = TrainingModel.load(folder, read_config(folder), 128, CPU)
    adapters = {"warm": make_adapter(model, 1), "cold": make_adapter(model, 2)}
    data = {"warm": samples(0)[:3], "cold": samples(9)[1:]}
    shares = {name: 1 / sum(s.targets for s in part) for name, part in data.items()}

    def go(names: list[str]) -> tuple[dict[str, float], dict[str, dict[str, torch.Tensor]]]:
        rows, at, picked = {}, 0, []
        for name in names:
            start, at = at, at + sum(len(s.tokens) for s in data[name])
            rows[name] = slice(start, at)
            picked += data[name]
            adapters[name].grad.zero_()
        dropout = Dropout(0.1, 0, 7, [s.index for s in picked], [len(s.tokens) for s in picked])
        losses = model.backward(MicroRow(tuple(picked), rows), adapters, SCALE, shares, dropout)
        return losses, {name: gradients(adapters[name]) for name in names}

    losses, grads = go(["warm", "cold"])
    for name in ("warm", "cold"):
        own_loss, own = go([name])
        assert losses[name] == pytest.approx(own_loss[name], rel=1e-6)
        assert_close(grads[name], own[name], 1e-5)
    assert losses["warm"] != pytest.approx(losses["cold"], rel=1e-3)


@pytest.mark.parametrize("kind", ["int8", "fp8", "int4"])
def test_gradients_on_a_quantised_base_are_those_on_its_dequantised_numbers(
    kind: str, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model("llama")
    config = read_config(folder)
    quantised = TrainingModel.load(folder, config, 128, CPU, kind)
    kept = [w._kept for layer in quantised.weights.layers for w in (layer.qkv, layer.o, layer.gate_up, layer.down)]
    assert {w.kind for w in kept} == {kind}
    assert frozen(quantised.weights.head)._kept is None

    def dequantised(w: Weight) -> FrozenWeight:
        return FrozenWeight(w if isinstance(w, torch.Tensor) else w.dequantized())

    monkeypatch.setattr("warmeng.finetune.model.FrozenWeight", dequantised)
    plain = TrainingModel.load(folder, config, 128, CPU, kind)
    original = TrainingModel.load(folder, config, 128, CPU)
    found = []
    for model in (quantised, plain, original):
        loss, gradient = our_step(model, make_adapter(model, 3), None, [2, 2])
        found.append({"loss": torch.tensor(loss), **gradient})
    assert_close(found[0], found[1], 1e-5)
    with pytest.raises(AssertionError):
        assert_close(found[0], found[2], 1e-4)


def test_some_targets_only(tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("llama")
    model = TrainingModel.load(folder, read_config(folder), 128, CPU)
    adapter = make_adapter(model, 1, ("q", "v", "down"))
    expected = peft_step(folder, adapter, None, 1e-3)
    loss, grads = our_step(model, adapter, None, [4])
    assert loss == pytest.approx(expected["loss"], rel=1e-6)
    assert_close(grads, expected["grads"], 1e-5)


def test_cross_entropy_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, w = torch.randn(50, 16), torch.randn(300, 16) * 3
    targets, weights = torch.randint(0, 300, (50,)), torch.rand(50)
    targets[0] = (hidden[0] @ w.t()).argmin()  # a probability that single precision can't hold
    hidden[0] *= 20
    plain = hidden.double().requires_grad_()
    each = torch.nn.functional.cross_entropy(plain @ w.double().t(), targets, reduction="none")
    (each * weights).sum().backward()
    for size in (1, 4 * 300 * 7, 2**24):
        monkeypatch.setattr("warmeng.finetune.loss._CHUNK_BYTES", {"cpu": size})
        leaf = hidden.clone().requires_grad_()
        total, found = apply(ChunkedCrossEntropy, leaf, targets, weights, FrozenWeight(w))
        (2 * total).backward()
        torch.testing.assert_close(found.double(), each.detach(), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(leaf.grad.double(), 2 * plain.grad, atol=1e-4, rtol=1e-4)


def test_dropout_masks_depend_on_their_key_alone() -> None:
    first = Dropout(0.1, 0, 2, [5, 9], [30, 200]).keep(1, "q", 64, CPU)
    other = Dropout(0.1, 0, 2, [9, 1, 5], [200, 3, 30]).keep(1, "q", 64, CPU)
    assert torch.equal(first[:30], other[203:])
    assert torch.equal(first[30:], other[:200])
    assert abs(float(first.float().mean()) - 0.9) < 0.01
    for changed in (Dropout(0.1, 1, 2, [5], [30]), Dropout(0.1, 0, 3, [5], [30]), Dropout(0.1, 0, 2, [6], [30])):
        agree = (changed.keep(1, "q", 64, CPU) == first[:30]).float().mean()
        assert 0.75 < float(agree) < 0.89  # 0.82 where independent
    for layer, target in ((2, "q"), (1, "k")):
        agree = (Dropout(0.1, 0, 2, [5], [30]).keep(layer, target, 64, CPU) == first[:30]).float().mean()
        assert 0.75 < float(agree) < 0.89
