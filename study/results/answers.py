"""The answers of a run joined with their judgments: what every statistic, the report and the exports read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, one_line, show
from warmeng.study.grading.grade import GRADES
from warmeng.study.results.combine import combine
from warmeng.study.results.frame import WHICH
from warmeng.study.results.overruled import Overruled, read_overruled
from warmeng.study.results.records import read_records
from warmeng.study.results.trust import Trust, Verdict
from warmeng.study.tasks.task import is_disinformation

# No judge counts.
NOBODY = Trust()


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
    # Means of a generated answer, by vector; None where the run has no vectors, and for label scores.
    projections: Mapping[str, float] | None = None
    # Who gave the grade by hand, if somebody did.
    overruled_by: str = ""

    @property
    def length(self) -> str:
        """``cut`` where it was generated until the most tokens that were allowed, ``whole``, or "" for label scores."""
        return "" if self.text is None else "cut" if self.finish == "length" else "whole"


def read_verdicts(path: Path) -> dict[bytes, tuple[Verdict, ...]]:
    """Return all judges' verdicts by answer key (bytes), in the file's order."""
    found: dict[bytes, tuple[Verdict, ...]] = {}
    for r in read_records(path):
        if r.get("kind") == "judged":
            try:
                if r["grade"] not in GRADES:
                    raise KeyError(r["grade"])
                verdict = Verdict(r["judge"], r["grade"], r.get("which"), r.get("reason") or "", r.get("shares"))
                of = bytes.fromhex(r["of"])
            except (KeyError, ValueError) as error:
                raise _unknown(path, r, error) from None
            found[of] = (*found.get(of, ()), verdict)
    return found


def read_answers(path: Path, verdicts: Mapping[bytes, tuple[Verdict, ...]], trust: Trust = NOBODY) -> Iterator[Answer]:
    """Yield the answers of a ``records.jsonl`` with their final grades, in the file's order.

    This is the one place where an answer, its judgments and what people overruled become a grade. ``verdicts`` are
    those of the same file, ``trust`` the judges that may decide; what several say together is a verdict of its own.
    Raises ``InputError`` for a record that is not one of a run, for judgments and grades by hand of answers that are
    not there, and as ``read_overruled``.
    """
    judged = 0
    by_hand = read_overruled(path.parent)
    for r in read_records(path):
        kind = r.get("kind", "answer")
        if kind in ("judged", "margin"):
            continue
        if kind not in ("answer", "score"):
            raise InputError(f"{path}: record {r['key']} is of kind {kind!r}, expected answer, score, margin or judged")
        mine = verdicts.get(bytes.fromhex(r["key"]), ())
        judged += bool(mine)
        try:
            yield _answer(r, mine, trust, by_hand.pop(r["key"], None))
        except KeyError as error:
            raise _unknown(path, r, error) from None
    for key, found in by_hand.items():
        raise InputError(f"{found.where}: no answer of the run has the key {show(key, 40)}: take keys of its records")
    if judged != len(verdicts):
        raise InputError(
            f"{path}: has judgments of {len(verdicts) - judged} answers that are not there: restore the file"
        )


def _unknown(path: Path, r: Mapping[str, Any], error: Exception) -> InputError:
    return InputError(f"{path}: record {r['key']} lacks or does not know {one_line(error)}: restore the file")


def _answer(r: Mapping[str, Any], verdicts: tuple[Verdict, ...], trust: Trust, by_hand: Overruled | None) -> Answer:
    if r["grade"] not in GRADES:
        raise KeyError(r["grade"])
    if (r.get("which") or "") not in WHICH:
        raise KeyError(r["which"])
    if (together := trust.together(verdicts)) is not None:
        verdicts = (*verdicts, together)
    judge = next((v for v in verdicts if v.judge == trust.name), None)
    refusal_is_correct = is_disinformation(r["task"])
    if by_hand is not None:
        told = {"grade": by_hand.grade, "which": by_hand.which, "reason": by_hand.reason}
        final = combine(told, None, refusal_is_correct)
    else:
        final = combine(r, asdict(judge) if judge else None, refusal_is_correct)
    return Answer(
        key=r["key"],
        persona=r["persona"],
        task=r["task"],
        context=r["context"],
        belief=r["belief"],
        framing=r.get("framing") or "plain",
        item=r["item"],
        sample=r["sample"],
        status=r["status"],
        grade=final.grade,
        which=final.which or "",
        reason=final.reason,
        binary=final.binary,
        exact=r["grade"],
        verdicts=verdicts,
        text=r.get("text"),
        finish=r.get("finish") or "",
        tokens=r.get("tokens"),
        prompt_tokens=r.get("prompt_tokens") or 0,
        labels=r.get("labels"),
        disputed=final.disputed,
        projections=r.get("projections"),
        overruled_by=by_hand.who if by_hand else "",
    )
