"""What a run may be about: the measures of margins by name, and which one is named before the first answer."""

from __future__ import annotations

from collections.abc import Collection

from warmeng.common.errors import UsageError, show
from warmeng.study.prompts import ASKINGS, CHOICE, OPEN

# Susceptibility by whose claim it is: the beliefs whose margins are subtracted.
CLAIMS = {
    "susceptibility": ("right", "wrong"),
    "to a mention": ("mention-right", "mention-wrong"),
    "to a friend": ("friend-right", "friend-wrong"),
    "to a denial": ("deny-wrong", "doubt"),
}
RAW, CONTROL = "susceptibility", "to a mention"
MARGIN, KNOWLEDGE, AGREEMENT = "margin", "knowledge", "agreement"
# Measures that may be a run's outcome, by the beliefs that they need.
NEEDS = {
    AGREEMENT: (*CLAIMS[RAW], *CLAIMS[CONTROL]),
    RAW: CLAIMS[RAW],
    KNOWLEDGE: CLAIMS[RAW],
    MARGIN: ("none",),
}
# The outcome of a run that is about right and wrong answers, not about margins.
ERROR_RATES = "error rates"

# What a control belief keeps apart from following the user, by the beliefs that it needs.
CONTROLLED = {
    "mention": CLAIMS["to a mention"],
    "third person": CLAIMS["to a friend"],
    "denial": CLAIMS["to a denial"],
    "unrelated sentence": ("unrelated",),
}


def controls(beliefs: Collection[str], asking: Collection[str]) -> dict[str, bool]:
    """Return the controls of what a claim does, and whether a run asks each: beliefs, and the order-balanced choice."""
    found = {name: set(needed) <= set(beliefs) for name, needed in CONTROLLED.items()}
    return found | {"order-balanced choice": CHOICE in asking}


def outcome_name(measure: str, asking: str) -> str:
    """Return what a measure of an asking style is called as an outcome of a run."""
    return f"{measure} ({asking})"


def outcome_parts(name: str) -> tuple[str, str]:
    """Return measure and asking style of an outcome's name; no style where it has none."""
    measure, _, asking = name.removesuffix(")").partition(" (")
    return measure, asking


def check_outcome(name: str) -> None:
    """Raise ``UsageError`` for a name that is no outcome."""
    styled = [outcome_name(measure, asking) for measure in NEEDS for asking in ASKINGS]
    if name not in (ERROR_RATES, *NEEDS, *styled):
        raise UsageError(
            f"no outcome is named {show(name)}: use {', '.join(NEEDS)}, each with (open) or (choice) after it where "
            f"both are asked, or {ERROR_RATES}"
        )


def primary_outcome(beliefs: Collection[str], asking: Collection[str], named: str | None = None) -> str:
    """Return the one outcome of margins that a run is about; "" where it is about right and wrong answers.

    ``beliefs`` and ``asking``: what the run has margins of. ``named``: what its settings name. Where they name none,
    the rule is fixed, so that nobody chooses it after a look at the answers: of the order-balanced choice where it is
    asked, agreement where its control is asked, else susceptibility, else the margin.

    Raises ``UsageError`` for a named one that the run can't have.
    """
    style = CHOICE if CHOICE in asking else OPEN
    asked = set(beliefs)
    if named is None:
        if not asking:
            return ""
        for measure in (AGREEMENT, RAW):
            if set(NEEDS[measure]) <= asked:
                return outcome_name(measure, style)
        return outcome_name(MARGIN, style) if style == CHOICE and "none" in asked else ""
    if named == ERROR_RATES:
        return ""
    measure, own = outcome_parts(named)
    lacks = [f"the belief {belief}" for belief in NEEDS[measure] if belief not in asked]
    if not asking:
        lacks = ["a task that has a right and a wrong answer"]
    elif own and own not in asking:
        lacks.append(f"the asking style {own}")
    if lacks:
        raise UsageError(f"the outcome {named} needs {', '.join(lacks)}: ask for it, or name another outcome")
    return outcome_name(measure, own or style)
