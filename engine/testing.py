"""Engines of random numbers, for benchmarks and tests: speed depends on shapes, not on what was learnt."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from warmeng.engine.checkpoint import Weights
from warmeng.engine.config import ModelConfig
from warmeng.engine.engine import Engine, Model
from warmeng.engine.load import choose_device, load_runner
from warmeng.engine.random import NoTokenizer
from warmeng.engine.registry import ModelSource
from warmeng.engine.settings import EngineSettings, resolve_limits
from warmeng.engine.tokenizer import Tokenizer


def unread_model(config: ModelConfig, name: str) -> Model:
    """Return a model that was read from nowhere and has no tokenizer."""
    source = ModelSource(name, Path(name), "local", None, None)
    return Model(source, config, cast(Tokenizer, NoTokenizer(config.vocab_size)), name)


def random_engine(
    config: ModelConfig, *, device: str = "auto", settings: EngineSettings | None = None, seed: int = 0,
    weights: Weights | None = None,
) -> Engine:  # fmt: skip
    """Make an engine with random weights and without a tokenizer: its results have no text.

    ``weights``: those of another engine on a GPU, which are shared; None makes them from ``seed``.
    """
    settings = settings or EngineSettings()
    chosen = choose_device(device)
    limits = resolve_limits(settings, chosen, config.max_seq_len)
    runner = load_runner(seed if weights is None else weights, config, config.vocab_size, settings, chosen, limits)
    return Engine(unread_model(config, f"random-{seed}"), runner, settings, limits)
