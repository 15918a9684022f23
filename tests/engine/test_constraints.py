"""Constraints and stop strings over every kind of tokenizer: they are about text, whatever tokens it is made of."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from making import CHATML, CONTROL, KINDS, WORDS, following_model, plain_bytes, random_model, rows_of
from tiers import full, slow

from warmeng.engine.config import ModelConfig, parse_config
from warmeng.engine.constraints import ConstraintCompiler, grammar, unpack
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.request import Constraint, GenerateRequest, RequestError, SamplingParams
from warmeng.engine.testing import random_engine
from warmeng.engine.tokenizer import Tokenizer
from warmeng.study.tasks.wrong_answers import LINE

PUBLISHED = ("qwen2.5", "llama-3.1", "mistral-nemo")
SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
SMALL = EngineSettings(kv_bytes=8 * 2**20, max_num_seqs=16, max_batched_tokens=256)
HELLO = [{"role": "user", "content": "Which city?"}]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
CONSTRAINTS = {
    "a line": LINE,
    "digits": Constraint("regex", r"[0-9]{3}-[a-z]{2}"),
    "a choice": Constraint("choice", (" Paris", " Lyon it", "Rome")),
    "json": Constraint("json_schema", json.dumps(SCHEMA)),
    "forced": Constraint("regex", r" the answer is A\."),
}


def fits(text: str, name: str) -> bool:
    constraint = CONSTRAINTS[name]
    if name == "json":
        return isinstance(json.loads(text)["n"], int)
    if isinstance(constraint.value, tuple):
        return text in constraint.value
    return re.fullmatch(constraint.value, text) is not None


def hello(engine: Engine, name: str, **params: object) -> GenerateRequest:
    prompt = tuple(engine.tokenizer.chat(HELLO, True, "It is:"))
    return GenerateRequest(name, prompt, SamplingParams(**{"max_new_tokens": 90, **params}))  # type: ignore[arg-type]


@pytest.mark.parametrize("padding", [*slow(0), 45], ids=["all rows", "padded rows"])
@pytest.mark.parametrize("kind", KINDS)
def test_texts_belong_to_their_constraints(kind: str, padding: int, tmp_path: Path) -> None:
    KINDS[kind](tmp_path)
    random_model(tmp_path, rows_of(tmp_path) + padding)
    engine = Engine.load(str(tmp_path), device="cpu", settings=SMALL)
    requests = [
        replace(hello(engine, f"{name}/{temperature}", temperature=temperature), constraint=constraint)
        for name, constraint in CONSTRAINTS.items()
        for temperature in (0.0, 1.5)
    ]
    complete = 0
    for request, result in zip(requests, engine.generate(requests), strict=True):
        assert max(result.token_ids) < engine.tokenizer.vocab_size
        if result.finish_reason == "stop":
            complete += 1
            assert fits(result.text, request.id.partition("/")[0])
    assert complete >= 6


FILES = ["vocab.json and merges.txt", "tokenizer_config.json names the control tokens", "tokenizer.json"]


@pytest.mark.parametrize("files", FILES)
def test_constraints_need_no_file_of_their_own(files: str, tmp_path: Path) -> None:
    vocab = plain_bytes(tmp_path, ("ĠLyon",))
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    ordinary = [text for text in vocab if text not in CONTROL]
    if files != "tokenizer.json":
        vocab = {text: i for i, text in enumerate((*ordinary, *CONTROL))}
        flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False) | {"special": True}
        added = {str(vocab[text]): {"content": text, **flags} for text in CONTROL}
        kind = "Qwen2Tokenizer" if files.startswith("vocab") else "PreTrainedTokenizerFast"
        named = {
            "tokenizer_class": kind,
            "added_tokens_decoder": added,
            "eos_token": CONTROL[2],
            "pad_token": CONTROL[0],
        }
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**named, "chat_template": CHATML}))
        data["added_tokens"] = []
        data["model"]["vocab"] = {text: i for i, text in enumerate(ordinary)}
        (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    if files.startswith("vocab"):
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "vocab.json").write_text(json.dumps(data["model"]["vocab"]))
        (tmp_path / "merges.txt").write_text(
            "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in data["model"]["merges"])
        )
    follows = {(vocab[":"], vocab["ĠLyon"]): 20.0, (vocab["ĠLyon"], vocab["<|im_end|>"]): 20.0}
    following_model(tmp_path, follows, len(vocab))
    engine = Engine.load(str(tmp_path), device="cpu", settings=SMALL)
    [result] = engine.generate([replace(hello(engine, "a"), constraint=LINE)])
    assert (result.text, result.finish_reason) == (" Lyon", "stop")


@pytest.mark.parametrize("last", [0, 1, 2, 5], ids=["none", "two ends", "the other", "one without a token"])
def test_a_text_may_end_with_any_end_token(last: int, tmp_path: Path) -> None:
    """A grammar that allowed one end alone had texts go on where the model would have ended them with another."""
    vocab = plain_bytes(tmp_path, ("ĠLyon", "Ġis", "Ġa", "Ġcity"))
    width = len(vocab) + 6
    end = {0: 2, 1: 0, 2: 2, 5: len(vocab) + 5}[last]
    ends: list[int] | None = {0: None, 1: [0, 2], 2: [0, 2], 5: [0, 2, len(vocab) + 5]}[last]
    lyon, also, a, city = (vocab[word] for word in ("ĠLyon", "Ġis", "Ġa", "Ġcity"))
    follows = {(vocab[":"], lyon): 15.0, (lyon, also): 8.0, (also, a): 15.0, (a, city): 15.0, (city, 0): 15.0}
    following_model(tmp_path, follows | {(lyon, end): 15.0}, width, eos_token_id=ends)
    engine = Engine.load(str(tmp_path), device="cpu", settings=SMALL)
    free, bound = engine.generate([hello(engine, "free"), replace(hello(engine, "bound"), constraint=LINE)])
    if end < engine.tokenizer.vocab_size:
        assert (free.text, bound.text) == (" Lyon", " Lyon")
        assert bound.token_ids == free.token_ids
    else:  # nothing beyond the tokenizer's ids is ever chosen
        assert bound.text == free.text == " Lyon is a city"
    on = replace(hello(engine, "on", ignore_eos=True, max_new_tokens=12), constraint=LINE)
    [result] = engine.generate([on])
    assert result.status == "ok"
    assert result.text.startswith(" Lyon")


@pytest.mark.parametrize("short", [*slow(1, 2), 30])
def test_a_tokenizer_with_more_tokens_than_rows(short: int, tmp_path: Path) -> None:
    """What has no row can't be chosen; the rest is as ever."""
    vocab = plain_bytes(tmp_path, ("ĠLyon", "ĠParis", "ĠRome", "Ġquestion", "ĠVenus", "ĠMercury"))
    rows = len(vocab) - short
    random_model(tmp_path, rows, eos_token_id=2)
    engine = Engine.load(str(tmp_path), device="cpu", settings=SMALL)
    for name, constraint in CONSTRAINTS.items():
        [result] = engine.generate([replace(hello(engine, name), constraint=constraint)])
        assert max(result.token_ids) < rows
        assert result.finish_reason == "length" or fits(result.text, name)


def test_a_text_that_must_come_is_spelled_by_tokens_with_rows(tmp_path: Path) -> None:
    vocab = plain_bytes(tmp_path, ("Ġthe", "ĠLyon"))  # of these, the last has no row
    random_model(tmp_path, len(vocab) - 1, eos_token_id=2)
    engine = Engine.load(str(tmp_path), device="cpu", settings=SMALL)
    wanted = " the town of Lyon"
    [result] = engine.generate([replace(hello(engine, "a"), constraint=Constraint("regex", wanted))])
    assert (result.text, result.finish_reason) == (wanted, "stop")
    assert vocab["Ġthe"] in result.token_ids
    assert max(result.token_ids) < len(vocab) - 1


@pytest.mark.parametrize("rows", [31, 32, 33, 64])
def test_masks_are_as_wide_as_the_logits(rows: int) -> None:
    import string

    tokens = [b"<e>", *(letter.encode() for letter in string.ascii_letters)]
    compiler = ConstraintCompiler(tokens, (0,), (0,), rows, lambda text: [tokens.index(c.encode()) for c in text])
    bits = compiler.masks([compiler.matcher(Constraint("regex", "[a-z]+Z?"))])
    assert bits.shape == (1, -(-rows // 32))
    assert unpack(bits)[0, : min(rows, len(tokens))].nonzero().flatten().tolist() == list(range(1, min(rows, 27)))


@pytest.mark.parametrize("family", slow("qwen2.5", "llama-3.1", "mistral-nemo"))
def test_masks_of_published_tokenizers_are_those_of_their_files(family: str) -> None:
    """Llguidance reads such tokenizer.json itself; told the bytes of each token, it must allow the same ones."""
    import llguidance
    import llguidance.torch

    if not (SHARED / family).is_dir():
        pytest.skip(f"no tokenizer of {family} here")
    tokenizer = Tokenizer.load(SHARED / family)
    ends, width = [tokenizer.end_of_turn, tokenizer.eos_id or 0], tokenizer.vocab_size + 50
    ours = ConstraintCompiler(
        tokenizer.vocabulary(),
        tokenizer.special_tokens.values(),
        ends,
        width,
        lambda text: tokenizer.encode(text, inside=True),
    )
    text = (SHARED / family / "tokenizer.json").read_text()
    theirs = llguidance.LLTokenizer(text, n_vocab=width, eos_token=ends)
    for constraint in (*CONSTRAINTS.values(), Constraint("regex", "(né|🧬)?")):
        expected = llguidance.torch.allocate_token_bitmask(1, width)
        llguidance.torch.fill_next_token_bitmask(llguidance.LLMatcher(theirs, grammar(constraint)), expected)
        assert torch.equal(ours.masks([ours.matcher(constraint)]), expected)


def test_a_constraint_without_text_is_refused() -> None:
    sizes = {
        "model_type": "llama", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128, "eos_token_id": 1,
    }  # fmt: skip
    config: ModelConfig = parse_config(sizes, "sizes")
    engine = random_engine(config, device="cpu", settings=SMALL)
    with pytest.raises(RequestError, match="has no text"):
        engine.generate([GenerateRequest("a", (3,), constraint=LINE)])


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_tokens_are_those_of_the_decoder(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path)
    check_bytes(Tokenizer.load(tmp_path))


@pytest.mark.parametrize("family", ["qwen2.5", *slow("llama-3.1", "mistral-nemo")])
def test_bytes_of_published_tokens(family: str) -> None:
    if not (SHARED / family).is_dir():
        pytest.skip(f"no tokenizer of {family} here")
    check_bytes(Tokenizer.load(SHARED / family))


def check_bytes(tokenizer: Tokenizer) -> None:
    text = "Paris, the  city: A or B? It was 12.\n\tnaïve 🧬🧬 日本 \ufffd" + " <|im_end|></s>"
    first = tokenizer.encode("It is")
    known = tokenizer.decode(tokenizer.encode(text))  # Unigram has no token of some characters
    inside = tokenizer.encode(text, inside=True)
    assert tokenizer.decode_bytes(inside).decode() == known
    assert tokenizer.decode(first + inside) == "It is" + known
    if known == text:
        assert tokenizer.decode_bytes(tokenizer.encode(text)).decode().lstrip(" ") == text
    vocabulary = tokenizer.vocabulary()
    assert len(vocabulary) == tokenizer.vocab_size
    assert all(vocabulary[i] == name.encode() for name, i in tokenizer.special_tokens.items())


SYMBOLS = ("🧬", "é", "日", "a🧬b", "ß")


@pytest.mark.parametrize("repeats", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_stop_strings_of_characters_of_several_tokens(symbol: str, repeats: int, tmp_path: Path) -> None:
    """Windows were measured in characters, of which one can be four tokens."""
    vocab = plain_bytes(tmp_path)
    ids = Tokenizer.load(tmp_path).encode(symbol)
    ring = dict.fromkeys(zip(ids, [*ids[1:], ids[0]], strict=True), 15.0)
    following_model(tmp_path, ring, len(vocab))
    engine = Engine.load(str(tmp_path), device="cpu", settings=SMALL)
    params = SamplingParams(max_new_tokens=60, stop=("never", symbol * repeats))
    [result] = engine.generate([GenerateRequest("a", tuple(ids), params)])
    assert (result.finish_reason, len(result.token_ids), result.text) == ("stop", repeats * len(ids), "")


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    """Return a function from a kind to an engine with a random model of it."""
    made: dict[str, Engine] = {}

    def get(kind: str) -> Engine:
        if kind not in made:
            folder = tmp_path_factory.mktemp("talker")
            if kind in PUBLISHED:
                if not (SHARED / kind).is_dir():
                    pytest.skip(f"no tokenizer of {kind} here")
                shutil.copytree(SHARED / kind, folder, dirs_exist_ok=True)
            else:
                KINDS[kind](folder)
            random_model(folder, rows_of(folder))
            made[kind] = Engine.load(str(folder), device="cpu", settings=SMALL)
        return made[kind]

    return get


@pytest.mark.parametrize("kind", [*list(KINDS)[:2], *slow(*list(KINDS)[2:-1]), *list(KINDS)[-1:]])
def test_a_stop_string_is_found_wherever_it_stands(kind: str, talkers: Callable[[str], Engine]) -> None:
    """At the very beginning too, where ``decode`` takes a blank away; over any number of tokens; in the first token
    that completes it, and not later.
    """
    engine = talkers(kind)
    decode = engine.tokenizer.decode_bytes
    free = engine.generate([hello(engine, f"{k}", temperature=1.0, seed=k, ignore_eos=True) for k in range(16)])
    asked: list[GenerateRequest] = []
    expected: list[tuple[str, int]] = []
    for k, result in enumerate(free):
        whole = decode(result.token_ids)
        text = whole.decode("utf-8", "replace")
        assert text == result.text
        for start, size in ((0, 1), (0, 4), (7, 1), (11, 9), (23, 30)):
            stop = text[start : start + size]
            if "\ufffd" in stop:  # broken characters, of which such models write many
                continue
            count = next(n for n in range(1, 91) if stop.encode() in decode(result.token_ids[:n]))
            stops = (stop, "\x00never")
            named = f"{k}/{start}/{size}"
            asked.append(hello(engine, named, temperature=1.0, seed=k, ignore_eos=True, stop=stops))
            expected.append((whole[: whole.index(stop.encode())].decode("utf-8", "replace"), count))
    assert len(asked) >= 10
    found = engine.generate(asked)
    assert [(r.text, len(r.token_ids)) for r in found] == expected
    assert {r.finish_reason for r in found} == {"stop"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*list(KINDS)[:1], *full(*list(KINDS)[1:], *PUBLISHED)])
def test_stop_strings_of_every_kind_are_where_transformers_stops(kind: str, talkers: Callable[[str], Engine]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    engine = talkers(kind)
    folder = engine.model.source.folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    compared = 0
    for word in WORDS:
        prompt = engine.tokenizer.chat([{"role": "user", "content": word}])
        asked = GenerateRequest(word, tuple(prompt), SamplingParams(max_new_tokens=40, ignore_eos=True))
        [free] = engine.generate([asked])
        stop = free.text[len(free.text) // 2 :][:3]
        if not (stop.isascii() and stop.isprintable() and stop.strip()) or stop in engine.tokenizer.decode(prompt)[-4:]:
            continue
        params = SamplingParams(max_new_tokens=40, ignore_eos=True, stop=(stop,))
        [result] = engine.generate([replace(asked, sampling=params)])
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=40,
            do_sample=False, stop_strings=[stop], tokenizer=tokenizer, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        theirs, ours = out[0, len(prompt) :].tolist(), list(result.token_ids)
        assert result.finish_reason == "stop"
        compared += theirs == ours
        if theirs != ours:
            # Theirs matches tokens, not text: with some vocabularies that training makes it runs past a stop.
            # Ours matches the text that a reader gets, in which a control token within an answer leaves nothing.
            assert theirs[: len(ours)] == ours
            assert stop in tokenizer.decode(ours, skip_special_tokens=True)
    assert compared >= 3


def test_stop_strings_are_where_transformers_stops(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    vocab = plain_bytes(tmp_path)
    ids = Tokenizer.load(tmp_path).encode("🧬")
    ring = dict.fromkeys(zip(ids, [*ids[1:], ids[0]], strict=True), 15.0)
    following_model(tmp_path, ring, len(vocab))
    engine = Engine.load(str(tmp_path), device="cpu", settings=SMALL)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    prompt = engine.tokenizer.encode("It is a")  # nothing of the stop string: transformers looks at the prompt too
    given = [*prompt, ids[0]]
    for repeats in (1, 3):
        out = model.generate(
            torch.tensor([given]), attention_mask=torch.ones(1, len(given), dtype=torch.long), max_new_tokens=60,
            do_sample=False, stop_strings=["🧬" * repeats], tokenizer=tokenizer, pad_token_id=0,
        )  # fmt: skip
        params = SamplingParams(max_new_tokens=60, stop=("🧬" * repeats,))
        [result] = engine.generate([GenerateRequest(f"{repeats}", tuple(given), params)])
        # Of the first symbol the prompt has one byte, so it isn't the answer's own here.
        assert len(result.token_ids) == out.shape[1] - len(given) + len(ids)
