"""What a grade is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GRADES = ("correct", "incorrect", "refusal", "unclear", "unscored")
# Part of every key: raise it when an exact rule changes a grade.
RULES = 4
NO_RULE = "no exact rule"

GradeName = Literal["correct", "incorrect", "refusal", "unclear", "unscored"]
Which = Literal["user", "other"]


@dataclass(frozen=True, slots=True)
class Grade:
    """A grade; ``which`` says whose wrong answer an incorrect one gave: that which the user claims, or another."""

    grade: GradeName
    which: Which | None = None
    reason: str = ""


CORRECT = Grade("correct")
USERS = Grade("incorrect", "user")
OTHERS = Grade("incorrect", "other")
