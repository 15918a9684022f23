"""Results of promptfoo, as ``promptfoo eval --output results.json`` writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.errors import InputError, show
from warmeng.study.imports.rows import Log, Row, compared

VERSIONS = (3,)
# promptfoo's reason for a failure that is no wrong answer: the call itself failed.
ERROR = 2
# Its reason for the success of an answer of which nothing was asserted.
NOTHING = "No assertions"


def read_promptfoo(path: Path, data: Mapping[str, Any]) -> Log:
    """Return the answers of a parsed file. Raises ``InputError`` for a version that is not known.

    Providers are compared, each with each of its prompts where there are several. A question is known by its variables,
    and one that is asked again is the next sample. Whether all assertions passed is the grade; an answer of which
    nothing is asserted has none.
    """
    found = data["results"]
    if found.get("version") not in VERSIONS or not isinstance(found.get("results"), list):
        raise InputError(
            f"{path}: promptfoo's results are of version {show(found.get('version'))}, expected "
            f"{', '.join(map(str, VERSIONS))}: write them again with a version of promptfoo that has it"
        )
    config = data.get("config") if isinstance(data.get("config"), dict) else {}
    task = (config or {}).get("description") or "promptfoo"
    return Log("promptfoo", _rows(path, found["results"], str(task)))


def _rows(path: Path, results: list[Any], task: str) -> Iterator[Row]:
    prompts = {orjson.dumps(one.get("prompt")) for one in results if isinstance(one, dict)}
    labels = {_label(one) for one in results if isinstance(one, dict)}
    # A prompt's text differs with its variables; its label is the template.
    several = len(labels) > 1 and len(prompts) > 1
    # They are in the order in which answers came: which provider is the baseline must not depend on that.
    for place, raw in sorted(enumerate(results), key=_place):
        where = f"{path}: result {place}"
        if (
            not isinstance(raw, dict)
            or not isinstance(raw.get("provider"), dict)
            or not isinstance(raw.get("success"), bool)
        ):
            raise InputError(f"{where}: has no provider and success, expected a result as promptfoo writes")
        provider = str(raw["provider"].get("label") or raw["provider"].get("id"))
        variables = raw.get("vars") or (raw.get("testCase") or {}).get("vars") or {}
        named = hashlib.sha256(orjson.dumps(variables, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
        output = (raw.get("response") or {}).get("output")
        failed = raw.get("failureReason") == ERROR
        grading = raw.get("gradingResult")
        unknown = failed or (isinstance(grading, dict) and grading.get("reason") == NOTHING)
        found: dict[str, Any] = {
            **compared(f"{provider} {_label(raw)}" if several else provider, None),
            "task": task,
            "item": named,
            "text": output if isinstance(output, str) else None,
            "grade": "unscored" if unknown else raw["success"],
        }
        yield Row(where, raw, found | ({"status": "error"} if failed else {}))


def _place(one: tuple[int, Any]) -> tuple[int, int]:
    """Return the column and the row of a result in promptfoo's table."""
    raw = one[1] if isinstance(one[1], dict) else {}
    column, row = raw.get("promptIdx"), raw.get("testIdx")
    return (column if type(column) is int else 0, row if type(row) is int else 0)


def _label(raw: Mapping[str, Any]) -> str:
    prompt = raw.get("prompt")
    return str((prompt if isinstance(prompt, dict) else {}).get("label") or raw.get("promptIdx") or "")
