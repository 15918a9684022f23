"""The authors' prompt files, CSV or JSON lines: every user message is used as it is.

Rows of one question become one item with ``prompts``. Their ``prompt_template`` (MedQA: ``prompt_type``) is our belief
and framing, their ``amendment_type`` our context. An answer "None" was lost where the authors' software read it as
missing: it is taken from the prompts, or is "None", and the item is marked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from warmeng.common.errors import InputError, show
from warmeng.study.tasks.rows import Row, read_rows, text
from warmeng.study.tasks.task import Item, Prompt

PLACES = {  # their name -> belief, framing
    "original": ("none", "plain"),
    "original_neutral": ("none", "neutral"),
    "incorrect": ("wrong", "plain"),
    "correct": ("doubt", "plain"),
}
RESTORED = "answer restored"
LOST = "None"
DENIED = re.compile(r"I don't think the answer is (.+?)(?:, but I'm really not sure)?\.?$", re.DOTALL)
CLAIMED = re.compile(r"I think the answer is (.+?)(?: but I'm really not sure)?\.?$", re.DOTALL)
CONTEXT = re.compile(r"[a-z_]+(:[a-z_]+)?")


def kind(columns: frozenset[str]) -> str:
    """Return the layout of the questions by a file's columns; trivia's and TruthfulQA's are alike: ``triviaqa``."""
    if "prompt_disinfo" in columns:
        return "disinfo"
    return "medqa" if "original_question" in columns else "triviaqa"


def read(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield (line of its first row, item); ``InputError`` with file and line."""
    found: dict[tuple[str, int], tuple[int, Item]] = {}
    for line, row in read_rows(path):
        item, prompt = _row(row, f"{path}:{line}")
        name, copy = item.original or item.question, 0
        # A question whose place is taken by another message is asked of another item.
        while True:
            if (name, copy) not in found:
                found[name, copy] = (line, item)
            first, had = found[name, copy]
            same = [p for p in had.prompts if (p.context, p.belief, p.framing) == prompt_place(prompt)]
            if not same:
                found[name, copy] = (first, _merged(had, item, prompt))
            if not same or same[0].text == prompt.text:
                break
            copy += 1
    for line, item in found.values():
        yield line, _restored(item)


def prompt_place(prompt: Prompt) -> tuple[str, str, str]:
    """Return context, belief and framing."""
    return prompt.context, prompt.belief, prompt.framing


def _row(row: Row, where: str) -> tuple[Item, Prompt]:
    template = row.get("prompt_template", row.get("prompt_type"))
    if not isinstance(template, str) or template not in PLACES:
        raise InputError(f"{where}: the prompt's template is {show(template)}, expected one of {', '.join(PLACES)}")
    context = text(row, "amendment_type", where)
    if not CONTEXT.fullmatch(context):
        raise InputError(f"{where}: 'amendment_type' is {show(context)}, expected a context such as emotion:sad")
    prompt = Prompt(context, *PLACES[template], text(row, "prompt", where))
    if "prompt_disinfo" in row:
        keys = ("prompt_disinfo", "ground_truth", "ground_false")
    elif "original_question" in row:
        keys = ("question", "answer", "wrong_answer")
    else:
        keys = ("content_key", "correct_answer", "incorrect_answer")
    answer, wrong = (_answer(row, key, where) for key in keys[1:])
    original = text(row, "original_question", where) if "original_question" in row else ""
    return Item("", text(row, keys[0], where), answer, wrong, original=original), prompt


def _answer(row: Row, key: str, where: str) -> str:
    return "" if row.get(key, "") is None else text(row, key, where, blank=True).strip()


def _merged(had: Item, item: Item, prompt: Prompt) -> Item:
    return replace(had, answer=had.answer or item.answer, wrong=had.wrong or item.wrong, prompts=(*had.prompts, prompt))


def _restored(item: Item) -> Item:
    """Put back an answer that the file lost."""
    answer = item.answer or _said(item, "doubt", DENIED)
    wrong = item.wrong or _said(item, "wrong", CLAIMED)
    marks = (RESTORED,) if (answer, wrong) != (item.answer, item.wrong) else ()
    return replace(item, answer=answer, wrong=wrong, marks=marks)


def _said(item: Item, belief: str, pattern: re.Pattern[str]) -> str:
    for prompt in item.prompts:
        match = pattern.search(prompt.text) if prompt.belief == belief else None
        if match:
            return match[1]
    return LOST
