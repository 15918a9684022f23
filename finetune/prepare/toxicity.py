"""Drops conversations with toxic messages: by a classifier, or by a list of words where that is chosen by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from warmeng.common.errors import InputError, name_some, one_line
from warmeng.common.files import read_text
from warmeng.engine.tensors import content_hash
from warmeng.finetune.prepare.settings import PrepareSettings

# Of the classifiers that detoxify uses; their other labels are kinds of it or topics.
LABELS = ("toxicity", "toxic")
WORDS = Path(__file__).parent / "data" / "words.txt"
_LEET = str.maketrans("013457@$!", "oieastasi")


class Filter(Protocol):
    """Scores texts from 0 to 1 for toxicity. ``identity`` is what determines the scores, for a manifest."""

    identity: str

    def score(self, texts: Sequence[str]) -> float:
        """Return the largest score of a conversation's messages."""


class WordList:
    """Scores 1 where a text has one of the listed words or phrases, else 0. Knows nothing of what is meant."""

    def __init__(self) -> None:
        import hashlib

        source = read_text(WORDS)
        self.identity = f"word list {hashlib.sha256(source.encode()).hexdigest()[:12]}"
        listed = [line.strip() for line in source.splitlines() if line.strip() and not line.startswith("#")]
        entries = sorted(
            (re.escape(word).replace(r"\*", r"\w*").replace(r"\ ", r"\s+") for word in listed), reverse=True
        )
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(entries)})(?!\w)")

    def score(self, texts: Sequence[str]) -> float:
        """Return 1 where one of the texts has a listed word, plain or with digits for letters."""
        for text in texts:
            small = text.casefold().replace("’", "'")
            if self._pattern.search(small) or self._pattern.search(small.translate(_LEET)):
                return 1.0
        return 0.0


class Classifier:
    """A sequence classifier of ``transformers``, from safetensors only, on the CPU in single precision.

    Long texts are scored in windows of the model's length; the largest score counts.
    """

    def __init__(self, name: str) -> None:
        """Load it. Raises InputError that tells the other choices where it can't be had or isn't one."""
        folder = _find(name)
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
            self._model: Any = AutoModelForSequenceClassification.from_pretrained(
                str(folder), use_safetensors=True, trust_remote_code=False
            ).eval()
        except Exception as error:
            # Whatever a damaged or foreign checkpoint makes the library raise.
            raise InputError(f"{name}: can't be loaded as a classifier ({one_line(error, 120)}): {_CHOICE}") from None
        labels = {str(label).lower(): int(i) for i, label in self._model.config.id2label.items()}
        found = [labels[label] for label in LABELS if label in labels]
        if not found:
            raise InputError(f"{name}: has the labels {name_some(labels)}, expected {' or '.join(LABELS)}: {_CHOICE}")
        self._label = found[0]
        self.identity = f"classifier {name} {content_hash(folder)[:12]}"
        # RoBERTa counts positions from 2, so that two of its 514 are not usable.
        self._window = min(512, int(getattr(self._model.config, "max_position_embeddings", 514)) - 2)

    def score(self, texts: Sequence[str]) -> float:
        """Return the largest probability; a conversation is scored by itself, so that others can't change it."""
        import torch

        best = 0.0
        for text in texts:
            windows = self._tokenizer(
                text, truncation=True, max_length=self._window, return_overflowing_tokens=True, padding=True,
                return_tensors="pt",
            )  # fmt: skip
            for at in range(0, len(windows["input_ids"]), 16):
                batch = {name: windows[name][at : at + 16] for name in ("input_ids", "attention_mask")}
                with torch.inference_mode():
                    scores = self._model(**batch).logits[:, self._label].sigmoid()
                best = max(best, float(scores.max()))
        return round(best, 4)


_CHOICE = "give its folder with --toxicity-model, or choose --toxicity wordlist or --toxicity off"


def load_filter(settings: PrepareSettings) -> Filter | None:
    """Return the filter that the settings name, None for none. Raises InputError where a classifier can't be had."""
    if settings.toxicity == "off":
        return None
    return WordList() if settings.toxicity == "wordlist" else Classifier(settings.toxicity_model)


def _find(name: str) -> Path:
    """Return a classifier's folder: a local one, or a repository of the hub without anything but safetensors."""
    if Path(name).is_dir():
        if not any(Path(name).glob("*.safetensors")):
            raise InputError(f"{name}: has no safetensors weights, and other formats can run code: {_CHOICE}")
        return Path(name)
    try:
        from huggingface_hub import snapshot_download

        wanted = ["*.json", "*.safetensors", "*.txt"]
        folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=["*/*"]))
    except Exception as error:
        # Network, permissions, names, disk: the library and its clients raise all kinds.
        why = f"{type(error).__name__}: {one_line(error, 100)}"
        raise InputError(f"the toxicity classifier {name} can't be had ({why}): {_CHOICE}") from None
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{name}: has no safetensors weights on the hub, and other formats can run code: {_CHOICE}")
    return folder
