"""Labels as they stand after a prompt: ids and log-probabilities against ``transformers`` on the joined text."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from making import CHATML, CONTROL, KINDS, WORDS, following_model, plain_bytes, random_model, rows_of, sentencepiece
from tiers import slow

from warmeng.common.errors import InputError
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.request import ScoreRequest
from warmeng.engine.tokenizer import Tokenizer
from warmeng.study.grading.judge import Judge
from warmeng.study.grading.rows import LABELS, Row

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
SMALL = EngineSettings(kv_bytes=8 * 2**20, max_num_seqs=16, max_batched_tokens=256)
OPENINGS = ("The answer is:", "Grade:", "The answer is", "Is it ", "", "A: \n")
TEXTS = (
    " A",
    " B.",
    "C",
    " correct",
    " incorrect",
    " Paris",
    "  the",
    ": one",
    " 12",
    " D and the",
    "\n",
    " <|im_end|>",
)
HELLO = [{"role": "user", "content": "Which city is it, A or B?"}]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a kind to a folder with a random model of it."""
    folders: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in folders:
            folder = tmp_path_factory.mktemp("kind")
            KINDS[kind](folder)
            folders[kind] = random_model(folder, rows_of(folder) + 11)
        return folders[kind]

    return get


def theirs(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def check_ids(folder: Path) -> int:
    """Compare with transformers' ids of the joined text, and return in how many cases a boundary moved."""
    ours, other, moved = Tokenizer.load(folder), theirs(folder), 0
    opened = other.apply_chat_template(HELLO, add_generation_prompt=True, tokenize=False)
    for opening in OPENINGS:
        # What looks like a control token stays text here; transformers makes a control token of it.
        texts = [text for text in TEXTS if text.strip() not in ours.special_tokens]
        if b"\n" not in ours.decode_bytes(ours.encode("\n")):
            texts.remove("\n")  # one more unknown character may be no token more
        alone = other.encode(opened + opening, add_special_tokens=False)
        prompt, labels = ours.continuations(HELLO, opening, texts)
        assert prompt == alone[: len(prompt)]
        moved += len(prompt) < len(alone)
        for text, label in zip(texts, labels, strict=True):
            assert prompt + label == other.encode(opened + opening + text, add_special_tokens=False)
            # As lm-evaluation-harness splits them, wherever the prompt alone has the ids that it has in the text.
            if not moved and not (opened + opening)[-1:].isspace():
                assert label == (prompt + label)[len(alone) :]
            one, only = ours.continuations(HELLO, opening, [text])
            assert one + only[0] == prompt + label
            assert len(one) >= len(prompt)
    return moved


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_joined_text(kind: str, made: Callable[[str], Path]) -> None:
    moved = check_ids(made(kind))
    # A blank at the prompt's end joins the word after it, wherever blanks and words share tokens.
    assert moved >= 1


@pytest.mark.parametrize("family", ["qwen2.5", *slow("llama-3.1", "mistral-nemo")])
def test_ids_of_published_tokenizers(family: str) -> None:
    if not (SHARED / family).is_dir():
        pytest.skip(f"no tokenizer of {family} here")
    check_ids(SHARED / family)


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_are_those_of_transformers(kind: str, made: Callable[[str], Path]) -> None:
    ours, other = Tokenizer.load(made(kind)), theirs(made(kind))
    talk = [*HELLO, {"role": "assistant", "content": "It is A:  Paris."}, {"role": "user", "content": " And B? 12"}]
    for messages, asks in ((HELLO, True), (talk, True), (talk[:2], False), (talk, False)):
        expected = other.apply_chat_template(messages, add_generation_prompt=asks, tokenize=True, return_dict=False)
        assert ours.chat(messages, asks) == expected


def two_hundred(tokenizer: Tokenizer) -> list[tuple[list[dict[str, str]], str, list[str]]]:
    """Return ten prompts with twenty labels each."""
    draw = random.Random(1)
    found = []
    for number in range(10):
        user = [{"role": "user", "content": " ".join(draw.choices(WORDS, k=7))}]
        texts: dict[str, None] = {}
        while len(texts) < 20:
            lead = draw.choice((" ", " ", " ", "", "  "))
            texts[f"{lead}{' '.join(draw.choices(WORDS, k=draw.randint(1, 3)))}{draw.choice(('', '.'))}"] = None
        found.append((user, OPENINGS[number % len(OPENINGS)], list(texts)))
    return found


@pytest.mark.parametrize("kind", ["bytes", *slow(*(kind for kind in KINDS if kind != "bytes"))])
def test_log_probabilities_of_two_hundred_labels(kind: str, made: Callable[[str], Path]) -> None:
    from transformers import AutoModelForCausalLM

    folder = made(kind)
    engine, other = Engine.load(str(folder), device="cpu", settings=SMALL), theirs(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    vocab = engine.tokenizer.vocab_size
    count = 0
    for number, (user, opening, texts) in enumerate(two_hundred(engine.tokenizer)):
        prompt, labels = engine.tokenizer.continuations(user, opening, texts)
        request = ScoreRequest(str(number), tuple(prompt), tuple(map(tuple, labels)))
        [result] = engine.score([request])
        opened = other.apply_chat_template(user, add_generation_prompt=True, tokenize=False) + opening
        for text, label, found in zip(texts, labels, result.logprobs, strict=True):
            ids = other.encode(opened + text, add_special_tokens=False)
            with torch.no_grad():
                table = model(torch.tensor([ids])).logits[0, :, :vocab].double().log_softmax(-1)
            start = len(ids) - len(label)
            expected = sum(table[k - 1, ids[k]].item() for k in range(start, len(ids)))
            assert found == pytest.approx(expected, abs=2e-4)
            count += 1
    assert count == 200


@pytest.mark.parametrize("style", ["prepend", "first", "plain", "tokenizer.model alone"])
def test_the_likelier_answer_wins_whatever_blank_a_tokenizer_puts_before_texts(style: str, tmp_path: Path) -> None:
    """Labels encoded alone had a blank that they haven't after a prompt: every wrong answer then won."""
    if style == "tokenizer.model alone":
        vocab = sentencepiece_alone(tmp_path)
    else:
        sentencepiece(tmp_path, style)
        vocab = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    asked = Tokenizer.load(tmp_path).chat(HELLO, True, "The answer is:")[-1]
    a, b, blank, stop, end = vocab["▁A"], vocab["▁B"], vocab["▁"], vocab["."], vocab["</s>"]
    # " A." or, less likely, " B."; after a lone blank, which the model hardly ever writes, it is the other way round.
    follows = {(asked, a): 10.0, (asked, b): 6.0, (asked, blank): -8.0, (blank, b): 3.0, (a, stop): 12.0}
    follows |= {(b, stop): 12.0, (stop, end): 12.0}
    following_model(tmp_path, follows, max(vocab.values()) + 1)
    engine = Engine.load(str(tmp_path), device="cpu", settings=SMALL)
    assert engine.tokenizer.end_of_turn == end
    prompt, labels = engine.tokenizer.continuations(HELLO, "The answer is:", [" A.", " B."])
    [result] = engine.score([ScoreRequest("q", tuple(prompt), tuple((*label, end) for label in labels))])
    assert result.logprobs[0] > result.logprobs[1] + 3
    assert result.mass > 0.9
    prompt, letters = engine.tokenizer.continuations(HELLO, "The answer is:", [" A", " B"])
    [result] = engine.score([ScoreRequest("q", tuple(prompt), tuple(map(tuple, letters)))])
    assert letters == [[a], [b]]
    assert result.mass > 0.9


def sentencepiece_alone(folder: Path) -> dict[str, int]:
    """Write a SentencePiece model file without tokenizer.json; return its pieces."""
    spm = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    from making import BRACKETS, lines

    folder.joinpath("lines.txt").write_text("\n".join(lines()))
    spm.SentencePieceTrainer.train(
        input=str(folder / "lines.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=400, model_type="bpe",
        byte_fallback=True, remove_extra_whitespaces=False, normalization_rule_name="identity", unk_id=0, bos_id=1,
        eos_id=2, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    named = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**named, "chat_template": BRACKETS}))
    processor = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}


def test_a_tokenizer_model_alone_is_encoded_as_transformers_does(tmp_path: Path) -> None:
    sentencepiece_alone(tmp_path)
    check_ids(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_judges_labels_spell_the_grades(kind: str, made: Callable[[str], Path]) -> None:
    tokenizer = Tokenizer.load(made(kind))
    request = Judge(tokenizer).request("k", Row("x", "Which city?", "It is Lyon.", "Paris"))
    for name, label in zip(LABELS, request.labels, strict=True):
        assert tokenizer.decode_bytes((*request.prompt, *label)).decode().endswith(f"Grade: {name}")
    spelled = [tokenizer.decode_bytes(label).decode() for label in request.labels]
    if kind != "bytes, merges across blanks":  # where "e:" and the label's blank may be one token
        assert spelled == [f" {label}" for label in LABELS]


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_in_labels_stay_text(kind: str, made: Callable[[str], Path]) -> None:
    tokenizer = Tokenizer.load(made(kind))
    name = next(iter(reversed(tokenizer.special_tokens)))
    prompt, labels = tokenizer.continuations(HELLO, f"It is {name[:2]}", [name[2:], f" {name} A", " A"])
    special = set(tokenizer.special_tokens.values())
    clean = [i for i in tokenizer.chat(HELLO) if i in special]
    if kind != "unigram":  # whose unknown characters are a special token
        assert [i for i in prompt if i in special] == clean
        assert not any(i in special for label in labels for i in label)


def test_tokens_that_take_blanks_do_so_before_an_opening(tmp_path: Path) -> None:
    plain_bytes(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in data["added_tokens"]:
        token["rstrip"] = token["content"] == "<|im_start|>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    template = CHATML.replace("assistant\n{% endif", "{% endif")
    (tmp_path / "chat_template.jinja").write_text(template)
    tokenizer = Tokenizer.load(tmp_path)
    prompt, labels = tokenizer.continuations(HELLO, " It is", [" A", " B"])
    assert prompt == tokenizer.chat(HELLO, True, " It is")
    assert tokenizer.decode_bytes(prompt, skip_special=False).endswith(b"<|im_start|>It is")
    assert [tokenizer.decode(label) for label in labels] == [" A", " B"]


def test_labels_that_cannot_be_told_apart_are_refused_by_name(tmp_path: Path) -> None:
    plain_bytes(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFKC"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = Tokenizer.load(tmp_path)
    with pytest.raises(InputError, match="' a' has the same tokens as ' A'"):
        tokenizer.continuations(HELLO, "It is", [" A", " a"])
    with pytest.raises(InputError, match="'' has no token of its own"):
        tokenizer.continuations(HELLO, "It is", [" A", ""])
    assert len(CONTROL) == len(tokenizer.special_tokens)


def test_a_tokenizer_model_without_the_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[str], Path]
) -> None:
    shutil.copy(made("unigram") / "tokenizer_config.json", tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\n")
    monkeypatch.setattr("warmeng.engine.tokenizer_files._is_installed", lambda name: name != "sentencepiece")
    with pytest.raises(InputError, match=r"pip install sentencepiece$"):
        Tokenizer.load(tmp_path)
