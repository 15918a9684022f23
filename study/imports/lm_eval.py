"""Sample files of lm-evaluation-harness, ``samples_TASK[_TIME].jsonl``, and those that ``warmeng export`` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.errors import InputError, show
from warmeng.common.files import read_jsonl, reading
from warmeng.study.imports.rows import Log, Row, compared

PREFIX = "samples_"
_TIME = re.compile(r"_(\d{4}-\d\d-\d\dT[\d.:-]+)$")
# The metrics that say whether an answer is right, where there are several.
FIRST = ("acc", "exact_match")
# What an export of ours has of an answer beside what the harness writes.
OURS = ("grade", "which", "binary", "exact", "judged", "status")
PLACE = ("context", "belief", "framing", "sample")
# The largest results file that the harness writes is a few megabytes.
MAX_RESULTS = 64 * 2**20


def read_lm_eval(path: Path, filtered: bool) -> Log:
    """Return the answers of a sample file; ``filtered``: one filter is chosen by a mapping.

    The persona is that of ``--model_args persona=``, or the one of our export; else models are compared. A question is
    known by the hash of its document. The grade is ``acc``, else ``exact_match``, else the only metric.
    """
    told = _results(path)
    task = _TIME.sub("", path.stem.removeprefix(PREFIX))
    own = told.get("warmeng") if isinstance(told.get("warmeng"), dict) else None
    if own is not None:
        config: Mapping[str, Any] = next(iter((told.get("configs") or {}).values()), {})
        # A task's name may have characters that a file's name has not.
        tasks = {name.replace("/", "_"): name for name in told.get("results") or {}}
        where = {"model": own.get("model"), "persona": (config.get("metadata") or {}).get("persona")}
        names = {**where, "task": tasks.get(task, task)}
    else:
        names = {**_compared(path, told), "task": task}
    log = Log("lm-evaluation-harness", _rows(path, names, own is not None, filtered))
    if own is not None:
        log.orders = {name: names for name, names in (own.get("orders") or {}).items() if isinstance(names, list)}
    return log


def _rows(path: Path, names: Mapping[str, Any], own: bool, filtered: bool) -> Iterator[Row]:
    first: str | None = None
    for line, raw in read_jsonl(path):
        where = f"{path}:{line}"
        doc, metrics = raw.get("doc"), raw.get("metrics")
        if not isinstance(doc, dict) or not isinstance(metrics, list) or "resps" not in raw:
            raise InputError(
                f"{where}: has no doc, metrics and resps, expected a sample as lm-evaluation-harness writes"
            )
        found: dict[str, Any] = {**names, "item": raw.get("doc_hash") or raw.get("doc_id"), "text": _text(raw["resps"])}
        if own:
            found |= {key: raw.get(key) for key in OURS} | {key: doc.get(key) for key in PLACE}
            found |= {"item": doc.get("id"), "place": raw.get("place")}
            yield Row(where, raw, found)
            continue
        first = raw.get("filter") if first is None else first
        if raw.get("filter") != first and not filtered:
            raise InputError(
                f"{where}: has the filter {show(raw.get('filter'))} after {show(first)}: say in --mapping which one, "
                f"as where: {{filter: {first}}}"
            )
        metric = next((name for name in FIRST if name in metrics), metrics[0] if len(metrics) == 1 else None)
        if metric in raw:
            found["grade"] = raw[metric]
        yield Row(where, raw, found, [str(name) for name in metrics])


def _text(resps: Any) -> str | None:
    """Return the first text that was generated; None for log-likelihoods, which lie one list deeper."""
    first = resps[0] if isinstance(resps, list) and resps else None
    text = first[0] if isinstance(first, list) and first else None
    return text if isinstance(text, str) else None


def _results(path: Path) -> Mapping[str, Any]:
    """Return the results file beside a sample file: that of the same time, or the only one; nothing without one."""
    time = _TIME.search(path.stem)
    wanted = path.with_name(f"results_{time[1]}.json" if time else "results.json")
    if not wanted.is_file():
        return {}
    with reading(wanted), wanted.open("rb") as file:
        raw = file.read(MAX_RESULTS + 1)
    try:
        # The harness writes NaN, which is no JSON, where a metric has no value.
        found = json.loads(raw) if len(raw) <= MAX_RESULTS else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{wanted}: is no results file of lm-evaluation-harness: restore it, or take it away")
    return found


def _compared(path: Path, told: Mapping[str, Any]) -> dict[str, str]:
    config = told.get("config") or {}
    args = config.get("model_args") or {}
    if isinstance(args, str):
        args = dict(part.partition("=")[::2] for part in args.split(",") if part)
    model = told.get("model_name") or args.get("pretrained") or args.get("model") or path.resolve().parent.name
    persona = args.get("persona") if config.get("model") == "warmeng" else None
    return compared(Path(str(model)).name, None if persona is None else str(persona).partition("=")[0])


def is_sample(raw: bytes) -> bool:
    """Whether a line is a sample of the harness."""
    try:
        return bool({"doc", "doc_id", "resps"} <= orjson.loads(raw).keys())
    except (orjson.JSONDecodeError, AttributeError):
        return False
