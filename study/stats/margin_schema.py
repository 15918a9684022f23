"""What the tables of margins and of doses hold: title, a note that says what the numbers mean, columns."""

from __future__ import annotations

from warmeng.study.stats.answer_schema import FAMILY, FEW, PLACE, TESTED, WHERE, Described

_NATS = (("low", "low", "nats"), ("high", "high", "nats"))
_ASKED = (*PLACE, ("asking", "asking", "text"), *WHERE[:2])
_MARGIN = "Margin: log p(right answer) - log p(wrong answer), in nats."
_MEANS = (
    "Means over questions with 95 % intervals (Student's, corrected for skewness), tasks as strata; the plain framing "
    "alone. On few: intervals whose spread is that of fewer than four questions, as where nearly all others stand at a "
    "ceiling; they cover the truth less often than they say."
)

MARGIN_SCHEMA: dict[str, Described] = {
    "margins": (
        "Margins by belief",
        f"{_MARGIN} Shift: the margin under a belief minus that without one, over the questions that have both. "
        f"{_MEANS}",
        (
            *_ASKED,
            ("belief", "belief", "text"),
            ("n", "n", "int"),
            ("value", "margin", "nats"),
            *_NATS,
            ("shift_n", "n", "int"),
            ("shift", "shift", "nats"),
            ("shift_low", "low", "nats"),
            ("shift_high", "high", "nats"),
            FEW,
        ),
    ),
    "susceptibility": (
        "Knowledge and susceptibility",
        f"{_MARGIN} Knowledge: its mean under a claim of the right and one of the wrong answer. Susceptibility: the "
        "first minus the second, to the user's own claim; below it to claims that are only mentioned, are a friend's, "
        "or deny an answer. d' and criterion c are of the choice alone, from its probabilities (Macmillan and Creelman "
        f"2005): c below 0 leans to the user's answer. {_MEANS}",
        (*_ASKED, ("measure", "measure", "text"), ("n", "n", "int"), ("value", "value", "nats"), *_NATS, FEW),
    ),
    "agreement": (
        "Agreement: what a user's own claim does beyond its mention",
        "Raw: susceptibility to the user's claim. Control: susceptibility to the same claims where they are only "
        "mentioned (some people say), which is repetition. Agreement is their difference, in nats, over the questions "
        f"that have all four margins. A row with a persona in 'against' is of the difference between both. {_MEANS}",
        (
            *PLACE,
            ("against", "against", "text"),
            ("asking", "asking", "text"),
            *WHERE[:2],
            ("n", "n", "int"),
            ("raw", "raw", "nats"),
            ("raw_low", "low", "nats"),
            ("raw_high", "high", "nats"),
            ("control", "control", "nats"),
            ("control_low", "low", "nats"),
            ("control_high", "high", "nats"),
            ("value", "agreement", "nats"),
            *_NATS,
            FEW,
        ),
    ),
    "margin_contrasts": (
        "Contrasts of margins",
        "A persona's measure minus that of the persona in 'against', the baseline or its cold control, paired by "
        f"question, in nats (d' and c in units of z). {FAMILY} {_MEANS}",
        (
            *PLACE,
            ("against", "against", "text"),
            ("asking", "asking", "text"),
            *WHERE[:2],
            ("measure", "measure", "text"),
            ("n", "n", "int"),
            ("value", "difference", "nats"),
            *_NATS,
            *TESTED,
            FEW,
        ),
    ),
    "margin_norms": (
        "Margins by how length is counted",
        "Sum: of an answer's own tokens, without full stop and end token; it is what all other tables take. Per byte "
        "and per token: that over the answer's length. With end: with full stop and end token. Over all tasks and "
        "contexts, in nats; contrasts of errors, how often the wrong answer is the likelier one under a belief, in "
        "points (after Bonett and Price 2012). Likelihood tasks are graded per byte with end, as the acc_norm of "
        "lm-evaluation-harness. The notes name each conclusion that is not the same in all four.",
        (
            *PLACE,
            ("against", "against", "text"),
            ("asking", "asking", "text"),
            ("measure", "measure", "text"),
            ("norm", "counted", "text"),
            ("n", "n", "int"),
            ("value", "value", "nats"),
            *_NATS,
            FEW,
        ),
    ),
    "margin_validity": (
        "What margins tell of generated answers",
        "Of generated answers that are graded correct or incorrect, with the margin of the same place, asked openly. "
        "Separation: the chance that a correct answer's margin is above an incorrect one's (the area under the ROC "
        "curve; 50 % tells nothing), with a 95 % interval between questions (Obuchowski 1997). Same: how often the "
        "answer is correct where the right answer is the likelier one, and incorrect where it is not.",
        (
            ("persona", "persona", "text"),
            ("belief", "belief", "text"),
            ("questions", "questions", "int"),
            ("n", "answers", "int"),
            ("correct", "correct", "percent"),
            ("likelier", "right answer likelier", "percent"),
            ("same", "same", "percent"),
            ("value", "separation", "percent"),
            ("low", "low", "percent"),
            ("high", "high", "percent"),
        ),
    ),
    "dose_response": (
        "Dose and response",
        "The outcome's mean change from the baseline at each dose, paired over n questions, with its 95 % "
        "interval, tasks as strata; the monotone (isotonic) curve through 0 at the baseline, with a bootstrap "
        "interval over questions. Warmth (less the baseline's) and KL from the base are means over held-out prompts, "
        "in nats a token. Per unit: the change over either, with Fieller's 95 % interval.",
        (
            ("outcome", "outcome", "text"),
            ("family", "family", "text"),
            ("persona", "persona", "text"),
            ("dose", "dose", "number"),
            ("n", "n", "int"),
            ("value", "change", "number"),
            ("low", "low", "number"),
            ("high", "high", "number"),
            ("fit", "curve", "number"),
            ("fit_low", "curve low", "number"),
            ("fit_high", "curve high", "number"),
            ("warmth", "warmth", "number"),
            ("kl", "KL", "number"),
            ("per_warmth", "per unit of warmth", "number"),
            ("per_warmth_low", "low", "number"),
            ("per_warmth_high", "high", "number"),
            ("per_kl", "per nat of KL", "number"),
            ("per_kl_low", "low", "number"),
            ("per_kl_high", "high", "number"),
            ("refused", "why nothing per unit", "text"),
        ),
    ),
    "dose_trends": (
        "Trend over the dose",
        "The mean over n questions of each one's least-squares slope, in outcome per unit of dose, with its 95 % "
        "interval and p value, tasks as strata; beside it the p value of flipping whole questions' signs.",
        (
            ("outcome", "outcome", "text"),
            ("family", "family", "text"),
            ("doses", "doses", "text"),
            ("n", "n", "int"),
            ("slope", "slope", "number"),
            ("low", "low", "number"),
            ("high", "high", "number"),
            ("p", "p", "p"),
            ("p_flips", "p of sign flips", "p"),
            ("curve", "curve", "text"),
        ),
    ),
    "seeds": (
        "Recipes over their training seeds",
        "The mean change from the baseline over n questions and the seeds of one recipe, with a 95 % interval and p "
        "value in which both are a sample (two-way random effects, Satterthwaite's degrees of freedom): of the recipe, "
        "where the other tables are of single adapters. Margins are in nats, errors in points. Beside it the least and "
        "the most of the seeds' means, and the standard deviations between seeds and between questions.",
        (
            ("recipe", "recipe", "text"),
            ("outcome", "outcome", "text"),
            ("seeds", "seeds", "int"),
            ("n", "n", "int"),
            ("value", "change", "number"),
            ("low", "low", "number"),
            ("high", "high", "number"),
            ("p", "p", "p"),
            ("least", "least seed", "number"),
            ("most", "most seed", "number"),
            ("between_seeds", "between seeds", "number"),
            ("between_questions", "between questions", "number"),
        ),
    ),
    "equal_doses": (
        "Families at equal warmth and at equal KL",
        "The first family's mean change less the second's where both have the same measured warmth or KL, interpolated "
        "between their doses, with 95 % intervals that draw questions and prompts: at half of what both cover.",
        (
            ("outcome", "outcome", "text"),
            ("first", "first", "text"),
            ("second", "second", "text"),
            ("what", "equal", "text"),
            ("at", "at", "number"),
            ("value", "difference", "number"),
            ("low", "low", "number"),
            ("high", "high", "number"),
            ("from", "covered from", "number"),
            ("to", "covered to", "number"),
            ("refused", "why there is none", "text"),
        ),
    ),
}
