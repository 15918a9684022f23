"""All answers of a run as one table, CSV or Parquet: a row an answer, with its final grade and every judge's.

In CSV a text that a spreadsheet would run has an apostrophe in front (``as_cell``); Parquet and the run's own files
have every text as it was.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.cells import as_cell
from warmeng.common.errors import UsageError
from warmeng.common.files import replacing
from warmeng.study.grading.refusals import RULES, refusals
from warmeng.study.results.answers import Answer, read_answers, read_verdicts
from warmeng.study.results.items import Asked, read_items
from warmeng.study.results.manifest import Manifest, require_manifest
from warmeng.study.results.tied import refuse_untied
from warmeng.study.results.trust import Trust, Verdict

Texts, Words, Numbers = list[str], dict[str, str], dict[str, float]
COLUMNS: dict[str, Any] = {
    "key": str, "model": str, "persona": str, "task": str, "context": str, "belief": str, "framing": str, "item": str,
    "sample": int, "status": str, "grade": str, "which": str, "reason": str, "binary": int, "exact": str,
    "judged": Words, "disputed": bool,
    **{f"refused_{rule}": bool for rule in RULES}, "question": str, "answer": str, "aliases": Texts, "wrong": str,
    "wrong_aliases": Texts, "others": Texts, "grading": str, "text": str, "labels": Numbers, "finish": str,
    "tokens": int, "prompt_tokens": int, "projections": Numbers, "system": str, "prompt": str,
}  # fmt: skip
TOLD = ("question", "answer", "aliases", "wrong", "wrong_aliases", "others", "grading")  # of an item and its task
BATCH = 4096  # rows that are held at a time


@dataclass(frozen=True)
class Source:
    """A run folder with what its answers need to be read."""

    folder: Path
    manifest: Manifest
    items: Mapping[tuple[str, str], Asked]
    verdicts: Mapping[bytes, tuple[Verdict, ...]]

    @classmethod
    def of(cls, folder: Path) -> Source:
        """Read manifest, items and judgments.

        Raises ``InputError`` for a folder that is no run, or whose files are not of one run.
        """
        manifest = require_manifest(folder)
        refuse_untied(folder, manifest)
        return cls(folder, manifest, read_items(folder), read_verdicts(folder / "records.jsonl"))

    @property
    def model(self) -> str:
        """The model's name, without the folder or owner before it."""
        return Path(str(self.manifest.setting.get("model") or "model")).name or "model"

    @property
    def composition(self) -> str:
        """How prompts were put together."""
        return str(self.manifest.setting.get("composition") or "clean")

    def answers(self) -> Iterator[Answer]:
        """Yield the answers, one at a time."""
        return read_answers(self.folder / "records.jsonl", self.verdicts, Trust.of(self.manifest.facts.judges))


def rows(source: Source) -> Iterator[dict[str, Any]]:
    """Yield an answer's columns; ``None`` is what is not there: the text of a score, the labels of a text."""
    for a in source.answers():
        asked = source.items.get((a.task, a.item))
        refused = refusals(a.text) if a.text else dict.fromkeys(RULES, False)
        yield {
            "key": a.key, "model": source.model, "persona": a.persona, "task": a.task, "context": a.context,
            "belief": a.belief, "framing": a.framing, "item": a.item, "sample": a.sample, "status": a.status,
            "grade": a.grade, "which": a.which or None, "reason": a.reason or None, "binary": a.binary,
            "exact": a.exact,
            "judged": {v.judge: v.grade for v in a.verdicts} or None,
            "disputed": a.disputed,
            **{f"refused_{rule}": found for rule, found in refused.items()},
            **(told(asked) if asked else dict.fromkeys(TOLD)), "text": a.text,
            "labels": dict(a.labels) if a.labels is not None else None,
            "finish": a.finish or None, "tokens": a.tokens, "prompt_tokens": a.prompt_tokens,
            "projections": dict(a.projections) if a.projections is not None else None,
            "system": source.manifest.facts.systems.get(a.persona),
            "prompt": asked.message(source.composition, a.context, a.belief, a.framing) if asked else None,
        }  # fmt: skip


def told(asked: Asked) -> dict[str, Any]:
    """Return what of an item and its task a grade rests on; lists are ``None`` where they are empty."""
    item = asked.item
    lists = {name: list(getattr(item, name)) or None for name in ("aliases", "wrong_aliases", "others")}
    return {
        "question": item.question,
        "answer": item.answer,
        "wrong": item.wrong,
        **lists,
        "grading": asked.task.grading,
    }


def as_text(value: Any) -> Any:
    """Return lists and mappings as JSON, anything else as it is."""
    return orjson.dumps(value).decode() if isinstance(value, list | dict) else value


def write_csv(source: Source, path: Path) -> None:
    """Write all answers as CSV, UTF-8: what is not there is an empty field, flags are 0 and 1, lists and mappings JSON.

    Raises ``OSError``.
    """
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\r\n")
        writer.writeheader()
        for row in rows(source):
            writer.writerow({k: as_cell(as_text(v)) for k, v in row.items()})


def write_parquet(source: Source, path: Path) -> None:
    """Write all answers as Parquet, lists and mappings as such (``list``, ``map``).

    Raises ``UsageError`` where pyarrow is not installed, ``OSError`` of the disk.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError(
            "--format parquet needs pyarrow: pip install 'warmeng[parquet]', or use --format csv"
        ) from None
    text = pa.string()
    kinds: list[tuple[Any, Any]] = [
        (str, text), (int, pa.int64()), (bool, pa.bool_()), (Texts, pa.list_(text)), (Words, pa.map_(text, text)),
        (Numbers, pa.map_(text, pa.float64())),
    ]  # fmt: skip
    schema = pa.schema([(name, next(type for k, type in kinds if k == kind)) for name, kind in COLUMNS.items()])
    # It takes a mapping as pairs.
    found = ({k: list(v.items()) if isinstance(v, dict) else v for k, v in row.items()} for row in rows(source))
    with replacing(path) as beside, pq.ParquetWriter(beside, schema, compression="zstd") as writer:
        while batch := list(islice(found, BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
