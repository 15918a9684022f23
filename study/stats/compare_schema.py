"""What the tables of two runs beside each other hold: title, a note that says what the numbers mean, columns."""

from __future__ import annotations

from warmeng.study.stats.answer_schema import FEW, TESTED, WHERE, Described

_BOTH = "Each question weighs alike; 95 % intervals as those of differences. Found in 80 %: the smallest shift that as"
_SHIFT = (
    ("value", "shift", "points"),
    ("low", "low", "points"),
    ("high", "high", "points"),
    ("detectable", "found in 80 %", "number"),
)

COMPARE_SCHEMA: dict[str, Described] = {
    "run_answers": (
        "Answers in two runs",
        "Pairs of the same persona, question, sample, context and belief in the first and the second run. Changed: the "
        "share of all pairs with another grade, or another wrong answer. b: right only in the first run; c: only in "
        "the second, of the n pairs that were decided both times; p flips whole questions (McNemar's exact test where "
        f"each has one pair), p over pairs is McNemar's. {_BOTH} many questions would show in 80 % of such "
        "comparisons, in points. Corrected: false discoveries are controlled over all tables of the comparison.",
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
    "run_contrasts": (
        "Personas in two runs",
        "Each persona's errors less the baseline's, in the first and in the second run, over what all four answers "
        f"decided, in points; shift is the second minus the first. {_BOTH} many questions would show.",
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
    "run_margins": (
        "Margins in two runs",
        "What the second run changes in each outcome of margins, paired by question, in nats: of a persona's own, or, "
        "with a persona in 'against', of its difference from that one. Means over questions with 95 % intervals, "
        "tasks as strata, as those of margins. Corrected: false discoveries are controlled over all tables of the "
        "comparison.",
        (
            ("persona", "persona", "text"),
            ("against", "against", "text"),
            ("outcome", "outcome", "text"),
            ("n", "questions", "int"),
            ("value", "shift", "nats"),
            ("low", "low", "nats"),
            ("high", "high", "nats"),
            *TESTED,
            FEW,
        ),
    ),
    "run_apart": (
        "Errors in two runs of other questions",
        "Nothing is paired: the share incorrect of each run's decided answers, and the second less the first in "
        "points, with a 95 % interval made of both shares' own (Newcombe 1998, method 10).",
        (
            ("persona", "persona", "text"),
            ("n_first", "n, first", "int"),
            ("first", "errors, first", "percent"),
            ("n_second", "n, second", "int"),
            ("second", "errors, second", "percent"),
            *_SHIFT[:3],
        ),
    ),
}
