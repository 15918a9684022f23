"""What of a loaded model determines its results, to be kept in a manifest and compared when work is continued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine

IDENTITY = ("weights", "dtype", "device", "machine", "deterministic", "numerics")  # of ``Engine.describe()``


def identity_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determines the results of prompts of token ids, from ``Engine.describe()``: JSON types only."""
    found = {name: facts.get(name) for name in IDENTITY} | {"torch": (facts.get("versions") or {}).get("torch")}
    # Absent where nothing is quantised, as in work that was begun before there was such a thing.
    return found | {name: facts[name] for name in ("quantization", "kv_dtype") if facts.get(name)}


def whole_identity(engine: Engine) -> dict[str, Any]:
    """Return what determines a loaded model's answers to messages: template, tokenizer and what computes them too."""
    return identity_of(engine.describe()) | {"template": engine.tokenizer.template_hash} | surroundings(engine)


def surroundings(engine: Engine) -> dict[str, Any]:
    """Return what must be the same where work goes on, and stands in no record's key: tokenizer and processor.

    Raises InputError as ``Engine.processor``.
    """
    versions = engine.describe().get("versions") or {}
    tokenizer = {"sha256": engine.tokenizer.hash, "library": versions.get("tokenizers")}
    return {"tokenizer": tokenizer, "processor": engine.processor()}
