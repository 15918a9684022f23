"""The committed prompts that benchmarks run on."""

from __future__ import annotations

from importlib.resources import files

import orjson


def chat_prompts() -> list[str]:
    """Return 96 single user messages of very mixed length."""
    text = files("warmeng.bench").joinpath("data/chat_prompts.jsonl").read_bytes()
    return [orjson.loads(line)["prompt"] for line in text.split(b"\n") if line]
