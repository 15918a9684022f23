"""What of a checkpoint's folder is read before its weights: configuration and tokenizer, which must fit together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from warmeng.engine.config import ModelConfig, read_config
from warmeng.engine.tokenizer import Tokenizer


def read_folder(folder: Path) -> tuple[ModelConfig, Tokenizer]:
    """Return the configuration and the tokenizer of the checkpoint in ``folder``.

    An answer ends with any token that one of them calls its end: configuration, generation configuration, tokenizer
    and chat template need not name the same one, so ``stop_token_ids`` has them all.

    Raises:
        InputError: as ``read_config`` and ``Tokenizer.load``.
    """
    config = read_config(folder)
    tokenizer = Tokenizer.load(folder, rows=config.vocab_size)
    named = {tokenizer.end_of_turn} | ({tokenizer.eos_id} if tokenizer.eos_id is not None else set())
    return replace(config, stop_token_ids=tuple(sorted({*config.stop_token_ids, *named}))), tokenizer
