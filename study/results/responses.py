"""``responses.jsonl``: what personas, or checkpoints, answered to held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from warmeng.common.errors import InputError
from warmeng.common.files import read_jsonl, write_atomic

FILE = "responses.jsonl"


def write_responses(
    folder: Path, responses: Mapping[str, Sequence[str]], prompts: Sequence[tuple[str, str]], samples: int = 1
) -> None:
    """Write ``responses.jsonl``: a line each, with its persona's or checkpoint's name, and the prompt. ``OSError``."""
    rows = [
        {"name": name, "prompt_id": key, "sample": k % samples, "prompt": prompt, "response": text}
        for name, texts in responses.items()
        for k, text in enumerate(texts)
        for key, prompt in [prompts[k // samples]]
    ]
    write_atomic(folder / FILE, b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))


def read_responses(folder: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each prompt of ``responses.jsonl`` with (name, response) of all, in its order; none without the file.

    Raises ``InputError`` for a line that is none of it.
    """
    path = folder / FILE
    found: dict[str, list[tuple[str, str]]] = {}
    for number, row in read_jsonl(path) if path.exists() else ():
        values = [row.get(name) for name in ("prompt", "name", "response")]
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"{path}:{number}: is no response, expected name, prompt and response: restore the file")
        prompt, name, response = map(str, values)
        found.setdefault(prompt, []).append((name, response))
    return list(found.items())
