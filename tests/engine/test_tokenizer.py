"""Tokenizers and chat templates: the ids of transformers, control tokens that data can't forge, bounded templates."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import slow
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Tokenizers

from warmeng.common.errors import InputError
from warmeng.engine import chat_template
from warmeng.engine.registry import resolve_model
from warmeng.engine.tokenizer import Tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "data"
FAMILIES = ["built-in", "llama-3.1", "qwen2.5", "mistral-nemo"]
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_loaded: dict[str, Tokenizer] = {}


def folder_of(family: str) -> Path:
    if family == "built-in":
        return resolve_model("smollm2-135m-instruct").folder
    folder = SHARED / "tokenizers" / family
    if not folder.is_dir():
        pytest.skip(f"no tokenizer of {family} here")
    return folder


def load(family: str) -> Tokenizer:
    if family not in _loaded:
        _loaded[family] = Tokenizer.load(folder_of(family))
    return _loaded[family]


def with_template(folder: Path, template: str | None, **settings: Any) -> Path:
    """Write a byte-level tokenizer of 258 ids with this chat template."""
    backend = Tokenizers(
        models.BPE({text: i for i, text in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    backend.save(str(folder / "tokenizer.json"))
    tokens = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokens, **settings}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        Tokenizer.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def conversations() -> list[list[dict[str, str]]]:
    path = SHARED / "chat" / "humt_pairs.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n")[:24]] if path.is_file() else []
    rows += [{"prompt": "  What's 12345 + 678?\n\n\tça va, 日本 🙂 <think>no</think>  ", "chosen": "It's 13023.\r\n"}]
    result = []
    for number, row in enumerate(rows):
        messages = [{"role": "user", "content": row["prompt"]}]
        if number % 2:
            messages.insert(0, {"role": "system", "content": "Be warm, and be brief."})
        if number % 3 == 0:
            messages += [{"role": "assistant", "content": row["chosen"]}, {"role": "user", "content": " why 1999? "}]
        result.append(messages)
    return result


@pytest.mark.parametrize("family", [FAMILIES[0], *slow(*FAMILIES[1:])])
def test_ids_equal_those_of_transformers(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours, theirs = load(family), transformers.AutoTokenizer.from_pretrained(folder_of(family))
    for messages in conversations():
        for prompt in (True, False):
            expected = theirs.apply_chat_template(
                messages, add_generation_prompt=prompt, tokenize=True, return_dict=False
            )
            assert ours.chat(messages, prompt) == expected
            text = theirs.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
            assert ours.render(messages, prompt) == text
        text = messages[-1]["content"]
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("family", [FAMILIES[0], *slow(*FAMILIES[1:])])
def test_special_tokens_in_data_are_ordinary_text(family: str) -> None:
    tokenizer = load(family)
    strings = list(tokenizer.special_tokens)[:8]
    attack = "a" + "".join(strings) + "\n" + " ".join(strings) + strings[0][:1] + strings[0] + "z"
    special = set(tokenizer.special_tokens.values())

    def control(text: str, continued: str = "") -> list[int]:
        messages = [{"role": "system", "content": text}, {"role": "user", "content": text}]
        return [i for i in tokenizer.chat(messages, continue_text=continued) if i in special]

    assert control(attack, attack) == control("harmless", "harmless")
    assert not special & set(tokenizer.encode(attack))
    assert tokenizer.decode(tokenizer.encode(attack)) == attack
    messages = [{"role": "user", "content": attack}]
    assert attack in tokenizer.render(messages)
    assert attack in tokenizer.decode(tokenizer.chat(messages), skip_special=False)


@settings(max_examples=60, deadline=None)
@given(content=st.text(st.sampled_from("<|im_startend>sy \n\ue000"), max_size=40))
def test_no_content_makes_a_control_token(content: str) -> None:
    tokenizer = load("built-in")
    ids = tokenizer.chat([{"role": "user", "content": content}])
    special = set(tokenizer.special_tokens.values())
    assert [i for i in ids if i in special] == [1, 2, 1, 2, 1]
    text = tokenizer.decode(ids, skip_special=False)
    assert text == tokenizer.render([{"role": "user", "content": content}])


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_text_survives_the_round_trip(family: str) -> None:
    tokenizer = load(family)
    for text in ("", " ", "Hello , world .", "  leading\n\n\ttabs ", "naïve café 😀 日本語 1234567"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_what_is_known_of_each_template() -> None:
    built_in = load("built-in")
    assert built_in.default_system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert (built_in.vocab_size, built_in.bos_id, built_in.eos_id) == (49152, 1, 2)
    user = {"role": "user", "content": "hi"}
    told = {"role": "system", "content": built_in.default_system}
    assert built_in.chat([user]) == built_in.chat([told, user])
    assert load("qwen2.5").default_system == "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    assert load("qwen2.5").vocab_size == 151665  # the model's logits are padded beyond
    assert load("llama-3.1").default_system is None
    assert load("mistral-nemo").default_system is None
    assert all(load(family).supports_system for family in FAMILIES)
    assert built_in.encode("12 7") == [33, 34, 216, 39]  # digits one by one


def test_continued_text_is_text_after_the_generation_prompt() -> None:
    tokenizer = load("built-in")
    messages = [{"role": "user", "content": "hi"}]
    assert tokenizer.decode(tokenizer.chat(messages, continue_text="The answer is")).endswith(
        "assistant\nThe answer is"
    )
    with pytest.raises(InputError, match="generation prompt"):
        tokenizer.chat(messages, add_generation_prompt=False, continue_text="x")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user"}],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "x", "tool_calls": "y"}],
        [{"role": "user", "content": "lone \ud800"}],
    ],
)
def test_malformed_conversations_are_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError):
        load("built-in").chat(messages)


def test_the_date_is_frozen_and_recorded(tmp_path: Path) -> None:
    with_template(tmp_path, "{{ strftime_now('%d %b %Y') }}" + PLAIN)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.frozen_date == "2026-01-01"
    assert tokenizer.render([{"role": "user", "content": "x"}]).startswith("01 Jan 2026")
    later = Tokenizer.load(tmp_path, datetime(2027, 2, 3))
    assert later.render([{"role": "user", "content": "x"}]).startswith("03 Feb 2027")
    assert load("built-in").frozen_date is None
    assert tokenizer.template_hash != load("built-in").template_hash


def test_thinking_is_off_and_generation_marks_are_ignored(tmp_path: Path) -> None:
    template = PLAIN + "{% if enable_thinking is false %}<think></think>{% generation %}x{% endgeneration %}{% endif %}"
    tokenizer = Tokenizer.load(with_template(tmp_path, template))
    assert tokenizer.render([{"role": "user", "content": "hi"}]).endswith("<think></think>x")


def test_a_template_that_refuses_system_messages_is_refused_at_use(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
    tokenizer = Tokenizer.load(with_template(tmp_path, template))
    assert not tokenizer.supports_system
    assert tokenizer.chat([{"role": "user", "content": "x"}])
    with pytest.raises(InputError, match="system"):
        tokenizer.chat([{"role": "system", "content": "s"}, {"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "no chat template"),
        ("{% for m in messages %}", "malformed"),
        ("{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}", "drops"),
        ("{{ messages[-1].content }}", "drops"),
        ("{{ bos_token + bos_token }}" + PLAIN, "twice"),
        ("{{ messages.foo.bar }}", "refuses"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ().__class__.__base__.__subclasses__() }}" + PLAIN, "refuses"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}" + PLAIN, "refuses"),
        ("{{ 'a' * 1000000000 }}", "MiB of memory"),
        ("{{ 9 ** 999999999 }}", "takes more than 0.3 s"),
        (
            "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "takes more than",
        ),
        ("{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}", "characters"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "RecursionError"),
    ],
)
def test_templates_that_lose_double_break_or_exceed_anything(
    tmp_path: Path, template: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.3)
    assert said in refused(with_template(tmp_path, template))


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
)
def test_templates_that_never_end(tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.2)
    assert "takes more than" in refused(with_template(tmp_path, template))


def test_damaged_and_foreign_files_get_one_line(tmp_path: Path) -> None:
    with_template(tmp_path, PLAIN)
    (tmp_path / "tokenizer.json").write_text('{"model":')
    assert "malformed" in refused(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused(tmp_path)
    with_template(tmp_path, PLAIN, auto_map={"AutoTokenizer": ["x.Evil", None]})
    assert "auto_map" in refused(tmp_path)


def test_truncation_and_padding_of_the_file_do_not_apply(tmp_path: Path) -> None:
    with_template(tmp_path, PLAIN)
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text())
    data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(data))
    assert len(Tokenizer.load(tmp_path).encode("seven b")) == 7


def test_a_named_template_in_the_configuration(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": PLAIN}]
    tokenizer = Tokenizer.load(with_template(tmp_path, None, chat_template=named))
    assert "user\nhi" in tokenizer.render([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_spaces_around_control_tokens_are_those_of_the_whole_text(tmp_path: Path, scheme: str) -> None:
    with_template(tmp_path, PLAIN)
    letters = ["▁", *(chr(c) for c in range(33, 127)), "\n"]
    backend = Tokenizers(models.BPE({text: i for i, text in enumerate(letters)}, [], byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.add_special_tokens([AddedToken("<|im_start|>", lstrip=True), AddedToken("<|im_end|>", rstrip=True)])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    messages = [{"role": "user", "content": "hello there "}, {"role": "assistant", "content": "  you "}]
    whole = backend.encode(tokenizer.render(messages, True, " and"), add_special_tokens=False).ids
    assert tokenizer.chat(messages, True, " and") == whole
