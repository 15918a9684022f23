"""Training data as its formats mean it: learned, masked, or refused; nothing of it is lost without a word."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warmeng.common.errors import InputError
from warmeng.engine.tokenizer import Tokenizer
from warmeng.finetune.conversations import Dataset, load_dataset
from warmeng.finetune.prepare.conversations import read_conversations as read_to_prepare

STOPS = (2,)
TALK = [("user", "Where?"), ("assistant", "A draft."), ("user", "Again."), ("assistant", "In Rome.")]


@pytest.fixture
def tokenizer(tiny_model: Callable[[str], Path]) -> Tokenizer:
    return Tokenizer.load(tiny_model("llama"))


def messages(*more: dict[str, Any], talk: Any = TALK) -> dict[str, Any]:
    """A chat in OpenAI's form; ``more`` is put into its messages one by one."""
    entries = [{"role": role, "content": text} for role, text in talk]
    for entry, extra in zip(entries, more, strict=False):
        entry.update(extra)
    return {"messages": entries}


def sharegpt(*talk: tuple[str, str], **row: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": text} for who, text in talk], **row}


def load(tmp_path: Path, tokenizer: Tokenizer, *rows: Any) -> Dataset:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_dataset(str(path), tokenizer, STOPS, 400)


def learned(dataset: Dataset, tokenizer: Tokenizer) -> list[str]:
    found = []
    for sample in dataset.samples:
        chosen = [t for t, wanted in zip(sample.tokens.tolist(), sample.learn.tolist(), strict=True) if wanted]
        found.append(tokenizer.decode(chosen).strip())
    return found


def shown(dataset: Dataset, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(dataset.samples[0].tokens.tolist(), False)


@pytest.mark.parametrize(
    "flag",
    [
        {"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"loss": False},
        {"weight": 0, "train": False},
    ],
)  # fmt: skip
def test_a_masked_response_is_read_and_not_learned(tokenizer: Tokenizer, tmp_path: Path, flag: dict[str, Any]) -> None:
    dataset = load(tmp_path, tokenizer, messages({}, flag))
    assert learned(dataset, tokenizer) == ["In Rome."]
    assert "A draft." in shown(dataset, tokenizer)
    assert dataset.masked == dataset.record()["masked"] == 1
    assert dataset.greetings == 0
    plain = load(tmp_path, tokenizer, messages())
    assert learned(plain, tokenizer) == ["A draft.In Rome."]
    assert plain.sha256 != dataset.sha256


@pytest.mark.parametrize("flag", [{"weight": 1}, {"weight": 1.0, "train": True}, {"loss": None}, {"train": True}])
def test_a_response_that_is_to_be_learned_is(tokenizer: Tokenizer, tmp_path: Path, flag: dict[str, Any]) -> None:
    dataset = load(tmp_path, tokenizer, messages({"weight": 0}, flag, {"train": False}, flag))
    assert learned(dataset, tokenizer) == ["A draft.In Rome."]
    assert dataset.sha256 == load(tmp_path, tokenizer, messages()).sha256


def test_masks_of_sharegpt_and_of_the_last_response(tokenizer: Tokenizer, tmp_path: Path) -> None:
    row = sharegpt(("human", "Hi"), ("gpt", "A bad turn"), ("human", "Again"), ("gpt", "A good turn"))
    row["conversations"][1]["train"] = False
    assert learned(load(tmp_path, tokenizer, row), tokenizer) == ["A good turn"]
    row["conversations"][1]["train"], row["conversations"][3]["train"] = True, False
    dataset = load(tmp_path, tokenizer, row)
    assert learned(dataset, tokenizer) == ["A bad turn"]
    assert "Again" not in shown(dataset, tokenizer)  # what follows the last learned token teaches nothing


@pytest.mark.parametrize(
    "row",
    [
        sharegpt(("human", "Hello there"), ("gpt", "Ahoy!"), system="You are a pirate.", tools=""),
        sharegpt(("human", "Hello there"), ("gpt", "Ahoy!"), system_prompt="You are a pirate.", tools="[]"),
        sharegpt(("system", "You are a pirate."), ("human", "Hello there"), ("gpt", "Ahoy!"), system=" "),
        {"prompt": "Hello there", "response": "Ahoy!", "system": "You are a pirate."},
        {**messages(talk=[("user", "Hello there"), ("assistant", "Ahoy!")]), "system": "You are a pirate."},
        messages(talk=[("developer", "You are a pirate."), ("user", "Hello there"), ("assistant", "Ahoy!")]),
        {
            **messages(talk=[("system", "You are a pirate."), ("user", "Hello there"), ("assistant", "Ahoy!")]),
            "system": "You are a pirate.",
        },
    ],
)
def test_a_system_prompt_of_its_own_key_is_part_of_the_prompt(tokenizer: Tokenizer, tmp_path: Path, row: Any) -> None:
    dataset = load(tmp_path, tokenizer, row)
    assert shown(dataset, tokenizer).startswith("<|im_start|>system\nYou are a pirate.<|im_end|>\n<|im_start|>user\nH")
    assert learned(dataset, tokenizer) == ["Ahoy!"]
    (found,) = read_to_prepare([tmp_path / "data.jsonl"], "auto", "prompt", "response", 20).conversations
    assert (found.system, [e.response for e in found.exchanges]) == ("You are a pirate.", ["Ahoy!"])


def test_sharegpt_that_begins_with_a_response_begins_at_the_first_question(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    row = sharegpt(("gpt", "Earlier answer"), ("human", "Hi"), ("gpt", "Hello"))
    dataset = load(tmp_path, tokenizer, row, sharegpt(("system", "S"), ("gpt", "x"), ("human", "Hi"), ("gpt", "Ho")))
    assert learned(dataset, tokenizer) == ["Hello", "Ho"]
    assert dataset.greetings == dataset.record()["greetings"] == 2
    assert "Earlier" not in shown(dataset, tokenizer)
    read = read_to_prepare([tmp_path / "data.jsonl"], "auto", "prompt", "response", 20)
    assert (read.greetings, read.dropped) == (2, {"duplicate prompt": 1})


def test_a_chat_that_begins_with_a_response_is_learned_where_the_template_asks_for_one(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    greeting = [("assistant", "Welcome!"), ("user", "Hi"), ("assistant", "Hello")]
    with pytest.raises(InputError, match=r"data\.jsonl:1: the conversation begins with a response, and nothing asks"):
        load(tmp_path, tokenizer, messages(talk=greeting))
    masked = load(tmp_path, tokenizer, messages({"weight": 0}, talk=greeting))
    assert learned(masked, tokenizer) == ["Hello"]
    assert "Welcome!" in shown(masked, tokenizer)
    told = load(tmp_path, tokenizer, messages(talk=[("system", "Be kind."), *greeting]))
    assert learned(told, tokenizer) == ["Welcome!Hello"]


CALL = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
REFUSED: dict[str, tuple[Any, str, str]] = {
    "tool calls beside a text": (messages({}, {"tool_calls": CALL}), "tool_calls can't be learned", "tool calls"),
    "tool calls alone": (messages({}, {"content": None, "tool_calls": CALL}), "tool_calls", "tool calls"),
    "an old function call": (messages({}, {"function_call": {"name": "f"}}), "function_call", "tool calls"),
    "tools of the conversation": ({**messages(), "tools": CALL}, "tools can't be learned", "tool calls"),
    "tools as text": (sharegpt(("human", "a"), ("gpt", "b"), tools='[{"name": "f"}]'), "tools", "tool calls"),
    "a tool's answer": (messages(talk=[*TALK, ("tool", "4")]), "role 'tool'", "other roles"),
    "a function's answer": (sharegpt(("human", "a"), ("observation", "x"), ("gpt", "b")), "'observation'", "other"),
    "reasoning": (messages({}, {"reasoning_content": "Hm."}), "reasoning_content", "thoughts in a key of their own"),
    "thinking": (messages({}, {}, {}, {"thinking": "Hm."}), "thinking can't be learned", "thoughts"),
    "a weight between": (messages({}, {"weight": 0.5}), "weight of a message is 0.5, expected 0 or 1", "weights"),
    "a weight as text": (messages({}, {"weight": "0"}), "weight of a message is '0'", "weights"),
    "a contradiction": (messages({}, {"weight": 0, "train": True}), "weight and train .* contradict", "weights"),
    "a conversation of no weight": ({**messages(), "weight": 0}, "weight of the conversation is 0", "weights"),
    "a conversation that is left out": ({**messages(), "train": False}, "train of the conversation", "weights"),
    "a disliked response": ({**messages(), "label": False}, "label of the conversation is False", "weights"),
    "a disliked pair": ({"prompt": "a", "response": "b", "kto_tag": "false"}, "kto_tag of the conv", "weights"),
    "a user to be learned": (messages({"train": True}), "train asks to learn what the user says", "weights"),
    "parts of a response": (messages({}, {"train_detail": [{"begin_offset": 0}]}), "train_detail", "parts"),
    "a history": ({"prompt": "a", "response": "b", "history": [["x", "y"]]}, "history can't be learned", "parts"),
    "settings of the template": ({**messages(), "chat_template_kwargs": {"x": 1}}, "chat_template_kwargs", "parts"),
    "an image": (messages({"content": [{"type": "image_url", "image_url": "x"}]}), "content is", "not text"),
    "two system prompts": (
        {**messages(talk=[("system", "A"), ("user", "Q"), ("assistant", "B")]), "system": "C"}, "two system", "two",
    ),
    "a system prompt that is no text": ({**messages(), "system": ["A"]}, "system is", "not text"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_can_not_be_learned_is_refused_by_name_and_counted(
    tokenizer: Tokenizer, tmp_path: Path, what: str
) -> None:
    row, words, cause = REFUSED[what]
    with pytest.raises(InputError, match=rf"data\.jsonl:2: .*{words}") as error:
        load(tmp_path, tokenizer, messages(), row)
    assert "\n" not in str(error.value)
    for row_ in (messages(talk=[("user", "Else?"), ("assistant", "Yes.")]), row):
        with (tmp_path / "more.jsonl").open("a") as file:
            file.write(json.dumps(row_) + "\n")
    form = "pairs" if "prompt" in row else "auto"
    if form == "pairs":
        (tmp_path / "more.jsonl").write_text(json.dumps({"prompt": "p", "response": "r"}) + "\n" + json.dumps(row))
    elif "conversations" in row:
        first = sharegpt(("human", "Else?"), ("gpt", "Yes."))
        (tmp_path / "more.jsonl").write_text(json.dumps(first) + "\n" + json.dumps(row))
    read = read_to_prepare([tmp_path / "more.jsonl"], form, "prompt", "response", 20)
    assert len(read.conversations) == 1
    ((found, count),) = read.dropped.items()
    assert (found.startswith(cause), count) == (True, 1)


def test_masked_responses_are_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(messages({}, {"weight": 0})) + "\n" + json.dumps(messages(talk=TALK[2:])))
    read = read_to_prepare([path], "auto", "prompt", "response", 20)
    assert read.dropped == {"responses that are not to be learned": 1}
    assert [c.origin.line for c in read.conversations] == [2]


def test_notes_are_left_alone_and_told(tokenizer: Tokenizer, tmp_path: Path) -> None:
    row = {**messages({"name": "Ann", "id": 3, "empty": None, "keep": False}), "source": "x", "tools": [], "weight": 1}
    dataset = load(tmp_path, tokenizer, row)
    assert dataset.notes == ("id", "keep", "name", "source")
    assert dataset.sha256 == load(tmp_path, tokenizer, messages()).sha256
    assert load(tmp_path, tokenizer, messages()).notes == ()


def test_text_parts_are_one_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "A "}, {"type": "text", "text": "draft."}]
    assert (
        load(tmp_path, tokenizer, messages({}, {"content": parts})).sha256
        == load(tmp_path, tokenizer, messages()).sha256
    )


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json", "a.parquet"])
def test_the_same_conversations_from_other_files(tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    rows = [messages({}, {"weight": 0}), messages()]
    path = tmp_path / name
    if name.endswith(".parquet"):
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    else:
        path.write_text(json.dumps(rows, indent=1))
    found, plain = load_dataset(str(path), tokenizer, STOPS, 400), load(tmp_path, tokenizer, *rows)
    assert (found.sha256, found.masked) == (plain.sha256, plain.masked)
    assert read_to_prepare([path], "auto", "prompt", "response", 20).total == 2
