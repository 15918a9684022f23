"""A tiny shape for the benches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CONFIG = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "eos_token_id": 2,
}


@pytest.fixture
def shape(tmp_path: Path) -> str:
    """Return a folder with a tiny configuration."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path)
