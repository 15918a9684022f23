"""A study file with every setting and its default, for people; its JSON schema, for editors."""

from __future__ import annotations

import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from warmeng.engine.settings import DTYPES, KV_DTYPES, WEIGHTS
from warmeng.study.prompts import ASKINGS, BELIEFS, COMPOSITIONS, FRAMINGS
from warmeng.study.settings import StudySettings

WIDTH = 100
HEAD = """\
# A study for `warmeng run FILE`: every setting, with its default.
# Take the # off a setting's lines to change it. Options of the command line override this file.
"""
# Settings that no option of the command line has.
BESIDE = {"number_temperature": "Of answers that are worked out to a number, such as GSM8K's."}
CHOICES: Mapping[str, Sequence[str]] = {
    "beliefs": tuple(BELIEFS),
    "framings": tuple(FRAMINGS),
    "asking": tuple(ASKINGS),
    "composition": tuple(COMPOSITIONS),
    "dtype": DTYPES,
    "weights": WEIGHTS,
    "kv_dtype": KV_DTYPES,
    "device": ("auto", "cpu", "cuda"),
}
_JSON = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def study_file(helps: Mapping[str, str]) -> str:
    """Return a YAML file in which every setting is commented out: ``# words``, then ``#name: value``.

    ``helps``: what each setting is, by its name. Raises ``KeyError`` for a setting without words.
    """
    defaults, words = StudySettings(), {**helps, **BESIDE}
    lines = [HEAD]
    for field in fields(StudySettings):
        value = getattr(defaults, field.name)
        said = yaml.safe_dump(
            {field.name: list(value) if isinstance(value, tuple) else value}, allow_unicode=True, width=10_000
        )
        lines += [f"# {line}" for line in textwrap.wrap(words[field.name], WIDTH - 2, break_on_hyphens=False)]
        lines += [f"#{line}" for line in said.splitlines()]
        lines.append("")
    return "\n".join(lines)


def schema(helps: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of study files."""
    hints, words = get_type_hints(StudySettings), {**helps, **BESIDE}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study of warmeng",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            field.name: {"description": words[field.name], **_typed(field.name, hints[field.name])}
            for field in fields(StudySettings)
        },
    }


def _typed(name: str, hint: Any) -> dict[str, Any]:
    """Return what a setting's type allows; a list of one name may be written as the name, several bases as a list."""
    one: dict[str, Any] = {"type": "string"} | ({"enum": list(CHOICES[name])} if name in CHOICES else {})
    if name == "model" or (get_origin(hint) is not None and get_origin(hint) not in (Union, types.UnionType)):
        return {"anyOf": [one, {"type": "array", "items": one, "uniqueItems": True}]}
    kinds = get_args(hint) or (hint,)
    if kinds == (str,):
        return one
    return {"type": [_JSON[kind] for kind in kinds] if len(kinds) > 1 else _JSON[kinds[0]]}
