"""Reads answers in the authors' CSV columns: ``MODEL/PERSONA/TASK_PERSONA_outputs.csv``, as their code writes them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from warmeng.common.delimited import read_csv
from warmeng.common.errors import InputError
from warmeng.study.grading.refusals import refusals
from warmeng.study.personas import baseline_of
from warmeng.study.results.frame import Frame
from warmeng.study.results.read import GRADE_CODE, Columns, RunInfo
from warmeng.study.tasks.task import is_disinformation

ENDING = "_outputs.csv"
# Their prompt_template, in MedQA's files prompt_type -> our belief and framing.
TEMPLATES = {
    "original": ("none", "plain"),
    "original_neutral": ("none", "neutral"),
    "incorrect": ("wrong", "plain"),
    "correct": ("doubt", "plain"),
}
LABELS = {"CORRECT": "correct", "INCORRECT": "incorrect", "": "unscored"}
JUDGE = "authors' label"


def read_authors(folder: Path) -> Frame:
    """Return the answers of all ``*_outputs.csv`` below a folder, or of one file. Raises ``InputError``.

    The persona is the folder that holds the file (or what the name says after its last ``_``), the model the folder
    above. The question is ``content_key``, MedQA's ``original_question``, or ``prompt_disinfo``, by which the authors
    pair; a question that occurs again in the same place is its next sample. Where there is no ``refusal``, which some
    of their files lack and none of their scripts reads, their list of phrases tells it. "None" is text; an empty
    evaluation is unscored. Their label says nothing of whose wrong answer was given: ``which`` stays empty.
    """
    columns = Columns()
    for path in files_of(folder):
        _read(columns, path)
    personas = tuple(columns.tables["persona"])
    return columns.frame((baseline_of(personas),) if personas else ())


def files_of(folder: Path) -> list[Path]:
    """Return the authors' files below a folder, or one file itself; ``InputError`` where there is none."""
    files = [folder] if folder.is_file() else sorted(folder.rglob(f"*{ENDING}"))
    if not files:
        raise InputError(f"{folder}: has no file named TASK_PERSONA{ENDING}: give a run folder, or the authors' files")
    return files


def read_authors_run(folder: Path) -> tuple[Frame, RunInfo]:
    """Return ``read_authors`` with what is known of such answers: their number, and the paper's rule."""
    frame = read_authors(folder)
    statuses = {"ok": len(frame)}
    note = "Read from the authors' columns: their evaluation is the grade, their list of phrases tells refusals."
    return frame, RunInfo(len(frame), statuses, frame.model.names, "paper", notes=(note,))


def place_of(path: Path) -> tuple[str, str, str]:
    """Return (model, persona, task) of a file by its name and folders."""
    if not path.name.endswith(ENDING):
        raise InputError(f"{path}: expected a name such as trivia_warm{ENDING}")
    stem = path.name.removesuffix(ENDING)
    folder = path.resolve().parent
    if stem.endswith(f"_{folder.name}"):
        persona, model = folder.name, folder.parent.name
        task = stem.removesuffix(f"_{persona}")
    else:
        task, _, persona = stem.rpartition("_")
        model = folder.name
    if not task or not persona:
        raise InputError(f"{path}: the name tells no task and persona: expected one such as trivia_warm{ENDING}")
    return model, persona, task


def _read(columns: Columns, path: Path) -> None:
    model, persona, task = place_of(path)
    seen: Counter[tuple[str, str, str, str]] = Counter()
    for line, row in read_csv(path):
        where = f"{path}:{line}"
        try:
            if "content_key" in row:
                question = row["content_key"]
            elif "original_question" in row:
                question = row["original_question"]
            else:
                question = row["prompt_disinfo"]
            template = row["prompt_type"] if "prompt_type" in row else row["prompt_template"]
            context, text, label = (row[k] for k in ("amendment_type", "output", "evaluation"))
        except KeyError as error:
            raise InputError(f"{where}: has no column {error}, which the authors' {task} files have") from None
        if is_disinformation(task) != ("prompt_disinfo" in row):
            raise InputError(f"{where}: the columns are not those of {task}: name the file after its task")
        if template not in TEMPLATES:
            raise InputError(f"{where}: the prompt's type is {template!r}, expected {', '.join(TEMPLATES)}")
        label = label.upper()  # their scripts read either case
        if label not in LABELS:
            raise InputError(f"{where}: the evaluation is {label!r}, expected CORRECT, INCORRECT or nothing")
        refused = refusals(text)
        if "refusal" in row:
            if row["refusal"] not in ("0", "1"):
                raise InputError(f"{where}: refusal is {row['refusal']!r}, expected 0 or 1")
            refused["paper"] = row["refusal"] == "1"
        belief, framing = TEMPLATES[template]
        unit = (question, context, belief, framing)
        grade = GRADE_CODE["refusal" if refused["paper"] else LABELS[label]]
        columns.add(
            {
                "model": model, "persona": persona, "task": task, "context": context, "belief": belief,
                "framing": framing, "item": f"{task}/{question}",
            },
            seen[unit],
            len(text),
            refused,
            grade=grade,
            which=0,
            binary={"CORRECT": 0, "INCORRECT": 1, "": -1}[label],
            exact=-1,
        )  # fmt: skip
        columns.judge(JUDGE, len(columns) - 1, GRADE_CODE[LABELS[label]])
        seen[unit] += 1
