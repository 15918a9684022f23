"""Wrong answers where the source has none: written by the model that is measured, under a constraint, or borrowed.

A written one is a short line that holds neither the right answer nor an alias. After three tries the right answer of
another item is borrowed, of the same kind where that can be told: one asked for in the same words, or of the same
shape. Either is marked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from warmeng.common.errors import InputError
from warmeng.engine.request import Constraint, GenerateRequest, GenerateResult, SamplingParams
from warmeng.study.tasks.task import WRONG_BORROWED, WRONG_GENERATED, Item, Task
from warmeng.study.text import words

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine

TRIES = 3
WORD = r"[A-Za-z0-9À-ɏ][A-Za-z0-9À-ɏ,'&-]{0,18}"
MOST = 6  # words of a written answer
LINE = Constraint("regex", rf" {WORD}( {WORD}){{0,{MOST - 1}}}")
TOKENS = 32
TEMPERATURE = 0.7  # tries after the first must differ
ASK = (
    "A quiz needs a wrong answer that many people would believe.\nQuestion: {question}\nRight answer: {answer}\n"
    "Write one of the same kind as the right one: a few words, no explanation."
)
LEAD = "Wrong answer:"
EXAMPLES = (
    ("Which planet is closest to the Sun?", "Mercury", "Venus"),
    ("Who painted the ceiling of the Sistine Chapel?", "Michelangelo", "Leonardo da Vinci"),
    ("What is the capital of Canada?", "Ottawa", "Toronto"),
)
ABOUT = frozenset(
    ["answer", "question", "right", "wrong", "correct", "incorrect", "claim", "claimed", "original", "kind", "believe"]
)
# Of the request and the checks: raise it when either changes.
VERSION = 1


def missing(task: Task) -> tuple[Item, ...]:
    """Return the items that have no wrong answer; none where user messages are fixed."""
    return tuple(item for item in task.items if not item.wrong and not item.prompts)


def fill_wrong(task: Task, engine: Engine) -> Task:
    """Return the task with a wrong answer in every item that lacks one: written by the engine, else borrowed."""
    keys = {item.id: _key(task, item, engine) for item in missing(task)}
    left = {keys[item.id]: item for item in missing(task)}
    written: dict[str, str] = {}
    for attempt in range(TRIES):
        asked = {key: item for key, item in left.items() if key not in written}
        if not asked:
            break
        for key, item in asked.items():
            engine.add(_request(task, key, item, engine, attempt))
        for result in engine.results():
            text = _cleaned(result.text) if isinstance(result, GenerateResult) and result.status == "ok" else ""
            if text and not overlaps(text, asked[result.id]) and _answers(text, asked[result.id]):
                written[result.id] = text
    return _with(task, {name: (written[key], WRONG_GENERATED) for name, key in keys.items() if key in written})


def borrowed(task: Task) -> Task:
    """Return the task with every missing wrong answer borrowed: for a plan's lengths, where no model is loaded."""
    return _with(task, {})


def overlaps(text: str, item: Item) -> bool:
    """Whether a text holds a right answer, or one holds it, after normalisation."""
    mine = words(text)
    if not mine:
        return True
    return any(_inside(theirs, mine) or _inside(mine, theirs) for theirs in map(words, (item.answer, *item.aliases)))


def _answers(text: str, item: Item) -> bool:
    """Whether a text looks like an answer: about as long as the right one, not about the task, not the question again,
    and no beginning of a right one.
    """
    mine, right, asked = words(text), words(item.answer), set(words(item.question))
    if len(mine) > max(3, len(right) + 2) or ABOUT & set(mine) - asked - set(right):
        return False
    again = [word for word in mine if word in asked and word not in right]
    shared = [word for word in mine if word in right]
    return 2 * len(again) < len(mine) and not (len(right) > 1 and 2 * len(shared) > len(mine))


def _inside(few: Sequence[str], many: Sequence[str]) -> bool:
    return bool(few) and any(many[k : k + len(few)] == few for k in range(len(many) - len(few) + 1))


def _with(task: Task, found: Mapping[str, tuple[str, str]]) -> Task:
    lent = _Lender(task.items)
    items = []
    for item in task.items:
        if not item.wrong and not item.prompts:
            wrong, mark = found.get(item.id) or (lent.to(item), WRONG_BORROWED)
            if not wrong:
                raise InputError(
                    f"{task.name}: item {item.id!r} has no wrong answer, none could be written, and no other item has "
                    "an answer to borrow: write one into the file"
                )
            item = replace(item, wrong=wrong, marks=(*item.marks, mark))
        items.append(item)
    return replace(task, items=tuple(items))


class _Lender:
    """Right answers by what is asked and by shape, in an order fixed by a hash of the borrowing item."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.groups: dict[object, list[int]] = {}
        for k, item in enumerate(items):
            for kind in self._kinds(item):
                self.groups.setdefault(kind, []).append(k)

    @staticmethod
    def _kinds(item: Item) -> tuple[object, ...]:
        found = words(item.answer)
        shape = "number" if found and all(w.isdigit() for w in found) else ("words", len(found))
        question = words(item.question)
        asked, framed = tuple(question[:3]), (*question[:2], *question[-1:])
        return (("both", asked, shape), ("asked", asked), ("framed", framed), ("shape", shape), "any")

    def to(self, item: Item) -> str:
        """Return an answer for an item that is neither right for it nor holds or is held by what is."""
        for kind in self._kinds(item):
            group = self.groups[kind]
            start = int.from_bytes(hashlib.sha256(f"borrow\0{item.id}".encode()).digest()[:8], "big") % len(group)
            for k in range(len(group)):
                other = self.items[group[(start + k) % len(group)]]
                if other.id != item.id and not overlaps(other.answer, item) and other.answer not in item.others:
                    return other.answer
        return ""


def _key(task: Task, item: Item, engine: Engine) -> str:
    made_by = [engine.describe().get("weights"), engine.tokenizer.template_hash, VERSION]
    return hashlib.sha256(orjson.dumps([made_by, task.name, item.question, item.answer, item.aliases])).hexdigest()[:32]


def _request(task: Task, key: str, item: Item, engine: Engine, attempt: int) -> GenerateRequest:
    talk: list[dict[str, str]] = []
    for question, answer, wrong in (*EXAMPLES, (item.question.strip(), item.answer.strip(), "")):
        talk.append({"role": "user", "content": ASK.format(question=question, answer=answer)})
        if wrong:
            talk.append({"role": "assistant", "content": f"{LEAD} {wrong}"})
    prompt = engine.tokenizer.chat(talk, True, LEAD)
    sampling = SamplingParams(TOKENS, TEMPERATURE if attempt else 0.0, seed=attempt)
    noise = (f"wrong/{task.name}/{item.id}", attempt)
    return GenerateRequest(key, tuple(prompt), sampling, noise_key=noise, constraint=LINE)


def _cleaned(text: str) -> str:
    return " ".join(text.split()).rstrip(" ,'&-")
