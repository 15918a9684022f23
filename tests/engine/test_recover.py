"""Adapters found in merged checkpoints, against the adapters that were merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiers import slow

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.adapters import Adapter, load_adapter
from warmeng.engine.config import ModelConfig, read_config
from warmeng.engine.recover import Box, factors, fit, recover, relative_errors, truncated, write_recovered

# Relative error that is allowed where the change has this size in units in the last place.
ALLOWED = {1.0: 0.03, 0.3: 0.09, 0.1: 0.3}


def change(shape: tuple[int, int], rank: int, seed: int) -> torch.Tensor:
    """A change whose singular values fall by ten, as trained ones do by more."""
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator)
    return left @ (torch.logspace(0, -1, rank)[:, None] * right)


@pytest.mark.parametrize("rank", [8, *slow(16)])
@pytest.mark.parametrize("size", [*list(ALLOWED)[:1], *slow(*list(ALLOWED)[1:])])
def test_small_changes_are_found(size: float, rank: int) -> None:
    base = torch.randn(512, 768, generator=torch.Generator().manual_seed(1)).mul_(0.05).bfloat16()
    true = change((512, 768), rank, 2)
    true *= size / Box.of(base, base).size(true)
    box = Box.of(base, (base.float() + true).bfloat16())
    assert bool(((true >= box.low - 1e-7) & (true <= box.high + 1e-7)).all())
    start = truncated(box.difference, rank)
    found = fit(box, rank, start)
    error, plain = (float((x - true).norm() / true.norm()) for x in (found, start))
    assert int(torch.linalg.matrix_rank(found.double(), rtol=1e-4)) == rank
    assert error < ALLOWED[size]
    assert error * 2.5 < plain
    a, b = factors(found, rank)
    torch.testing.assert_close(b @ a, found, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_box_holds_what_rounds_to_the_merged_weight(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(200, 50, generator=generator)
    base[0, :4] = torch.tensor([1.0, -1.0, 2.0, -0.25])  # powers of two: one neighbour is nearer than the other
    base = base.to(dtype)
    box = Box.of(base, base)
    width = box.high.double() - box.low.double()
    for edge, inward in ((box.low, 1.0), (box.high, -1.0)):
        at = base.double() + edge.double()
        assert torch.equal((at + 0.01 * inward * width).to(dtype), base)
        beyond = (at - 0.01 * inward * width).to(dtype).double()
        assert bool((torch.sign(base.double() - beyond) == inward).all())
    last = torch.finfo(dtype).eps
    assert float(box.high[0, 0]) == last / 2
    assert float(box.low[0, 0]) == -last / 4


def test_truncation_is_the_best_of_its_rank() -> None:
    matrix = change((1500, 1100), 40, 3) + 0.01 * change((1500, 1100), 400, 4)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    exact = (left[:, :8] * values[:8]) @ right[:8]
    torch.testing.assert_close(truncated(matrix, 8), exact, atol=1e-3 * float(values[7]), rtol=0)


@pytest.fixture(scope="module")
def config_and_base(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base of one layer in bfloat16, with matrices large enough to find something in."""
    import transformers

    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=288, hidden_size=192, intermediate_size=320, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, max_position_embeddings=64, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder


def save_merged(base: Path, folder: Path, changes: dict[str, torch.Tensor], **config: object) -> Path:
    folder.mkdir()
    tensors = load_file(base / "model.safetensors")
    for name, value in changes.items():
        tensors[name] = (tensors[name].float() + value).bfloat16()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(json.loads((base / "config.json").read_text()) | config))
    return folder


def low_rank(base: Path, rank: int, size: float, only: str = "_proj") -> tuple[dict[str, torch.Tensor], Adapter]:
    """Changes of every linear layer whose name has ``only``, and the adapter that they make."""
    changes, layers = {}, [{}, {}]
    for seed, (name, weight) in enumerate(sorted(load_file(base / "model.safetensors").items())):
        if "_proj" in name and only in name:
            true = change(tuple(weight.shape), rank, seed)
            true *= size / Box.of(weight, weight).size(true)
            changes[name] = true
            layers[int(name.split(".")[2])][name.split(".")[4].removesuffix("_proj")] = factors(true, rank)
    return changes, Adapter("", rank, 1.0, tuple(layers), base, None, False)


@pytest.mark.slow
def test_an_adapter_comes_back(config_and_base: Path, tmp_path: Path) -> None:
    changes, truth = low_rank(config_and_base, 3, 2.0)
    merged = save_merged(config_and_base, tmp_path / "merged", changes)
    found = recover(config_and_base, merged)
    assert found.adapter.rank == 3
    for ours, plain in zip(
        relative_errors(truth, found.adapter.layers), relative_errors(truth, found.plain), strict=True
    ):
        assert 2.5 * ours["all"] < plain["all"]
        assert ours["all"] < 0.03
    assert len(found.fits) == 14
    assert all(f.outside < 0.01 and f.residual < f.svd_residual and 1.8 < f.size < 2.2 for f in found.fits)

    folder = tmp_path / "adapter"
    folder.mkdir()
    write_recovered(found, folder)
    config: ModelConfig = read_config(config_and_base)
    loaded = load_adapter(folder, config, found.base_hash)
    assert loaded.hash == found.adapter.hash
    with pytest.raises(InputError, match="adapter for another base"):
        load_adapter(folder, config, "0" * 64)


def test_a_given_rank_is_taken_and_too_low_a_one_refused(config_and_base: Path, tmp_path: Path) -> None:
    changes, _ = low_rank(config_and_base, 3, 2.0, only="down_proj")
    merged = save_merged(config_and_base, tmp_path / "merged", changes)
    found = recover(config_and_base, merged, rank=5)
    assert (found.adapter.rank, found.adapter.targets) == (5, ("down",))
    with pytest.raises(InputError, match=r"2 of 2 matrices .* layer \d down_proj"):
        recover(config_and_base, merged, rank=2)
    with pytest.raises(UsageError, match="expected 1 to 96"):
        recover(config_and_base, merged, rank=97)


@pytest.mark.slow
def test_a_full_fine_tune_is_refused(config_and_base: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (0.5, 20.0):
        changes = {}
        for name, weight in load_file(config_and_base / "model.safetensors").items():
            if "_proj" in name:
                noise = torch.randn(weight.shape, generator=generator)
                changes[name] = noise * size * Box.of(weight, weight).ulp
        merged = save_merged(config_and_base, tmp_path / str(size), changes)
        with pytest.raises(InputError, match=r"not the base plus a low-rank change: rank 48 leaves \d+% of q_proj"):
            recover(config_and_base, merged)
        with pytest.raises(InputError, match="14 of 14 matrices"):
            recover(config_and_base, merged, rank=8)


def test_other_checkpoints_are_refused(
    config_and_base: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"another architecture .*: \w+ is"):
        recover(config_and_base, tiny_model("llama"))
    with pytest.raises(InputError, match="no change to recover"):
        recover(config_and_base, config_and_base)
    other = {"model.norm.weight": torch.full((192,), 0.1)}
    with pytest.raises(InputError, match=r"1 tensors beside the linear layers \(model\.norm\.weight\)"):
        recover(config_and_base, save_merged(config_and_base, tmp_path / "norm", other))
    theta = {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
    with pytest.raises(InputError, match="rope_theta"):
        recover(config_and_base, save_merged(config_and_base, tmp_path / "theta", {}, **theta))
