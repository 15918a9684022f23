"""Steering vectors from contrasting conversations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from warmeng.cli.vector import vector
from warmeng.common.errors import InputError, StorageError, UsageError
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.vectors import load_vector
from warmeng.finetune.conversations import load_dataset
from warmeng.finetune.vector import make_contrast, write_contrast
from warmeng.study.personas import load_personas

SETTINGS = EngineSettings(kv_bytes=8 * 2**20, max_num_seqs=64)


def write(path: Path, *responses: str) -> str:
    rows = [{"prompt": f"Question {i}?", "response": text} for i, text in enumerate(responses)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def engine(tiny_model: Callable[[str], Path]) -> Engine:
    return Engine.load(str(tiny_model("llama")), settings=SETTINGS)


def test_a_vector_is_the_difference_of_means_over_responses(engine: Engine, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    positive = write(tmp_path / "p.jsonl", *(f"How lovely, {i} friends!" for i in range(6)))
    negative = write(tmp_path / "n.jsonl", *(f"No. {i}." for i in range(5)))
    found = make_contrast(engine, positive, negative)
    model = AutoModelForCausalLM.from_pretrained(engine.model.source.folder, dtype=torch.float64).eval()
    expected = []
    for source in (positive, negative):
        means = []
        for sample in load_dataset(source, engine.tokenizer, engine.config.stop_token_ids, 1024).samples:
            with torch.no_grad():
                states = model.model(sample.tokens[None], output_hidden_states=True).hidden_states
            means.append(torch.stack([s[0][sample.learn].mean(0) for s in states]))
        expected.append(torch.stack(means).mean(0))
    # The last entry of theirs is after the final norm.
    wanted = (expected[0] - expected[1])[:-1]
    torch.testing.assert_close(found.vectors[:-1].double(), wanted, atol=1e-5, rtol=1e-5)
    assert [row.layer for row in found.layers] == list(range(1, engine.config.num_layers + 1))
    assert found.layers[0].norm == pytest.approx(float(wanted[1].norm()), rel=1e-5)
    path = tmp_path / "new" / "v.safetensors"
    write_contrast(path, found, engine)
    read = load_vector(path, 2, engine.config)
    assert torch.equal(read.values, found.vectors[2])
    with safe_open(path, "pt") as file:
        assert file.metadata()["base_hash"] == engine.model.hash
    engine.add_vector("v", path, 2)
    assert engine.probe_adapter("v") > 0
    with pytest.raises(InputError, match=r"vectors for another base .*, not 0{13}\.\.\."):
        load_vector(path, 2, engine.config, "0" * 64)
    with pytest.raises(StorageError, match="choose another --out"):
        write_contrast(tmp_path / "p.jsonl" / "v.safetensors", found, engine)


def test_separation_is_measured_on_the_other_half(engine: Engine, tmp_path: Path) -> None:
    """Two kinds of one text apart from noise: what is fitted on one half does not hold on the other."""
    apart = [write(tmp_path / f"{k}.jsonl", *(f"{word} {i}" for i in range(8))) for k, word in enumerate(("Yes", "No"))]
    same = [write(tmp_path / f"s{k}.jsonl", *(f"{i * 7 + k} of {i}" for i in range(8))) for k in range(2)]
    clear, noise = make_contrast(engine, *apart), make_contrast(engine, *same)
    assert min(row.separation for row in clear.layers) > 3
    assert max(abs(row.separation) for row in noise.layers) < min(row.separation for row in clear.layers)


def test_too_few_conversations_are_refused(engine: Engine, tmp_path: Path) -> None:
    few = write(tmp_path / "p.jsonl", "a", "b", "c")
    with pytest.raises(InputError, match="has 3 conversations, expected at least 4"):
        make_contrast(engine, few, few)


def test_the_command_writes_a_file_that_a_persona_takes(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    positive, negative = (write(tmp_path / f"{k}.jsonl", *(f"{k} {i}" for i in range(4))) for k in ("yes", "no"))
    out = tmp_path / "v.safetensors"
    options = ["--positive", positive, "--negative", negative, "--model", str(tiny_model("llama"))]
    done = CliRunner().invoke(vector, [*options, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert f"v=vector:{out}:LAYER" in lines[-1]
    assert load_personas([f"v=vector:{out}:3*2"])[0].changes[0].layer == 3
    for path, why in ((out, "is there already"), (tmp_path / "v.pt", "no safetensors file")):
        with pytest.raises(UsageError, match=why):
            CliRunner().invoke(vector, [*options, "--out", str(path)], catch_exceptions=False)
