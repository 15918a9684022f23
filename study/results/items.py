"""``items.jsonl`` of a run folder: the questions as they were asked, so that reports and exports need nothing else.

A line is one item: ``task``, ``grading``, ``layout``, the fields of ``Item`` by their names, and ``statements``, the
item's own by context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from warmeng.common.errors import InputError, one_line, show
from warmeng.common.files import read_jsonl, replacing
from warmeng.study.contexts import UNMODIFIED, statement_for
from warmeng.study.prompts import COMPOSITIONS
from warmeng.study.tasks.task import Item, Prompt, Task

if TYPE_CHECKING:
    from warmeng.study.plan import Study

FILE = "items.jsonl"
KNOWN = {f.name for f in fields(Item)} - {"prompts"}


@dataclass(frozen=True, slots=True)
class Asked:
    """An item as a run asked it. Where the run folder has no ``items.jsonl``, all texts are empty."""

    task: Task  # without its items
    item: Item
    statements: Mapping[str, str] = field(default_factory=dict)  # by context; ``unmodified`` has none

    @classmethod
    def unknown(cls, task: str, item: str) -> Asked:
        """Return an item of which only the id is known."""
        return cls(Task(task, "alias", ()), Item(item, "", "", ""))

    def fixed(self, context: str, belief: str, framing: str) -> str:
        """Return the user message that the source fixes for this place, or nothing."""
        place = (context, belief, framing)
        return next((p.text for p in self.item.prompts if (p.context, p.belief, p.framing) == place), "")

    def message(self, composition: str, context: str, belief: str, framing: str) -> str:
        """Return the user's message: the source's where it fixes one, else as the composition puts it together.

        Raises ``InputError`` for a composition, context, belief or framing that the run's files know nothing of.
        """
        if self.item.prompts:
            return self.fixed(context, belief, framing)
        contexts = {UNMODIFIED: ()} | {name: (text,) for name, text in self.statements.items()}
        try:
            return COMPOSITIONS[composition](self.task, self.item, context, belief, framing, contexts)
        except KeyError as error:
            what = f"item {show(self.item.id, 40)} of task {show(self.task.name, 40)}"
            raise InputError(f"{what} was asked with {one_line(error)}, which {FILE} does not know") from None


def write_items(folder: Path, study: Study) -> Path:
    """Write a study's items atomically, one at a time so that memory stays bounded. Raises ``OSError``."""
    path = folder / FILE
    with replacing(path) as beside, beside.open("wb") as file:
        for task in study.tasks:
            for item in task.items:
                told = {name: statement_for(item.id, name, found) for name, found in study.contexts.items()}
                line: dict[str, Any] = {"task": task.name, "grading": task.grading, "layout": task.layout}
                line |= asdict(item) | {"statements": {name: text for name, text in told.items() if text}}
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    return path


def read_items(folder: Path) -> dict[tuple[str, str], Asked]:
    """Return a run's items by task and id; none where the folder has no such file. ``InputError`` for a bad line."""
    path = folder / FILE
    if not path.exists():
        return {}
    found: dict[tuple[str, str], Asked] = {}
    tasks: dict[str, Task] = {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        try:
            values: dict[str, Any] = {
                key: tuple(v) if isinstance(v, list) else v for key, v in row.items() if key in KNOWN
            }
            prompts = tuple(Prompt(**prompt) for prompt in row.get("prompts") or ())
            item = Item(**values, prompts=prompts)
            name = row["task"]
            task = tasks.setdefault(name, Task(name, row["grading"], (), row["layout"]))
            asked = Asked(task, item, dict(row.get("statements") or {}))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: is not an item of a run ({error}): continue the run to write it again"
            ) from None
        if (name, item.id) in found:
            raise InputError(f"{where}: item {item.id!r} of task {name!r} is there twice: expected it once")
        found[name, item.id] = asked
    return found
