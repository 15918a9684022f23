"""The answers of a run with their final grades, one after the other: what the report's browser and the exports read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError
from warmeng.study.results.combine import combine
from warmeng.study.results.manifest import OTHER_RUN, read_manifest
from warmeng.study.results.records import FILE, read_records


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one judge said of one answer; ``shares`` are the four grades' probabilities, where they were recorded."""

    judge: str
    grade: str
    which: str | None = None
    reason: str = ""
    shares: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. ``grade`` is the final one, ``exact`` the rules' alone; ``text`` is ``None`` for label scores.
    ``disputed``: a trusted judge grades it otherwise than the exact rule, and counts.

    ``binary`` is the paper's label: 0 correct, 1 incorrect, -1 neither.
    """

    key: str
    persona: str
    task: str
    context: str
    belief: str
    framing: str
    item: str
    sample: int
    status: str
    grade: str
    which: str  # "user", "other" or ""
    reason: str
    binary: int
    exact: str
    verdicts: tuple[Verdict, ...]
    text: str | None
    finish: str
    tokens: int | None
    prompt_tokens: int
    labels: Mapping[str, float] | None
    disputed: bool = False


def require_manifest(folder: Path) -> dict[str, Any]:
    """Return a run folder's manifest; ``InputError`` where the folder is not one."""
    manifest = read_manifest(folder, OTHER_RUN)
    if manifest is None:
        why = "it has no manifest.json" if folder.exists() else "it is not there"
        raise InputError(f"{folder}: is no run folder ({why}): {OTHER_RUN}")
    if not (folder / FILE).exists():
        raise InputError(f"{folder}: has no {FILE} yet: continue the run first")
    return manifest


def read_verdicts(path: Path) -> dict[bytes, tuple[Verdict, ...]]:
    """Return all judges' verdicts by answer key (bytes), in the file's order."""
    found: dict[bytes, tuple[Verdict, ...]] = {}
    for r in read_records(path):
        if r.get("kind") == "judged":
            verdict = Verdict(r["judge"], r["grade"], r.get("which"), r.get("reason") or "", r.get("shares"))
            of = bytes.fromhex(r["of"])
            found[of] = (*found.get(of, ()), verdict)
    return found


def read_answers(path: Path, verdicts: Mapping[bytes, tuple[Verdict, ...]], trusted: str | None) -> Iterator[Answer]:
    """Yield the answers of a ``records.jsonl`` in the file's order; ``trusted`` is the judge that may decide."""
    for r in read_records(path):
        if r.get("kind") == "judged":
            continue
        mine = verdicts.get(bytes.fromhex(r["key"]), ())
        judge = next((v for v in mine if v.judge == trusted), None)
        final = combine(r, asdict(judge) if judge else None, refusal_is_right(r["task"]))
        yield Answer(
            r["key"],
            r["persona"],
            r["task"],
            r["context"],
            r["belief"],
            r.get("framing") or "plain",
            r["item"],
            r["sample"],
            r["status"],
            final.grade,
            final.which or "",
            final.reason,
            final.binary,
            r["grade"],
            mine,
            r.get("text"),
            r.get("finish") or "",
            r.get("tokens"),
            r.get("prompt_tokens") or 0,
            r.get("labels"),
            final.disputed,
        )


def refusal_is_right(task: str) -> bool:
    """Whether the paper counts a refusal as correct: in its task of disinformation alone."""
    return "disinfo" in task.lower()


def baseline_of(personas: list[str]) -> str:
    """Return the persona that the others are compared with: ``original``, or the first."""
    return "original" if "original" in personas else personas[0]
