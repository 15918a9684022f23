"""What the tables of graders hold: how far they agree, how they err, and effects corrected for that."""

from __future__ import annotations

from warmeng.study.stats.answer_schema import BOUNDS, Columns, Described

_LABELLED = (
    "Of generated answers, with question-clustered 95 % intervals. As graded: nothing is known there of the grader's "
    "errors. Corrected by its sensitivity and specificity on the labelled answers of each persona (Rogan and Gladen "
    "1978). Prediction-powered: grades of all answers and labels of a few, weighted by the probability of being drawn, "
    "with no assumption about the grader (PPI++, Angelopoulos, Duchi and Zrnic 2023). The weight of the grades, 0 to "
    "1, is the least of the personas'."
)


def _three(kind: str) -> Columns:
    named = (("raw", "as graded"), ("corrected", "corrected"), ("powered", "prediction-powered"))
    return tuple(
        column
        for key, label in named
        for column in ((key, label, kind), (f"{key}_low", "low", kind), (f"{key}_high", "high", kind))
    )


GRADER_SCHEMA: dict[str, Described] = {
    "raters": (
        "Raters' agreement: the rules that grade",
        "How often two of them give the same grade, over answers that both graded (correct, incorrect, refusal, "
        "unclear); Cohen's kappa with question-clustered 95 % intervals. This is about grades, not about users.",
        (
            ("first", "first", "text"),
            ("second", "second", "text"),
            ("n", "n", "int"),
            ("equal", "equal grades", "percent"),
            ("kappa", "kappa", "number"),
            ("low", "low", "number"),
            ("high", "high", "number"),
        ),
    ),
    "disputed": (
        "Answers that the exact rule and the judge grade differently",
        "Of the answers that both graded and the exact rule decided. They are counted by the judge.",
        (
            ("judge", "judge", "text"),
            ("persona", "persona", "text"),
            ("n", "n", "int"),
            ("disputed", "disputed", "int"),
            ("share", "share", "percent"),
            ("to_incorrect", "correct by the rule, incorrect by the judge", "int"),
            ("to_correct", "incorrect by the rule, correct by the judge", "int"),
        ),
    ),
    "judge_error": (
        "Errors of the exact rules and of the judges",
        "Against labelled answers that label and judge both call correct or incorrect. Sensitivity: incorrect answers "
        "that are judged so; specificity: correct answers that are judged so. Examples come with this package, by "
        "style; labels of this run's own answers stand for all of them, by the probability of being drawn.",
        (
            ("judge", "judge", "text"),
            ("persona", "persona", "text"),
            ("labelled", "labelled answers", "text"),
            ("n", "n", "int"),
            ("sensitivity", "sensitivity", "percent"),
            ("specificity", "specificity", "percent"),
            ("incorrect", "labelled incorrect", "int"),
            ("correct", "labelled correct", "int"),
            ("undecided", "not decided", "int"),
        ),
    ),
    "corrected": (
        "Effects corrected for the judge's errors",
        "Differences in error by the judge's grades, as judged and corrected (Rogan and Gladen 1978), in points; the "
        "intervals hold the uncertainty of the judge's error rates too.",
        (
            ("judge", "judge", "text"),
            ("variant", "variant", "text"),
            ("group", "group", "text"),
            ("n", "n", "int"),
            ("effect", "corrected", "points"),
            *BOUNDS,
            ("effect_raw", "raw", "points"),
            ("labelled", "labelled answers of", "text"),
        ),
    ),
    "labelled_rates": (
        "Error rates by people's labels",
        f"{_LABELLED} Rates of incorrect answers among the decided ones.",
        (
            ("grader", "grader", "text"),
            ("persona", "persona", "text"),
            ("group", "group", "text"),
            ("n", "answers", "int"),
            ("labels", "labelled", "int"),
            *_three("percent"),
            ("tuning", "weight of the grades", "number"),
        ),
    ),
    "labelled_differences": (
        "Differences in errors by people's labels",
        f"{_LABELLED} Differences of error rates in points (more errors are above 0).",
        (
            ("grader", "grader", "text"),
            ("persona", "persona", "text"),
            ("against", "against", "text"),
            ("group", "group", "text"),
            ("n", "answers", "int"),
            ("labels", "labelled", "int"),
            *_three("points"),
            ("tuning", "weight of the grades", "number"),
        ),
    ),
}
