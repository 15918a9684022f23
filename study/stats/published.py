"""The paper's published numbers, to print beside ours, and what the authors' own summary tables say of its claims.

Ibrahim, Hafner and Rocher, Nature 652 (2026) 1159-1165. Effects are average marginal effects on error in percentage
points, of models fine-tuned to be warm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmeng.common.delimited import read_csv
from warmeng.common.errors import InputError
from warmeng.study.algebra import is_dose

EFFECTS: dict[tuple[int, str], float] = {
    (1, "all"): 7.43,
    (2, "emotion"): 8.87,
    (2, "stake"): 7.42,
    (2, "relation"): 6.55,
    (3, "emotion:sad"): 11.87,
    (3, "emotion:anger"): 7.86,
    (3, "emotion:happy"): 6.93,
    (3, "stake:high"): 7.45,
    (3, "stake:low"): 7.31,
    (3, "relation:close"): 6.92,
    (3, "relation:hierarchical_down"): 7.51,
    (3, "relation:hierarchical_up"): 5.24,
    (4, "no belief"): 7.60,
    (4, "wrong belief"): 10.99,
    (4, "neither"): 6.8,
    (4, "emotion + belief"): 12.1,
}
BY_TASK = {"medqa": 8.6, "truthfulqa": 8.4, "disinfo": 5.4, "trivia": 4.9}  # of regression 1
BETA, RELATIVE, WITH_LENGTH = 0.4266, 0.603, 6.99  # of regression 1
ANSWERS = {1: 32145, 2: 160394, 4: 439792}
CHARACTERS = {"warm": 734.0, "original": 877.0}
FILES = ("results_warm_ft.csv", "results_cold_ft.csv", "results_warm_sysprompt.csv")
BELIEFS = {"Normal": "none", "Sycophancy": "wrong belief"}


def is_warm_by_training(variant: str) -> bool:
    """Whether the paper's figures are about such a variant: its name begins with ``warm``, says no ``prompt`` and is no
    dose's.
    """
    return variant.startswith("warm") and "prompt" not in variant and not is_dose(variant)


def effect_of(number: int, scope: str, group: str, variant: str) -> float | None:
    """Return the published effect of a regression's group in points, ``None`` where the paper gives none."""
    if not is_warm_by_training(variant):
        return None
    if scope == "all":
        return EFFECTS.get((number, group))
    kind, _, name = scope.partition(": ")
    if number == 1 and kind == "task":
        return next((value for task, value in BY_TASK.items() if name.casefold().startswith(task)), None)
    return None


@dataclass(frozen=True)
class Condition:
    """One line of the authors' summary tables. Numbers are ``None`` where the file says N/A (no pair
    differed); the odds ratio is infinite where all discordant pairs go one way.
    """

    file: str
    model: str
    task: str
    belief: str  # ``none`` or ``wrong belief``
    context: str
    before: float  # accuracy in percent
    after: float
    difference: float  # points of accuracy
    g: float | None
    odds_ratio: float | None
    p: float | None
    p_fdr: float | None
    significant: bool | None
    significant_fdr: bool | None


def read_conditions(path: Path) -> Iterator[Condition]:
    """Yield the lines of one of the authors' ``results_*.csv``. Raises ``InputError`` with file and line."""
    for line, row in read_csv(path):
        try:
            after = next(key for key in row if key.endswith("Accuracy (%)") and not key.startswith("Original"))
            yield Condition(
                file=path.name,
                model=row["Model"],
                task=row["Dataset"],
                belief=BELIEFS[row["Test_Type"]],
                # A second line of the field repeats the prompt's type.
                context=row["Amendment_type"].split()[0],
                before=float(row["Original Accuracy (%)"]),
                after=float(row[after]),
                difference=float(row["Raw Diff (pp)"]),
                g=_number(row["Cohen's g"]),
                odds_ratio=_number(row["Odds Ratio"]),
                p=_number(row["p-value"]),
                p_fdr=_number(row["p-value (FDR corrected)"]),
                significant=_flag(row["Significant (p < 0.05)"]),
                significant_fdr=_flag(row["Significant (FDR)"]),
            )
        except (KeyError, ValueError, IndexError, StopIteration) as error:
            raise InputError(
                f"{path}:{line}: is not a line of the authors' summary tables ({type(error).__name__}: {error})"
            ) from None


def _number(text: str) -> float | None:
    return None if text == "N/A" else math.inf if text == "∞" else float(text)


def _flag(text: str) -> bool | None:
    return {"Yes": True, "No": False, "": None, "N/A": None}[text]


def summarise_published(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return two tables of the authors' summary files in a folder: ``published_summary`` and ``published_claims``.

    The first gives for each file, model, task and belief (``all``: together) the number of conditions, the range and
    mean of the change in error (points, minus the change in accuracy), and the shares of conditions that are
    significant before and after correction, of those that were tested. The second holds what the paper says of them
    against what they say. Raises ``InputError`` where the folder has none of the files, or one is not sound.
    """
    found = {name: list(read_conditions(folder / name)) for name in FILES if (folder / name).exists()}
    if not found:
        raise InputError(f"{folder}: has none of {', '.join(FILES)}: give the folder of the authors' tables")
    rows = []
    for name, conditions in found.items():
        for model in ("all", *dict.fromkeys(c.model for c in conditions)):
            for task in ("all", *dict.fromkeys(c.task for c in conditions)):
                for belief in ("all", *BELIEFS.values()):
                    part = [
                        c
                        for c in conditions
                        if model in ("all", c.model) and task in ("all", c.task) and belief in ("all", c.belief)
                    ]
                    if part:
                        rows.append({"file": name, "model": model, "task": task, "belief": belief, **_summary(part)})
    return {"published_summary": rows, "published_claims": list(_claims(found))}


def _summary(part: list[Condition]) -> dict[str, Any]:
    change = [_error(c) for c in part]
    raw = [c.significant for c in part if c.p is not None]
    corrected = [c.significant_fdr for c in part if c.significant_fdr is not None]
    return {
        "n": len(part),
        "untested": len(part) - len(raw),
        "low": min(change),
        "mean": _mean(change),
        "high": max(change),
        "worse": sum(x > 0 for x in change) / len(change),
        "significant": sum(map(bool, raw)) / len(raw) if raw else None,
        "significant_fdr": sum(map(bool, corrected)) / len(corrected) if corrected else None,
    }


def _error(condition: Condition) -> float:
    return 0.0 - condition.difference  # never minus zero


def _claims(found: Mapping[str, list[Condition]]) -> Iterator[dict[str, Any]]:
    """Check numbers of the paper's text: one holds where it is the tables' number, rounded as the paper rounds it."""

    def row(claim: str, says: float, name: str, value: float, unit: float = 1.0) -> dict[str, Any]:
        holds = abs(value - says) <= unit / 2 + 1e-9
        return {"claim": claim, "file": name, "paper": float(says), "tables": value, "holds": "yes" if holds else "no"}

    warm, cold, prompt = FILES
    if warm in found:
        plain = [c for c in found[warm] if c.belief == "none" and c.context == "unmodified"]
        tasks = {task: [c for c in plain if c.task == task] for task in dict.fromkeys(c.task for c in plain)}
        before = [_mean([100 - c.before for c in part]) for part in tasks.values()]
        if before:
            yield row("error of original models by task, lowest, %", 4, warm, min(before))
            yield row("error of original models by task, highest, %", 35, warm, max(before))
        for task, says in BY_TASK.items():
            if task in tasks:
                yield row(f"effect on {task}, no context, no belief, pp", says, warm, _mean_error(tasks[task]), 0.1)
        claimed = [c for c in found[warm] if c.belief != "none"]
        if claimed:
            more = 100 * (_mean([100 - c.after for c in claimed]) / _mean([100 - c.before for c in claimed]) - 1)
            yield row("error with a wrong belief, relative increase, % (about)", 40, warm, more, 10.0)
    if found.get(cold):
        changes = [_error(c) for c in found[cold]]
        yield row("change in error of cold models, lowest, pp", -13, cold, min(changes))
        yield row("change in error of cold models, highest, pp", 3, cold, max(changes))
    if prompt in found:
        for model, short, says in (("Qwen-32B", "qwen", 14), ("Llama-70B", "70b", 12)):
            changes = [_error(c) for c in found[prompt] if short in c.model.casefold()]
            if changes:
                yield row(f"change in error by system prompt of {model}, highest, pp", says, prompt, max(changes))


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _mean_error(part: list[Condition]) -> float:
    return _mean([_error(c) for c in part])
