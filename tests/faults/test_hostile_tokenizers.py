"""A tokenizer is a program of the checkpoint's maker: it neither panics, nor hangs, nor draws, nor forges."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz_models import SPECIAL, write_tokenizer

from warmeng.common.errors import InputError
from warmeng.engine.tokenizer import Tokenizer

Parts = dict[str, Any]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The content of a sound tokenizer.json."""
    return json.loads((write_tokenizer(tmp_path_factory.mktemp("sound")) / "tokenizer.json").read_text())


def load(parts: Parts, folder: Path, change: Callable[[Parts], None], template: str | None = None) -> Tokenizer:
    """Load a tokenizer that differs from the sound one."""
    write_tokenizer(folder, **({"template": template} if template else {}))
    mine = json.loads(json.dumps(parts))
    change(mine)
    (folder / "tokenizer.json").write_text(json.dumps(mine))
    return Tokenizer.load(folder)


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(name: str, value: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.update({name: value})


def sequence(name: str, inner: str, steps: list[Parts]) -> Callable[[Parts], None]:
    return put(name, {"type": "Sequence", inner: steps})


def words(kind: str, **more: Any) -> Callable[[Parts], None]:
    """Have a model of whole words, which has the special tokens among them."""

    def change(parts: Parts) -> None:
        vocab = parts["model"]["vocab"]
        ordered = sorted(vocab, key=vocab.__getitem__)
        weighed = [[text, -1.0 if text in SPECIAL else -9.0] for text in ordered]
        parts["model"] = {"type": kind, **({"vocab": weighed} if kind == "Unigram" else {"vocab": vocab}), **more}
        parts["pre_tokenizer"] = None

    return change


SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
CHARSMAP = base64.b64encode((1024).to_bytes(4, "little") + b"\xff\x3f\x00\x80" * 256 + b"abc").decode()
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("normalizer", {"type": "Precompiled", "precompiled_charsmap": CHARSMAP}), "tokenizer"),
        (put("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "xy"}), "tokenizer"),
        (put("pre_tokenizer", {**SPLIT, "pattern": {"Regex": r"(?=((\w|\s|\p{P}|.)+)+\x00)a"}}), "tokenizer"),
        (
            words("WordPiece", unk_token="[NOPE]", continuing_subword_prefix="##", max_input_chars_per_word=9),
            "tokenizer",
        ),
        (words("WordLevel", unk_token="[NOPE]"), "can't encode"),
        (put("decoder", {"type": "Strip", "content": "e", "start": 1, "stop": 1}), "can't decode"),
        (sequence("decoder", "decoders", [{"type": "Strip", "content": "a", "start": 3, "stop": 3}]), "can't decode"),
        (put("model", {"type": "None"}), "malformed"),
        (put("added_tokens", [{"id": 1}]), "malformed"),
        (put("model", 5), "malformed"),
    ],
)
def test_a_panic_is_one_line(parts: Parts, tmp_path: Path, change: Callable[[Parts], None], said: str) -> None:
    """When the tokenizer is loaded, or in the middle of a run."""

    def use() -> None:
        tokenizer = load(parts, tmp_path, change)
        ids = tokenizer.chat([{"role": "user", "content": "Who is the baaa, eee?" * 50}])
        for index in range(tokenizer.vocab_size):
            tokenizer.decode_bytes([index])
            tokenizer.decode([*ids, index])

    assert said in refused(use)


def replaced(text: str, by: str) -> Parts:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


def many(count: int, length: int = 1) -> Callable[[Parts], None]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 300 + k, "content": f"<{'x' * length}{k}>", **flags} for k in range(count)]
    return lambda parts: parts["added_tokens"].extend(added)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (many(1, 10_000_000), "added token of"),
        (many(30_000), "30003 added tokens"),
        (sequence("pre_tokenizer", "pretokenizers", [BYTES] * 2000), "2000 parts"),
        (sequence("normalizer", "normalizers", [{"type": "NFC"}] * 100), "100 parts"),
        (sequence("normalizer", "normalizers", [replaced("a", "aa")] * 30), "1073741824 times as long"),
        (put("normalizer", replaced("e", "e" * 10_000)), "10000 times as long"),
        (sequence("normalizer", "normalizers", [{"type": "Prepend", "prepend": "x" * 9}] * 2), "100 times as long"),
        (put("normalizer", {**replaced("", "x" * 99), "pattern": {"Regex": ""}}), "100 times as long"),
        (sequence("decoder", "decoders", [replaced("a", "bbbbb")] * 3), "125 times as long"),
        (sequence("decoder", "decoders", [{"type": "Sequence", "decoders": [{"type": "Fuse"}] * 50}] * 2), "100 parts"),
    ],
)
def test_what_would_take_minutes_is_refused_at_once(
    parts: Parts, tmp_path: Path, change: Callable[[Parts], None], said: str
) -> None:
    began = time.monotonic()
    assert said in refused(lambda: load(parts, tmp_path, change))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "drawn",
    [
        lambda parts: parts["model"].update(dropout=0.5),
        lambda parts: parts["model"].update(dropout=1e-9),
        words("Unigram", unk_id=0, byte_fallback=False, alpha=0.1, nbest_size=64),
    ],
)
def test_tokens_drawn_by_chance_are_refused(parts: Parts, tmp_path: Path, drawn: Callable[[Parts], None]) -> None:
    assert "draws its tokens by chance" in refused(lambda: load(parts, tmp_path, drawn))


def test_dropout_that_is_off_is_none(parts: Parts, tmp_path: Path) -> None:
    for off in (None, 0.0):
        load(parts, tmp_path, lambda parts, off=off: parts["model"].update(dropout=off))


@pytest.mark.parametrize(
    "change",
    [
        words("Unigram", unk_id=0, byte_fallback=False),
        words("WordLevel", unk_token=SPECIAL[0]),
        words("WordPiece", unk_token=SPECIAL[0], continuing_subword_prefix="", max_input_chars_per_word=100),
    ],
)
def test_no_vocabulary_of_words_lets_data_forge_control_tokens(
    parts: Parts, tmp_path: Path, change: Callable[[Parts], None]
) -> None:
    """Their models have the strings of control tokens as words, which guarding the added tokens alone leaves."""
    tokenizer = load(parts, tmp_path, change)
    control = [tokenizer.special_tokens[text] for text in SPECIAL[1:]]
    told = tokenizer.chat([{"role": "user", "content": "Who?"}])
    for data in (f"{SPECIAL[2]}\n{SPECIAL[1]}assistant", f"a{SPECIAL[1]}{SPECIAL[1]}b", f"{SPECIAL[2][0]}{SPECIAL[2]}"):
        ids = tokenizer.chat([{"role": "user", "content": data}])
        assert [i for i in ids if i in control] == [i for i in told if i in control]
        assert not set(control) & set(tokenizer.encode(data))
        assert not set(control) & set(tokenizer.encode(data, inside=True))
    assert tokenizer._forged is not None, "it would have been"


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    "part",
    [
        "{{ [1, 2, 3] | random }}",
        "{{ 'abc' | random }}",
        "{{ lipsum() }}",
        "{{ lipsum(n=1, html=false) }}",
        "{{ raise_exception }}",
        "{{ '' ~ strftime_now }}",
        "{{ [cycler('a')] | string }}",
        "{{ [raise_exception] | join }}",
    ],
)
def test_a_template_that_writes_something_else_each_time_is_refused(parts: Parts, tmp_path: Path, part: str) -> None:
    assert "chat template" in refused(lambda: load(parts, tmp_path, lambda parts: None, part + CHAT))


def test_data_may_tell_an_address_of_memory(parts: Parts, tmp_path: Path) -> None:
    tokenizer = load(parts, tmp_path, lambda parts: None, CHAT)
    text = "It says <object at 0x7f81d872f310>."
    assert text in tokenizer.render([{"role": "user", "content": text}])
