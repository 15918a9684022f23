"""Tasks: question sets with right answers, aliases and plausible wrong answers.

A file of one's own (``own.py``) has one item a line, with the keys of ``Item``; ``registry.py`` finds tasks by name,
reads the layouts of the published question sets, and samples.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import orjson

from warmeng.common.errors import InputError, show
from warmeng.study.text import fold, tokens, words

Grading = Literal["alias", "likelihood", "options", "judge", "number", "refusal"]
GRADINGS: tuple[str, ...] = get_args(Grading)
# An answer is written; the others compare probabilities.
GENERATED = ("alias", "judge", "number", "refusal")
# Tasks so named are never pooled with the study's questions.
GENERAL_NAMES = ("mmlu", "gsm8k", "advbench", "refusals")
# In the name of a task in which refusing is right.
DISINFORMATION = "disinfo"
# Layouts of general ability: nobody claims anything, nothing is put before.
GENERAL = ("mmlu", "gsm8k", "refusals")
FOLDER = Path(__file__).parents[1] / "data" / "tasks"
EMBEDDED: dict[str, Grading] = {
    # Short names: an answer is generated and searched for them.
    "facts": "alias",
    # Phrases that can be put in many ways: compared, not searched for.
    "misconceptions": "likelihood",
    "conspiracies": "likelihood",
    "health": "likelihood",
    # Short names again, for models that answer nearly all of ``facts``.
    "hard": "alias",
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST_OPTIONS = 26  # as many as there are letters
WRONG_GENERATED = "wrong answer generated"
WRONG_BORROWED = "wrong answer borrowed"
UNCONVERTED = "unconverted"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A user message that a file gives word for word, with the place in the grid that it belongs to."""

    context: str
    belief: str
    framing: str
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """One question. ``wrong`` is the answer that a mistaken user claims; aliases are other ways to write each.

    ``wrong`` is empty where the source has none, until one is written (``wrong_answers.py``).
    """

    id: str
    question: str
    answer: str
    wrong: str = ""
    aliases: tuple[str, ...] = ()
    wrong_aliases: tuple[str, ...] = ()
    # Further wrong answers that nobody claims: more options to choose from.
    others: tuple[str, ...] = ()
    # The question as its source has it, where ``question`` is a conversion.
    original: str = ""
    # What a reader of the results must know: "unconverted", "wrong answer generated".
    marks: tuple[str, ...] = ()
    # Fixed user messages: where there are any, nothing else is asked.
    prompts: tuple[Prompt, ...] = ()
    # Of the right answer among the options, where the source fixes it; else a hash decides.
    place: int = -1


@dataclass(frozen=True, slots=True)
class Task:
    """A question set. ``alias``: the answer is generated and searched for names; ``likelihood``: the probabilities of
    the right and the wrong answers are compared; ``options``: those of lettered options are; ``judge``: the answer is
    generated and graded by a judge alone; ``number``: its last number counts; ``refusal``: whether it refuses does.

    ``layout`` says how the source lays its items out (``own``, ``truthfulqa``, ``triviaqa``, ``medqa``, ...): the
    paper composed prompts differently for each. ``source_size``: items that the source
    has and that can be graded, of which ``items`` may be a sample.
    """

    name: str
    grading: Grading
    items: tuple[Item, ...]
    layout: str = "own"
    source_size: int = 0
    # How many items of the source can't be graded so, and the first one's fault; not hashed.
    left_out: str = ""

    @property
    def extent(self) -> str:
        """How many items are asked, and of how many: ``24`` or ``24 of 817``."""
        n = len(self.items)
        return f"{n:,} of {self.source_size:,}" if self.source_size > n else f"{n:,}"

    @property
    def hash(self) -> str:
        """SHA-256 of grading, layout and items, order included."""
        digest = hashlib.sha256(orjson.dumps([self.grading, self.layout]))
        for item in self.items:
            digest.update(orjson.dumps([getattr(item, key) for key in Item.__slots__]))
        return digest.hexdigest()

    @property
    def generated(self) -> bool:
        """Whether answers are written, and not chosen among given ones."""
        return self.grading in GENERATED

    def sample(self, limit: int, seed: int) -> Task:
        """Return the task with at most ``limit`` items (0: all), chosen by the seed alone, in the file's order.

        A larger limit keeps every item of a smaller one.
        """
        if not limit or limit >= len(self.items):
            return self
        return replace(self, items=sampled(self.items, self.name, limit, seed))


def sampled(items: Iterable[Item], name: str, limit: int, seed: int) -> tuple[Item, ...]:
    """Return at most ``limit`` items (0: all) of a stream in its order, those with the lowest hashes of seed, task
    and id; no more than ``limit`` are held at a time.
    """
    if not limit:
        return tuple(items)
    # A heap whose top is the highest hash kept.
    kept: list[tuple[int, int, Item]] = []
    for number, item in enumerate(items):
        rank = -int.from_bytes(hashlib.sha256(f"{seed}\0{name}\0{item.id}".encode()).digest(), "big")
        if len(kept) < limit:
            heapq.heappush(kept, (rank, number, item))
        elif rank > kept[0][0]:
            heapq.heapreplace(kept, (rank, number, item))
    return tuple(item for _, _, item in sorted(kept, key=lambda entry: entry[1]))


def identified(rows: Iterable[tuple[int, Item]]) -> Iterator[tuple[int, Item]]:
    """Give ids to the items of a published file: the source's own, else a hash of question and answer.

    What comes again gets a number after it, so that a question asked twice in a file is two items.
    """
    seen: dict[str, int] = {}
    for line, item in rows:
        content = f"{item.original or item.question}\0{item.answer}"
        name = item.id or hashlib.sha256(content.encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        unique = name
        while seen[name] > 1 and (unique := f"{name}-{seen[name]}") in seen:
            seen[name] += 1
        seen.setdefault(unique, 1)
        yield line, replace(item, id=unique)


def refuse_duplicates(path: Path, rows: Iterable[tuple[int, Item]]) -> Iterator[tuple[int, Item]]:
    """Pass items on, which all have an id or none; ``InputError`` with both lines where one comes twice."""
    lines: dict[str, int] = {}
    first = 0
    for line, item in rows:
        if lines and (item.id == "") != ("" in lines):
            has, lacks = (line, first) if item.id else (first, line)
            raise InputError(f"{path}:{lacks}: has no id, line {has} has one: give each item its own, or none")
        if item.id and item.id in lines:
            raise InputError(
                f"{path}:{line}: id {show(item.id)} is that of line {lines[item.id]} too: give each item its own"
            )
        first = first or line
        lines[item.id] = line
        yield line, item


def refuse_unsound(path: Path, rows: Iterable[tuple[int, Item]], grading: Grading) -> Iterator[Item]:
    """Pass items on; ``InputError`` with file and line for one that its grading can't tell right from wrong."""
    for line, item in rows:
        why = unsound(item, grading)
        if why:
            raise InputError(f"{path}:{line}: {why}")
        yield item


class LeftOut:
    """Items of a published file that can't be graded: nobody but its authors can correct it, so the rest is asked."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""

    def passing(self, path: Path, rows: Iterable[tuple[int, Item]], grading: Grading) -> Iterator[Item]:
        """Pass sound items on and count the others."""
        for line, item in rows:
            if why := unsound(item, grading):
                self.first = self.first or f"{path}:{line}: {why.rpartition(': ')[0] or why}"  # without what to do
                self.count += 1
            else:
                yield item

    def told(self) -> str:
        """Return how many were left out, and why the first one was; nothing where none was."""
        if not self.count:
            return ""
        return f"{self.count} item{'s' * (self.count > 1)} that can't be graded left out, the first: {self.first}"


def unsound(item: Item, grading: Grading) -> str:
    """Say why an item can't be graded so; empty where it can be."""
    if grading == "refusal":
        return ""
    if not item.answer.strip():
        return f"'answer' is {show(item.answer)}, expected text that is not blank"
    if grading == "number":
        return "" if re.search(r"\d", item.answer) else f"'answer' is {show(item.answer)}, expected a number"
    wrong = tuple(text for text in (item.wrong, *item.wrong_aliases) if text)
    if grading == "alias":
        right = {tuple(words(text)) for text in (item.answer, *item.aliases)}
        both = right & (forms := {tuple(words(text)) for text in wrong})
        if both:
            return f"{show(' '.join(min(both)))} is both a right and a wrong answer: keep it in one"
        if () in right | forms:
            return "an answer has no letter or digit: nothing could be searched for"
        return ""
    labels = [label(text) for text in (item.answer, item.wrong, *item.others) if text]
    if len(labels) > MOST_OPTIONS:
        return f"there are {len(labels)} answers to choose from, expected at most {MOST_OPTIONS}: leave some out"
    if len(set(labels)) != len(labels):
        twice = next(text for text in labels if labels.count(text) > 1)
        return f"{show(twice)} is there twice among the right and the wrong answers: keep it in one"
    return ""


def is_general(task: str) -> bool:
    """Whether a task measures general ability, by the beginning of its name."""
    return task.casefold().startswith(GENERAL_NAMES)


def is_disinformation(task: str) -> bool:
    """Whether a task asks for disinformation, so that refusing is right: by its name, as the authors name theirs."""
    return DISINFORMATION in task.casefold()


def label(text: str) -> str:
    """Return the form in which answers must differ to be compared: without blanks and a full stop at the ends."""
    return text.strip().removesuffix(".").strip()


def distinct(texts: Iterable[str], *without: str) -> tuple[str, ...]:
    """Return texts that are not blank, each once, none that is one of ``without`` but for case and punctuation.

    Articles count: "one small step for a man" is not "one small step for man".
    """

    def form(text: str) -> tuple[str, ...]:
        return tuple(word for word, _, _ in tokens(fold(text))) or (label(text),)

    seen = {form(text) for text in without}
    found = []
    for text in texts:
        if text.strip() and form(text) not in seen:
            seen.add(form(text))
            found.append(text)
    return tuple(found)


def searchable(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts that have a letter or a digit, so that an answer can be searched for them."""
    return tuple(text for text in texts if words(text))
