"""From names and paths to tasks: embedded ones, files of one's own, and the published question sets' files.

A spec is an embedded name, ``all`` (every embedded one), or ``[LAYOUT=]PATH[@GRADING]``. PATH is a file, or
``hub:OWNER/NAME@REVISION:FILE`` for a data set of the Hugging Face hub. Without LAYOUT the columns tell it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from warmeng.common.errors import InputError, UsageError, one_line, show
from warmeng.common.files import is_file
from warmeng.engine.tables import Row, ending, first_cells, is_delimited, kind_of, read_rows, stem
from warmeng.study.tasks import authors, disinfo, gsm8k, medqa, mmlu, own, popqa, refusals, triviaqa, truthfulqa
from warmeng.study.tasks.task import (
    DISINFORMATION,
    EMBEDDED,
    FOLDER,
    GENERAL_NAMES,
    GRADINGS,
    NAME,
    Grading,
    Item,
    LeftOut,
    Task,
    identified,
    refuse_duplicates,
    refuse_unsound,
    sampled,
)

# Layouts of files that whoever runs a study can correct.
WRITTEN = ("own", "authors")
FORM = "[LAYOUT=]PATH[@GRADING]"
HUB = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?:(?P<file>[^@]+)")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a question set's file is read, and how its answers are graded unless told."""

    read: Callable[[Path], Iterator[tuple[int, Item]]]
    grading: Grading
    columns: str  # what its columns are, for a message


LAYOUTS: dict[str, Layout] = {
    "own": Layout(own.read, "alias", "question, answer, wrong, ..."),
    "truthfulqa": Layout(truthfulqa.read, "likelihood", "Question, Best Answer, Correct Answers, Incorrect Answers"),
    "triviaqa": Layout(triviaqa.read, "alias", "question, answer {value, aliases}, or the original JSON's Data"),
    "popqa": Layout(popqa.read, "alias", "question, answers"),
    "medqa": Layout(medqa.read, "options", "question, answer, options, answer_idx"),
    "disinfo": Layout(disinfo.read, "judge", "prompt_disinfo, ground_truth, ground_false"),
    "authors": Layout(authors.read, "judge", "prompt, prompt_template or prompt_type, amendment_type, ..."),
    "mmlu": Layout(mmlu.read, "options", "question, choices, answer, or six columns without a header"),
    "gsm8k": Layout(gsm8k.read, "number", "question, answer that ends with #### NUMBER"),
    "refusals": Layout(refusals.read, "refusal", "goal, target"),
}


def load_tasks(specs: Sequence[str], limit: int = 0, seed: int = 0) -> tuple[Task, ...]:
    """Load tasks by their specs, at most ``limit`` items of each (0: all), chosen by the seed.

    Raises ``UsageError`` for a spec that names nothing, ``InputError`` for a file that is not sound.
    """
    wanted = list(dict.fromkeys(s for spec in specs for s in (EMBEDDED if spec == "all" else [spec])))
    tasks: dict[str, Task] = {}
    for spec in wanted:
        task = _embedded(spec, limit, seed) if spec in EMBEDDED else _from_spec(spec, limit, seed, tasks)
        if task.name in tasks:
            raise InputError(f"{spec}: a task named {task.name!r} is there already: give the file another name")
        tasks[task.name] = task
    return tuple(tasks.values())


def load_task(
    path: Path, layout: str | None = None, grading: Grading | None = None, limit: int = 0, seed: int = 0, name: str = ""
) -> Task:
    """Read one file; ``InputError`` with file and line for anything that is not as it should be."""
    layout = layout or detect(path)
    found = LAYOUTS[layout]
    declared = own.declaration(path) if layout == "own" else own.Declaration()
    grading = grading or declared.grading or found.grading
    name = name or declared.name or _name(path, layout)
    if not NAME.fullmatch(name):
        raise InputError(
            f"{path}: the task's name is {show(name)}, expected letters, digits, '.', '_' and '-': rename the file, or "
            'let the first line of a JSON lines file name the task, as {"task": {"name": "capitals"}}'
        )
    if layout == "own" and (name.casefold().startswith(GENERAL_NAMES) or DISINFORMATION in name.casefold()):
        raise InputError(
            f"{path}: a task named {name} would count as one of general ability ({', '.join(GENERAL_NAMES)}) or of "
            "disinformation: give it another name, or the layout of that question set"
        )
    rows = found.read(path)
    rows = identified(refuse_duplicates(path, rows) if layout == "own" else rows)
    left_out = LeftOut()
    sound = refuse_unsound(path, rows, grading) if layout in WRITTEN else left_out.passing(path, rows, grading)
    read = _Counted(sound)
    items = sampled(read, name, limit, seed)
    if not items and left_out.count:
        raise InputError(f"{path}: has no item that can be graded: {left_out.first}")
    if not items:
        raise InputError(f"{path}: has no items: expected one {_unit(path)}")
    return Task(name, grading, items, layout, read.count, left_out.told())


class _Counted:
    """Passes items on and counts them."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items, self.count = items, 0

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            self.count += 1
            yield item


def detect(path: Path) -> str:
    """Return the layout that a file's columns tell; ``InputError`` that lists the layouts where they don't."""
    if triviaqa.is_original(path):
        return "triviaqa"
    columns, first = (frozenset(first_cells(path)), None) if is_delimited(path) else _first(path)
    _refuse_columnwise(path, first)
    answer = first.get("answer") if first else None
    has = columns.issuperset
    if has({"prompt", "amendment_type"}):
        return "authors"
    if has(truthfulqa.COLUMNS):
        return "truthfulqa"
    if has(disinfo.COLUMNS):
        return "disinfo"
    if has({"goal", "target"}):
        return "refusals"
    if has({"question", "options", "answer_idx"}):
        return "medqa"
    if has({"question", "choices", "answer"}):
        return "mmlu"
    if has({"question", "answer"}) and isinstance(answer, dict):
        return "triviaqa"
    if has({"question"}) and columns & {"answers", "possible_answers"}:
        return "popqa"
    if columns == {"question", "answer"} and isinstance(answer, str) and gsm8k.MARK in answer:
        return "gsm8k"
    if columns == {"task"} or has({"question", "answer"}):
        return "own"
    if is_delimited(path) and len(cells := first_cells(path)) == 6 and cells[5] in mmlu.LETTERS:
        return "mmlu"
    # A file that can't be read at all says why first.
    next(read_rows(path), None)
    raise InputError(f"{path}:1: has {show(sorted(columns), 60)}, which no layout has: {_remedy(path, columns, first)}")


def _remedy(path: Path, columns: frozenset[str], first: Row | None) -> str:
    """What to do with a file whose columns no layout has."""
    meant = {name: name.strip().casefold() for name in columns}
    renamed = {name: key for name, key in meant.items() if name != key and key in own.KEYS}
    if {"question", "answer"}.issubset(meant.values()):
        return f"rename {', '.join(f'{show(name)} to {key}' for name, key in sorted(renamed.items()))}"
    listed = [name for name, value in (first or {}).items() if isinstance(value, list)]
    if len(columns) == len(listed) == 1:
        return f"write the list in {show(listed[0])} alone"
    others = ", ".join(name for name in LAYOUTS if name != "own")
    return f"name them question and answer, or write LAYOUT=PATH ({others})"


def _refuse_columnwise(path: Path, first: Row | None) -> None:
    """Raise ``InputError`` for pandas' JSON of columns, whose one object looks like a row."""
    values = list((first or {}).values())
    keys = [tuple(value) if isinstance(value, dict) else () for value in values]
    by_column = len(values) > 1 and keys[0] != () and all(mine == keys[0] for mine in keys)
    if by_column or set(first or {}) in ({"columns", "index", "data"}, {"schema", "data"}):
        raise InputError(f"{path}:1: is a table by columns: write its rows, in pandas to_json(orient='records')")


def _embedded(name: str, limit: int, seed: int) -> Task:
    return load_task(FOLDER / f"{name}.jsonl", "own", EMBEDDED[name], limit, seed, name)


def _from_spec(spec: str, limit: int, seed: int, tasks: dict[str, Task]) -> Task:
    path, layout, grading = parse_spec(spec)
    task = load_task(path, layout, grading, limit, seed)
    # Two files of one question set are told apart by their names.
    if task.name in tasks and task.layout != "own":
        own_name = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem(path))
        return load_task(path, layout, grading, limit, seed, f"{task.layout}-{own_name}"[:64])
    return task


def parse_spec(spec: str) -> tuple[Path, str | None, Grading | None]:
    """Return a spec's file, and layout and grading where it says them; a file's own name always wins.

    Raises ``UsageError`` where it names no file, layout or grading.
    """
    if not is_file(Path(spec)):
        rest, layout, grading = spec, None, None
        head, equals, tail = spec.partition("=")
        if equals and head in LAYOUTS:
            layout, rest = head, tail
        elif equals and "/" not in head and not head.startswith("hub:"):
            raise UsageError(f"no layout is named {show(head)}: use {', '.join(LAYOUTS)}, as {FORM}")
        head, at, tail = rest.rpartition("@")
        if at and tail in GRADINGS:
            grading, rest = cast(Grading, tail), head
        elif at and not rest.startswith("hub:") and not is_file(Path(rest)) and is_file(Path(head)):
            raise UsageError(f"no grading is named {show(tail)}: use {', '.join(GRADINGS)}, as {FORM}")
        if rest.startswith("hub:"):
            return _from_hub(rest), layout, grading
        looks = "/" in rest or ending(Path(rest)) != ""
        if not looks and not is_file(Path(rest)):
            raise UsageError(f"no task is named {show(spec)}: use {', '.join(EMBEDDED)}, all, or {FORM}")
        return Path(rest), layout, grading
    return Path(spec), None, None


def _from_hub(spec: str) -> Path:
    """Return the local copy of a file of the hub, fetched where the network allows."""
    match = HUB.fullmatch(spec)
    if not match:
        raise UsageError(f"{show(spec)} isn't hub:OWNER/NAME@REVISION:FILE: correct it")
    if not match["revision"]:
        raise UsageError(
            f"{show(spec)} has no revision: pin one, as hub:{match['repository']}@REVISION:{match['file']}"
        )
    from huggingface_hub import hf_hub_download

    where = {"repo_id": match["repository"], "filename": match["file"], "revision": match["revision"]}
    for local in (True, False):
        try:
            return Path(hf_hub_download(**where, repo_type="dataset", local_files_only=local))
        except Exception as error:
            # Names, network, permissions: the library and its clients raise all kinds.
            why = f"{type(error).__name__}: {one_line(error, 160)}"
    raise InputError(
        f"{spec}: is neither in the hub's cache here nor could it be fetched ({why}): download the file where there is "
        "a network and give its path"
    )


def _name(path: Path, layout: str) -> str:
    """A published question set goes by its own name, whatever its file is called; so do the authors' files."""
    if layout == "authors":
        said = path.stem.lower()
        for part, name in (
            ("trivia", "triviaqa"),
            ("truthful", "truthfulqa"),
            ("medqa", "medqa"),
            ("disinfo", "disinfo"),
        ):
            if part in said:
                return name
    elif layout != "own":
        return layout
    return stem(path)


def _first(path: Path) -> tuple[frozenset[str], Row]:
    for _, row in read_rows(path):
        return frozenset(row), row
    raise InputError(f"{path}: has no items: expected one {_unit(path)}")


def _unit(path: Path) -> str:
    return {"json": "JSON object a line, or an array of them"}.get(kind_of(path), "row a line")
