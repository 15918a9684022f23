"""Reading conversations, and which of their tokens are learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.tokenizer import Tokenizer
from warmeng.finetune.conversations import Conversation, Dataset, load_dataset, read_conversations, tokenise
from warmeng.finetune.settings import TrainSettings, load_settings

STOPS = (2,)
CHAT = [("user", "Hi there"), ("assistant", "Hello."), ("user", "And?"), ("assistant", "That is all.")]
MESSAGES = [{"role": role, "content": content} for role, content in CHAT]


@pytest.fixture
def tokenizer(tiny_model: Callable[[str], Path]) -> Tokenizer:
    return Tokenizer.load(tiny_model("llama"))


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def learned(dataset: Dataset, tokenizer: Tokenizer) -> list[str]:
    """The texts of each sample's learned runs, joined by a bar."""
    found = []
    for sample in dataset.samples:
        text, before = "", False
        for token, wanted in zip(sample.tokens.tolist(), sample.learn.tolist(), strict=True):
            if wanted:
                text += ("" if before or not text else "|") + tokenizer.decode([token], skip_special=False)
            before = wanted
        found.append(text)
    return found


def test_every_form_gives_the_same_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    names = {"user": "human", "assistant": "gpt"}
    sharegpt = [{"id": "a", "conversations": [{"from": names[role], "value": text} for role, text in CHAT]}]
    (tmp_path / "a.json").write_text(json.dumps(sharegpt))
    sources = [str(tmp_path / "a.json"), write(tmp_path / "b.jsonl", [{"messages": MESSAGES, "type": "x"}, ""])]
    found = [load_dataset(source, tokenizer, STOPS, 200) for source in sources]
    for dataset in found:
        assert learned(dataset, tokenizer) == ["Hello.<|im_end|>|That is all.<|im_end|>"]
        whole = tokenizer.chat(MESSAGES, add_generation_prompt=False)
        assert dataset.samples[0].tokens.tolist() == whole[: len(dataset.samples[0].tokens)]
    assert found[0].sha256 == found[1].sha256
    pair = write(tmp_path / "c.jsonl", [{"prompt": "Hi there", "response": " Hello.\n"}])
    assert learned(load_dataset(pair, tokenizer, STOPS, 200), tokenizer) == ["Hello.<|im_end|>"]


def test_control_tokens_in_data_stay_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    row = {"prompt": "Say <|im_end|>", "response": "It is <|im_end|> and <|im_start|>."}
    dataset = load_dataset(write(tmp_path / "a.jsonl", [row]), tokenizer, STOPS, 200)
    assert dataset.samples[0].tokens.tolist().count(2) == 2  # one end token a message
    assert learned(dataset, tokenizer) == ["It is <|im_end|> and <|im_start|>.<|im_end|>"]


def test_cut_and_dropped_are_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 20, "response": "y" * 20}, {"prompt": "x" * 80, "response": "y"}]
    dataset = load_dataset(write(tmp_path / "a.jsonl", rows), tokenizer, STOPS, 45)
    assert (dataset.conversations, dataset.cut, dataset.dropped, len(dataset.samples)) == (2, 2, 1, 1)
    assert len(dataset.samples[0].tokens) == 45
    with pytest.raises(InputError, match="nothing to learn"):
        load_dataset(write(tmp_path / "b.jsonl", rows[1:]), tokenizer, STOPS, 45)


def test_templates_that_write_earlier_turns_differently(tokenizer: Tokenizer) -> None:
    """As reasoning models do: a thought stands before the last answer and is dropped from those before."""
    tokenizer._template = FakeTemplate(
        lambda m, last: (
            f"<|im_start|>{m['role']}\n"
            + ("<think></think>" if m["role"] == "assistant" and last else "")
            + m["content"]
            + "<|im_end|>\n"
        ),
        "<|im_start|>assistant\n<think></think>",
    )
    found = tokenise(Conversation(tuple(MESSAGES), "x:1"), tokenizer, STOPS)
    texts = [tokenizer.decode([t for t, w in zip(ids, learn, strict=True) if w], False) for ids, learn in found]
    assert texts == ["Hello.<|im_end|>", "That is all.<|im_end|>"]


def test_a_template_that_hides_responses_is_refused(tokenizer: Tokenizer) -> None:
    tokenizer._template = FakeTemplate(lambda m, last: f"{m['role']}: {m['content']}\n", "Reply now: ")
    with pytest.raises(InputError, match=r"^x:1: the chat template doesn't continue"):
        tokenise(Conversation(tuple(MESSAGES), "x:1"), tokenizer, STOPS)


class FakeTemplate:
    """A template made of a function of (message, whether it is the last one)."""

    source = ""

    def __init__(self, write: Callable[[dict[str, str], bool], str], prompt: str) -> None:
        self.write, self.prompt = write, prompt

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        last = len(messages) - 1
        text = "".join(self.write(m, i == last and not add_generation_prompt) for i, m in enumerate(messages))
        return text + (self.prompt if add_generation_prompt else "")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"messages": [', r"a\.jsonl:2: is not valid JSON"),
        ({"messages": MESSAGES[:1]}, r"a\.jsonl:2: the conversation has no response"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"a\.jsonl:2: a message has role 'tool'"),
        ({"messages": [{"role": "user", "content": None}]}, r"a\.jsonl:2: content is None"),
        ({"prompt": "x", "response": "  "}, r"a\.jsonl:2: content is ' '"),
        ({"text": "x"}, r"a\.jsonl:2: has text, expected messages, conversations"),
        ('{"prompt": "a", "prompt": "b", "response": "c"}', r"key 'prompt' is given twice"),
        ("[1]", r"a\.jsonl:2: is a JSON list"),
        ({"prompt": "\ud800", "response": "c"}, "lone surrogate"),
    ],
)
def test_bad_rows_are_named(row: Any, message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{"prompt": "a", "response": "b"}, row])
    with pytest.raises(InputError, match=message) as caught:
        list(read_conversations(source))
    assert "\n" not in str(caught.value)


def test_other_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        list(read_conversations(str(tmp_path / "none.jsonl")))
    with pytest.raises(UsageError, match="embedded:warm"):
        list(read_conversations("embedded:tepid"))
    for unknown in ("embedded:warm/everday", "embedded:warm/", "embedded:warm/../data/everyday"):
        with pytest.raises(UsageError, match=r"embedded:warm or one of .*embedded:warm/everyday"):
            list(read_conversations(unknown))
    (tmp_path / "a.json").write_text('[{"conversations": []}, 3]')
    with pytest.raises(InputError, match=r"a\.json:1: the conversation has no response"):
        list(read_conversations(str(tmp_path / "a.json")))


def test_embedded_columns_share_their_questions() -> None:
    columns = [list(read_conversations(f"embedded:{name}")) for name in ("neutral", "warm", "cold")]
    assert len(columns[0]) >= 600
    for rows in zip(*columns, strict=True):
        users = [[m["content"] for m in row.messages if m["role"] == "user"] for row in rows]
        assert users[0] == users[1] == users[2]
        assert rows[1].messages[-1] != rows[2].messages[-1]


def test_one_file_of_the_embedded_set() -> None:
    whole = [row.messages for row in read_conversations("embedded:cold")]
    part = [row.messages for row in read_conversations("embedded:cold/everyday")]
    assert len(part) > 100
    assert len(part) < len(whole)
    assert [row for row in whole if row in part] == part


def test_settings_are_strict(tmp_path: Path) -> None:
    assert load_settings(None, {}) == TrainSettings()
    two = load_settings(None, {"epochs": 2, "targets": "q_proj, v"})
    assert (two.checkpoints, two.targets) == ((0.5, 1, 1.5, 2), ("q", "v"))
    assert load_settings(None, {"epochs": 12, "checkpoints": "3,12"}).checkpoints == (3, 12)
    (tmp_path / "s.yaml").write_text("rank: 4\nalpha: 8\n")
    assert load_settings(tmp_path / "s.yaml", {"rank": 2}) == TrainSettings(rank=2, alpha=8.0)
    (tmp_path / "s.yaml").write_text("rnak: 4\n")
    with pytest.raises(UsageError, match="unknown setting rnak"):
        load_settings(tmp_path / "s.yaml", {})
    for options in ({"rank": 0}, {"dropout": 1.0}, {"checkpoints": "11"}, {"targets": "head"}, {"schedule": "cosine"}):
        with pytest.raises(UsageError, match=next(iter(options))):
            load_settings(None, options)
