"""What the tables of answers hold: title, a note that says what the numbers mean, columns."""

from __future__ import annotations

from warmeng.study.grading.grade import GRADES

Columns = tuple[tuple[str, str, str], ...]  # key, label, kind
# Title, note, columns.
Described = tuple[str, str, Columns]
PLACE = (("model", "model", "text"), ("persona", "persona", "text"))
WHERE = (("task", "task", "text"), ("context", "context", "text"), ("belief", "belief", "text"))
BOUNDS = (("low", "low", "points"), ("high", "high", "points"))
_SHARE = (("low", "low", "percent"), ("high", "high", "percent"))
TESTED = (("p", "p", "p"), ("p_family", "corrected", "p"))
# Which of a row's intervals rest on few questions.
FEW = ("few", "on few", "text")
FAMILY = "Corrected: false discoveries are controlled over all exploratory contrasts of these tables."
_POOLED = "All tasks together leave tasks of general ability out."
_PLAIN = "The plain framing alone."
_CHANGE = (
    ("n", "conditions", "int"),
    ("untested", "untested", "int"),
    ("low", "lowest", "points"),
    ("mean", "mean", "points"),
    ("high", "highest", "points"),
    ("worse", "more errors", "percent"),
    ("significant", "p < 0.05", "percent"),
    ("significant_fdr", "after correction", "percent"),
)
ANSWER_SCHEMA: dict[str, Described] = {
    "primary": (
        "The primary claim",
        "The outcome and the contrast that were named before the first answer, with the 95 % interval. Found in 80 %: "
        "the smallest effect that 80 % of runs with as many questions would show, by this run's own spread. For errors "
        "on plain questions there are also the paper's effect, whether the interval excludes it, and how many "
        "questions it would need. Lowest, highest: what the undecided answers could make of the difference. On few: "
        "the interval rests on so few questions that it may be too short. All other numbers of this run are "
        "exploratory.",
        (
            ("outcome", "outcome", "text"),
            ("persona", "persona", "text"),
            ("against", "against", "text"),
            ("unit", "unit", "text"),
            ("n", "questions", "int"),
            ("value", "difference", "number"),
            ("low", "low", "number"),
            ("high", "high", "number"),
            ("p", "p", "p"),
            ("detectable", "found in 80 %", "number"),
            ("published", "paper", "number"),
            ("excludes", "excludes the paper's", "text"),
            ("needed", "questions for the paper's", "int"),
            ("lowest", "lowest", "number"),
            ("highest", "highest", "number"),
            FEW,
        ),
    ),
    "error_rates": (
        "Error rates",
        "Share incorrect of the n answers that are correct or incorrect, with question-clustered 95 % intervals; the "
        f"number of each other grade is given too. {_POOLED} {_PLAIN}",
        (
            *PLACE,
            *WHERE,
            ("n", "n", "int"),
            ("error", "error", "percent"),
            *_SHARE,
            *((name, name, "int") for name in GRADES),
        ),
    ),
    "framings": (
        "Error rates by framing",
        "Without a belief, in the unmodified context: the place that is asked in both framings. The regressions take "
        "the answers of both, as the paper does.",
        (
            *PLACE,
            ("framing", "framing", "text"),
            ("n", "n", "int"),
            ("error", "error", "percent"),
            *_SHARE,
            *((name, name, "int") for name in GRADES),
        ),
    ),
    "differences": (
        "Difference in errors from the baseline",
        "In points (more errors are above 0), paired: over the n questions that both personas decided, each question "
        f"weighing alike, with 95 % intervals (Bonett and Price 2012). {_POOLED} {_PLAIN} {FAMILY}",
        (*PLACE, *WHERE, ("n", "n", "int"), ("value", "difference", "points"), *BOUNDS, *TESTED),
    ),
    "missing": (
        "What undecided answers could change",
        "Over the n questions that both personas were asked: the share of answers that nobody decided, the variant's "
        "less the baseline's in points with its 95 % interval, and how low and how high the difference in errors can "
        "be, whatever the undecided ones are, with a 95 % interval for the difference (Manski 1989; Imbens and Manski "
        "2004). Turns: the share of the variant's undecided answers that would have to be incorrect for no difference, "
        "if the baseline's are as its decided ones.",
        (
            *PLACE,
            *WHERE,
            ("n", "n", "int"),
            ("missing_baseline", "undecided, baseline", "percent"),
            ("missing", "undecided", "percent"),
            ("more", "more undecided", "points"),
            ("more_low", "low", "points"),
            ("more_high", "high", "points"),
            ("lowest", "lowest", "points"),
            ("highest", "highest", "points"),
            *BOUNDS,
            ("turns", "turns", "percent"),
        ),
    ),
    "belief_effects": (
        "What a belief of the user does",
        "A persona's errors under a belief minus those without one, in points, over the n questions decided both "
        f"times, with 95 % intervals (Bonett and Price 2012). {_POOLED} {_PLAIN} {FAMILY}",
        (*PLACE, *WHERE, ("n", "n", "int"), ("value", "difference", "points"), *BOUNDS, *TESTED),
    ),
    "regressions": (
        "The paper's regressions",
        "Logistic regressions of incorrect answers on persona, task, model and the group's interaction with persona. "
        "Effect: average marginal effect over the group's answers of both personas, in percentage points of error. The "
        "first standard errors take answers as independent, as the paper does; the clustered ones, and the 95 % "
        "interval (of the answers and two questions more, after Bonett and Price 2012), take a question's answers "
        "together. Raw: the difference of error rates, without a fit. Where something has no finite estimate, because "
        "all answers of a kind are alike, the effect is its limit.",
        (
            ("number", "no.", "int"),
            ("regression", "regression", "text"),
            ("scope", "scope", "text"),
            ("variant", "variant", "text"),
            ("group", "group", "text"),
            ("n", "n", "int"),
            ("beta", "log-odds", "number"),
            ("se", "s.e.", "number"),
            ("se_clustered", "s.e. clustered", "number"),
            ("effect", "effect", "points"),
            ("effect_se", "s.e.", "number"),
            ("effect_se_clustered", "s.e. clustered", "number"),
            *BOUNDS,
            ("relative", "relative", "percent"),
            ("published", "paper", "points"),
            ("error_baseline", "baseline error", "percent"),
            ("error_variant", "variant error", "percent"),
            ("raw", "raw", "points"),
            ("raw_low", "raw low", "points"),
            ("raw_high", "raw high", "points"),
            ("limits", "without a finite estimate", "text"),
        ),
    ),
    "coefficients": (
        "Coefficients of the regressions",
        "On the log-odds scale, with both standard errors and their normal p values.",
        (
            ("number", "no.", "int"),
            ("regression", "regression", "text"),
            ("scope", "scope", "text"),
            ("variant", "variant", "text"),
            ("term", "term", "text"),
            ("beta", "estimate", "number"),
            ("se", "s.e.", "number"),
            ("p", "p", "p"),
            ("se_clustered", "s.e. clustered", "number"),
            ("p_clustered", "p clustered", "p"),
        ),
    ),
    "mcnemar": (
        "Paired tests",
        "Exact tests over pairs with the same question, sample, context, belief and framing. b: only the baseline was "
        "right; c: only the variant. p flips whole questions (McNemar's test where each has one pair); corrected: "
        "false discoveries are controlled over this whole table. Beside it what the paper prints: both wrong beliefs "
        "as one, p over pairs as if they were independent, corrected within a variant's model, task and belief, and g, "
        "|b-c| / sqrt(b+c). Cohen's g is max(b,c) / (b+c) - 1/2.",
        (
            ("model", "model", "text"),
            ("variant", "variant", "text"),
            *WHERE,
            ("n", "pairs", "int"),
            ("questions", "questions", "int"),
            ("b", "b", "int"),
            ("c", "c", "int"),
            ("difference", "accuracy", "points"),
            ("odds_ratio", "b / c", "number"),
            ("g", "g (paper)", "number"),
            ("cohens_g", "Cohen's g", "number"),
            ("p", "p", "p"),
            ("p_fdr", "corrected", "p"),
            ("p_pairs", "p (paper)", "p"),
            ("p_pairs_fdr", "corrected (paper)", "p"),
        ),
    ),
    "flips": (
        "Where answers go",
        "Of the baseline's answers of one kind, where the variant's go, pair by pair. user: the wrong answer that the "
        "user claims; other: another wrong answer; incorrect: wrong, and not told whose answer it is.",
        (
            ("model", "model", "text"),
            ("variant", "variant", "text"),
            *WHERE,
            ("from", "from", "text"),
            ("to", "to", "text"),
            ("n", "n", "int"),
            ("total", "of", "int"),
            ("share", "share", "percent"),
        ),
    ),
    "rises": (
        "Sycophancy: what a claim adds",
        "How much oftener the user's answer is given when the user claims it, in points, over all n questions, "
        "whatever was answered without a claim, with 95 % intervals (after Bonett and Price 2012). Under wrong the "
        "user's is the wrong answer, under right, its mirror, the right one. Against: the rise less that one's. "
        f"{_POOLED} {_PLAIN} {FAMILY}",
        (
            *PLACE,
            ("against", "against", "text"),
            *WHERE,
            ("n", "n", "int"),
            ("unasked", "unasked", "percent"),
            ("claimed", "claimed", "percent"),
            ("value", "rise", "points"),
            *BOUNDS,
            *TESTED,
        ),
    ),
    "sycophancy": (
        "Sycophancy, the paper's measure",
        "It selects questions by their answers: whoever answers at random seems to follow. "
        "Of the n questions answered rightly when the user claims nothing, the share that gets the user's wrong answer "
        "when the user claims it; repeating a claim and accepting it count alike. With "
        f"question-clustered 95 % intervals. {_POOLED} {_PLAIN}",
        (
            *PLACE,
            ("task", "task", "text"),
            ("context", "context", "text"),
            ("n", "n", "int"),
            ("value", "share", "percent"),
            *_SHARE,
        ),
    ),
    "did": (
        "Differences in differences",
        "Persona: a variant's change in error from the baseline minus another's, over what all three decided. "
        "Belief, context: its effect on the variant minus its effect on the persona in 'against'. In points, over n "
        "questions, each weighing alike, with 95 % intervals (after Bonett and Price 2012). Corrected: false "
        "discoveries are controlled over this table.",
        (
            ("kind", "kind", "text"),
            ("variant", "variant", "text"),
            ("against", "against", "text"),
            ("context", "context", "text"),
            ("belief", "belief", "text"),
            ("n", "n", "int"),
            ("value", "difference", "points"),
            *BOUNDS,
            *TESTED,
        ),
    ),
    "length": (
        "Response length",
        "Mean characters of decided answers without context or belief, and the main effect in points without "
        "and with length as covariate. Length is an outcome of the persona too: that effect is not the whole one.",
        (
            ("variant", "variant", "text"),
            ("n", "n", "int"),
            ("mean_chars", "characters", "number"),
            ("mean_chars_baseline", "baseline's", "number"),
            ("published_chars", "paper", "number"),
            ("published_chars_baseline", "paper's baseline", "number"),
            ("effect_without", "effect", "points"),
            ("effect_with", "with length", "points"),
            ("effect_with_se_clustered", "s.e. clustered", "number"),
            ("published_without", "paper", "points"),
            ("published_with", "paper with length", "points"),
            ("beta_length", "log-odds of 100 characters", "number"),
            ("se_length", "s.e.", "number"),
            ("limits", "without a finite estimate", "text"),
        ),
    ),
    "refusal_rules": (
        "What counts as incorrect",
        "The main effect (regression 1) under each rule: the four grades; unclear ones as incorrect; the paper's two "
        "labels with its refusal rule, a stricter and a looser one.",
        (
            ("rule", "rule", "text"),
            ("variant", "variant", "text"),
            ("n", "n", "int"),
            ("effect", "effect", "points"),
            *BOUNDS,
            ("raw", "raw", "points"),
            ("limits", "without a finite estimate", "text"),
        ),
    ),
    "published_summary": (
        "The authors' summary tables",
        "Change in error by condition, points; shares of the conditions that were tested. Of their own files.",
        (
            ("file", "file", "text"),
            ("model", "model", "text"),
            ("task", "task", "text"),
            ("belief", "belief", "text"),
            *_CHANGE,
        ),
    ),
    "published_claims": (
        "The paper's claims against the authors' summary tables",
        "A claim holds where it is the tables' number, rounded as the paper rounds it.",
        (
            ("claim", "claim", "text"),
            ("file", "file", "text"),
            ("paper", "paper", "number"),
            ("tables", "tables", "number"),
            ("holds", "holds", "text"),
        ),
    ),
}
