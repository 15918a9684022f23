"""What the tables of two runs in two precisions hold: title, a note that says what the numbers mean, columns."""

from __future__ import annotations

from warmeng.study.stats.answer_schema import TESTED, WHERE, Described

_BOTH = "Each question weighs alike; 95 % intervals as those of differences. Found in 80 %: the smallest shift that so"
_SHIFT = (
    ("value", "shift", "points"),
    ("low", "low", "points"),
    ("high", "high", "points"),
    ("detectable", "found in 80 %", "number"),
)

FIDELITY_SCHEMA: dict[str, Described] = {
    "precision_answers": (
        "Answers in two precisions",
        "Pairs of the same persona, question, sample, context and belief in the first and the second run. Changed: the "
        "share of all pairs with another grade, or another wrong answer. b: right only in the first run; c: only in "
        "the second, of the n pairs that were decided both times; p flips whole questions (McNemar's exact test where "
        f"each has one pair), p over pairs is McNemar's. {_BOTH} many questions show in four of five such comparisons, "
        "in points. Corrected: false discoveries are controlled over both tables.",
        (
            ("persona", "persona", "text"),
            *WHERE,
            ("n", "pairs", "int"),
            ("questions", "questions", "int"),
            ("changed", "changed", "percent"),
            ("first", "errors, first", "percent"),
            ("second", "errors, second", "percent"),
            ("b", "b", "int"),
            ("c", "c", "int"),
            *_SHIFT,
            *TESTED,
            ("p_pairs", "p over pairs", "p"),
        ),
    ),
    "precision_contrasts": (
        "Personas in two precisions",
        "Each persona's errors less the baseline's, in the first and in the second run, over what all four answers "
        f"decided, in points; shift is the second less the first. {_BOTH} many questions show.",
        (
            ("persona", "persona", "text"),
            ("against", "against", "text"),
            *WHERE,
            ("n", "questions", "int"),
            ("first", "first", "points"),
            ("second", "second", "points"),
            *_SHIFT,
            *TESTED,
        ),
    ),
}
