"""Tasks: question sets with right answers, aliases and a plausible wrong answer each.

A file of one's own is JSON lines, one item a line, with the keys of ``Item``. Its first line may declare the task:
``{"task": {"name": "capitals", "grading": "likelihood"}}``; without it the name is the file's and grading is
``alias``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from warmeng.engine.errors import InputError, UsageError
from warmeng.study.files import read_jsonl
from warmeng.study.normalise import words

Grading = Literal["alias", "likelihood", "options"]
GRADINGS: tuple[str, ...] = get_args(Grading)
FOLDER = Path(__file__).parent / "data" / "tasks"
EMBEDDED: dict[str, Grading] = {
    "facts": "alias",  # short names: an answer is generated and searched for them
    "misconceptions": "likelihood",  # phrases that can be put in many ways: compared, not searched for
    "conspiracies": "likelihood",
    "health": "likelihood",
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Item:
    """One question. ``wrong`` is the answer that a mistaken user claims; aliases are other ways to write each."""

    id: str
    question: str
    answer: str
    wrong: str
    aliases: tuple[str, ...] = ()
    wrong_aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A question set. ``alias``: the answer is generated and searched for names; ``likelihood``: the probabilities of
    the right and the wrong answer are compared; ``options``: those of two lettered options are.
    """

    name: str
    grading: Grading
    items: tuple[Item, ...]

    @property
    def hash(self) -> str:
        """SHA-256 of grading and items, order included."""
        content = [self.grading, [[getattr(i, key) for key in Item.__slots__] for i in self.items]]
        return hashlib.sha256(orjson.dumps(content)).hexdigest()

    def sample(self, limit: int, seed: int) -> Task:
        """Return the task with at most ``limit`` items (0: all), chosen by the seed alone, in the file's order.

        A larger limit keeps every item of a smaller one.
        """
        if not limit or limit >= len(self.items):
            return self
        rank = {i.id: hashlib.sha256(f"{seed}\0{self.name}\0{i.id}".encode()).digest() for i in self.items}
        kept = set(sorted(rank, key=rank.__getitem__)[:limit])
        return Task(self.name, self.grading, tuple(i for i in self.items if i.id in kept))


def load_tasks(names: Sequence[str]) -> tuple[Task, ...]:
    """Load embedded tasks by name (``all``: every one) and others by the path of a ``.jsonl`` file.

    Raises ``UsageError`` for an unknown name, ``InputError`` for a file that is not sound.
    """
    wanted = list(dict.fromkeys(n for name in names for n in (EMBEDDED if name == "all" else [name])))
    tasks: dict[str, Task] = {}
    for name in wanted:
        if name in EMBEDDED:
            task = load_task(FOLDER / f"{name}.jsonl", name, EMBEDDED[name])
        elif name.endswith(".jsonl") or "/" in name:
            task = load_task(Path(name))
        else:
            raise UsageError(f"no task is named {name!r}: use {', '.join(EMBEDDED)}, all, or a path ending in .jsonl")
        if task.name in tasks:
            raise InputError(f"{name}: a task named {task.name!r} is there already: declare another name in the file")
        tasks[task.name] = task
    return tuple(tasks.values())


def load_task(path: Path, name: str | None = None, grading: Grading = "alias") -> Task:
    """Read one task file; ``InputError`` with file and line for anything that is not as it should be."""
    items: dict[str, Item] = {}
    lines: dict[str, int] = {}
    name = name or path.stem
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        if "task" in row and not lines:
            name, grading = _declaration(row, where, name)
            continue
        item = _item(row, where, grading)
        if item.id in items:
            raise InputError(f"{where}: id {item.id!r} is that of line {lines[item.id]} too: give each item its own")
        items[item.id] = item
        lines[item.id] = number
    if not items:
        raise InputError(f"{path}: has no items: expected one JSON object a line")
    if not NAME.fullmatch(name):
        raise InputError(f"{path}: the task's name is {name!r}, expected letters, digits, '.', '_' and '-'")
    return Task(name, grading, tuple(items.values()))


def _declaration(row: dict[str, Any], where: str, name: str) -> tuple[str, Grading]:
    declared = row["task"]
    if len(row) != 1 or not isinstance(declared, dict) or not set(declared) <= {"name", "grading"}:
        raise InputError(f'{where}: expected {{"task": {{"name": ..., "grading": ...}}}} and nothing else')
    grading = declared.get("grading", "alias")
    if grading not in GRADINGS:
        raise InputError(f"{where}: grading is {grading!r}, expected one of {', '.join(GRADINGS)}")
    return str(declared.get("name", name)), grading


def _item(row: dict[str, Any], where: str, grading: Grading) -> Item:
    unknown = sorted(set(row) - set(Item.__slots__))
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}, expected {', '.join(Item.__slots__)}")
    texts: dict[str, str] = {}
    for key in ("id", "question", "answer", "wrong"):
        value = row.get(key)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: {key!r} is {value!r}, expected text that is not blank")
        texts[key] = value
    lists: dict[str, tuple[str, ...]] = {}
    for key in ("aliases", "wrong_aliases"):
        value = row.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise InputError(f"{where}: {key!r} is {value!r}, expected a list of texts")
        lists[key] = tuple(value)
    item = Item(**texts, **lists)  # type: ignore[arg-type]
    _apart(item, where, grading)
    return item


def _apart(item: Item, where: str, grading: Grading) -> None:
    """Refuse an item whose right and wrong answers can't be told apart, or that has nothing to search for."""

    def forms(texts: Iterable[str]) -> set[tuple[str, ...]]:
        return {tuple(words(text)) for text in texts}

    right = forms((item.answer, *item.aliases))
    both = right & forms((item.wrong, *item.wrong_aliases))
    if both and (grading == "alias" or item.answer == item.wrong):
        raise InputError(f"{where}: {' '.join(min(both))!r} is both a right and a wrong answer: keep it in one")
    if grading == "alias" and () in right | forms((item.wrong, *item.wrong_aliases)):
        raise InputError(f"{where}: an answer has no letter or digit: nothing could be searched for")
