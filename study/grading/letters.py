"""Grades of lettered options that a model behind an API was asked: by likeliest tokens, or by the letter it writes."""

from __future__ import annotations

import math
import re

from warmeng.remote.request import ChatResult
from warmeng.study.grading.grade import Grade
from warmeng.study.grading.labels import MIN_MASS, choices, decided, label_names
from warmeng.study.prompts import LETTERS, ordered
from warmeng.study.tasks.task import Item

_FIRST = re.compile(
    r"\W*(?:(?:the )?(?:\w+ )?(?:answer|option|letter)(?: is)?\b:?)?[\s\"'*(]*([A-Z])(?![A-Za-z0-9'’])", re.I
)
# "A lot", "I think".
_WORD = re.compile(r"[AI]\s+(?!is\b)[a-z]")
_NAMED = re.compile(r"(?<![A-Za-z0-9'’])([A-Z])[).:](?!\w)")


def grade_told(item: Item, result: ChatResult) -> tuple[Grade, dict[str, float | None]]:
    """Grade by the letters' probabilities among the likeliest tokens; also return the numbers for the record.

    A letter that is not among them has no number (``None``) and is less likely than those that are. Less than
    ``MIN_MASS`` on all letters together is unscored.
    """
    if result.status != "ok":
        return Grade("unscored", reason=result.status), {}
    names = label_names(item)
    shown = ordered(item)
    told = [result.logprobs[shown.index(text.strip())] for text in choices(item)]
    numbers: dict[str, float | None] = {**dict(zip(names, told, strict=True)), "mass": result.mass}
    if result.mass < MIN_MASS:
        return Grade("unscored", reason=f"label mass below {MIN_MASS}"), numbers
    return decided(names, [-math.inf if value is None else value for value in told]), numbers


def grade_letter(item: Item, result: ChatResult) -> Grade:
    """Grade a written answer by the option's letter that it begins with; ``unclear`` where that is not plain."""
    if result.status != "ok":
        return Grade("unscored", reason=result.status)
    shown = ordered(item)
    place = letter_place(result.text, len(shown))
    if place is None:
        reason = "cut at the token limit before an answer" if result.finish_reason == "length" else "no option is named"
        return Grade("unclear", reason=reason)
    texts = [text.strip() for text in choices(item)]
    scores = [float(text == shown[place]) for text in texts]
    return decided(label_names(item), scores)


def letter_place(text: str, count: int) -> int | None:
    """Return the place of the option that a text chooses, of so many; ``None`` where it names none, or several."""
    found = _FIRST.match(text)
    if found is None or not found[1].isupper() or _WORD.match(text[found.start(1) :]):
        return None
    place = LETTERS.index(found[1])
    others = {LETTERS.index(letter) for letter in _NAMED.findall(text)} - {place}
    return place if place < count and not any(other < count for other in others) else None
