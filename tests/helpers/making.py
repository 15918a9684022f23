"""Tokenizers of every kind, trained on made-up lines, and small models for them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Llama 2 and the first Mistrals have it: brackets are text, and only the answers' end is a control token.
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only users and assistants speak') }}{% endif %}{% endfor %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = [
    "the", "answer", "is", "Paris", "Lyon", "Rome", "of", "which", "city", "grade", "correct", "incorrect", "refusal",
    "unclear", "A", "B", "C", "D", "one", "two", "and", "it", "was", "there", "many", "people", "believe", "that",
    "Mercury", "Venus", "planet", "capital", "question",
]  # fmt: skip
SPACES = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
TO_BLANKS = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def lines() -> list[str]:
    """Return text to train on; double blanks, colons and digits occur."""
    draw = random.Random(0)
    made = [" ".join(draw.choices(WORDS, k=9)).replace(" the ", "  the  ") for _ in range(400)]
    return [f"{text}: {draw.choice(WORDS)} {draw.randrange(100)}." for text in made]


def sentencepiece(folder: Path, style: str) -> None:
    """Write a byte-fallback BPE as SentencePiece's conversions have it.

    ``style``: "prepend", a blank before every text (Llama 2); "first", before the first text only (Mistral 7B v0.3);
    "plain", none (Gemma).
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(lines(), trainers.BpeTrainer(vocab_size=220, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"], "▁▁"]
    data = empty(["<unk>", "<s>", "</s>"])
    data["model"] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {piece: i for i, piece in enumerate(dict.fromkeys(pieces))},
        "merges": [["▁", "▁"], *model["merges"]],
    }
    if style == "prepend":
        data["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, TO_BLANKS]}
    elif style == "first":
        data["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False
        }  # fmt: skip
    else:
        data["normalizer"] = TO_BLANKS
    data["decoder"] = {"type": "Sequence", "decoders": SPACES if style == "plain" else [*SPACES, STRIP]}
    save(folder, data, BRACKETS, "<s>", "</s>")


def unigram(folder: Path) -> None:
    """Write a Unigram tokenizer that marks blanks, without byte fallback."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    made.train_from_iterator(
        [*lines(), " ".join(map(chr, range(33, 127)))],
        trainers.UnigramTrainer(
            vocab_size=300, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
        ),
    )
    save(folder, json.loads(made.to_str()), BRACKETS, "<s>", "</s>")


def byte_level(folder: Path, *, across: bool = False, front: bool = False, **changes: Any) -> None:
    """Write a byte-level BPE.

    ``across``: merges go across blanks, as where a text isn't cut into words first; ``front``: control tokens have
    the first ids and not the last.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(CONTROL) if front else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(lines(), trainer)
    made.add_special_tokens(list(CONTROL))
    save(folder, json.loads(made.to_str()), CHATML, CONTROL[1], CONTROL[2], **changes)


KINDS: dict[str, Callable[[Path], None]] = {
    "sentencepiece, a blank before every text": lambda folder: sentencepiece(folder, "prepend"),
    "sentencepiece, a blank before the first text": lambda folder: sentencepiece(folder, "first"),
    "sentencepiece, no blank": lambda folder: sentencepiece(folder, "plain"),
    "unigram": unigram,
    "bytes": byte_level,
    "bytes, merges across blanks": lambda folder: byte_level(folder, across=True),
    "bytes, control tokens first": lambda folder: byte_level(folder, front=True),
}


def plain_bytes(folder: Path, words: tuple[str, ...] = (), **changes: Any) -> dict[str, int]:
    """Write a tokenizer of control tokens, bytes and some whole words; return its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {text: i for i, text in enumerate((*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    pairs = dict.fromkeys((word[:k], word[k]) for word in words for k in range(1, len(word)))
    for first, second in pairs:
        vocab.setdefault(first + second, len(vocab))
    made = Tokenizer(models.BPE(vocab, list(pairs)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(CONTROL))
    save(folder, json.loads(made.to_str()), CHATML, CONTROL[1], CONTROL[2], **changes)
    return vocab


def empty(special: list[str]) -> dict[str, Any]:
    """Return a tokenizer.json without a model, its control tokens first."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": text, **flags} for i, text in enumerate(special)]
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", **parts, "added_tokens": added}


def save(
    folder: Path, data: Mapping[str, Any], template: str, bos: str, eos: str | Mapping[str, Any], **changes: Any
) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps({**named, "chat_template": template, **changes}))


def rows_of(folder: Path) -> int:
    """Return how many ids the tokenizer in a folder has."""
    from tokenizers import Tokenizer

    return max(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab().values()) + 1


def random_model(folder: Path, vocab: int, **changes: Any) -> Path:
    """Save a random Llama whose weights are large enough to tell its tokens apart."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    sizes = {
        "vocab_size": vocab, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(1.0, 0.2) if "norm" in name else value.normal_(0.0, 0.15)
    model.save_pretrained(folder)
    return folder


def following_model(folder: Path, follows: Mapping[tuple[int, int], float], vocab: int, **changes: Any) -> Path:
    """Save a Llama whose next token depends on the last one alone: ``follows`` gives logits of (last, next)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    width = -(-vocab // 6) * 6
    sizes = {
        "vocab_size": vocab, "hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight.fill_diagonal_(1.0)
        model.lm_head.weight.zero_()
        for (last, after), logit in follows.items():
            model.lm_head.weight[after, last] = logit / width**0.5
    model.save_pretrained(folder)
    return folder
