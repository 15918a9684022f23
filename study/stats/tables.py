"""The tables of an analysis: their columns, and how they are written as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from warmeng.study.grading.grade import GRADES

# Of ``analysis.json`` and ``results.json``: raise it when a table is no longer what it was.
FORMAT = 3
DASH = "–"
Table = dict[str, Any]
_PLACE = (("model", "model", "text"), ("persona", "persona", "text"))
_WHERE = (("task", "task", "text"), ("context", "context", "text"), ("belief", "belief", "text"))
_BOUNDS = (("low", "low", "points"), ("high", "high", "points"))
_SHARE = (("low", "low", "percent"), ("high", "high", "percent"))
_NATS = (("low", "low", "nats"), ("high", "high", "nats"))
_ASKED = (*_PLACE, ("asking", "asking", "text"), *_WHERE[:2])
_MARGIN = "Margin: log p(right answer) - log p(wrong answer), in nats."
_MEANS = "Means over questions with 95 % t intervals, tasks as strata; the plain framing alone."
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

SCHEMA: dict[str, tuple[str, str, tuple[tuple[str, str, str], ...]]] = {  # name -> title, note, (key, label, kind)
    "error_rates": (
        "Error rates",
        "Share incorrect of the n answers that are correct or incorrect, with question-clustered 95 % intervals; all "
        f"grades stand beside. {_POOLED} {_PLAIN}",
        (
            *_PLACE,
            *_WHERE,
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
            *_PLACE,
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
        f"weighing alike, with 95 % intervals (Bonett and Price 2012). {_POOLED} {_PLAIN}",
        (*_PLACE, *_WHERE, ("n", "n", "int"), ("value", "difference", "points"), *_BOUNDS),
    ),
    "belief_effects": (
        "What a belief of the user does",
        "A persona's errors under a belief minus those without one, in points, over the n questions decided both "
        f"times, with 95 % intervals (Bonett and Price 2012). {_POOLED} {_PLAIN}",
        (*_PLACE, *_WHERE, ("n", "n", "int"), ("value", "difference", "points"), *_BOUNDS),
    ),
    "regressions": (
        "The paper's regressions",
        "Logistic regressions of incorrect answers on persona, task, model and the group's interaction with persona. "
        "Effect: average marginal effect over the group's answers of both personas, in percentage points of error. The "
        "first standard errors take answers as independent, as the paper does; the clustered ones, and the interval "
        "(bootstrap), take a question's answers together. Raw: the difference of error rates, without a fit.",
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
            *_BOUNDS,
            ("relative", "relative", "percent"),
            ("published", "paper", "points"),
            ("error_baseline", "baseline error", "percent"),
            ("error_variant", "variant error", "percent"),
            ("raw", "raw", "points"),
            ("raw_low", "raw low", "points"),
            ("raw_high", "raw high", "points"),
            ("refused", "why there is no fit", "text"),
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
        "Exact McNemar tests over pairs with the same question, sample, context, belief and framing. b: only the "
        "baseline was right; c: only the variant. g is the paper's |b-c| / sqrt(b+c), Cohen's g is max(b,c) / (b+c) - "
        "1/2. False discoveries are controlled within a variant's model, task and table (no belief, wrong belief).",
        (
            ("model", "model", "text"),
            ("variant", "variant", "text"),
            *_WHERE,
            ("n", "pairs", "int"),
            ("b", "b", "int"),
            ("c", "c", "int"),
            ("difference", "accuracy", "points"),
            ("odds_ratio", "b / c", "number"),
            ("g", "g (paper)", "number"),
            ("cohens_g", "Cohen's g", "number"),
            ("p", "p", "p"),
            ("p_fdr", "p corrected", "p"),
        ),
    ),
    "flips": (
        "Where answers go",
        "Of the baseline's answers of one kind, where the variant's go, pair by pair. user: the wrong answer that the "
        "user claims; other: another wrong answer; incorrect: wrong, and not told whose answer it is.",
        (
            ("model", "model", "text"),
            ("variant", "variant", "text"),
            *_WHERE,
            ("from", "from", "text"),
            ("to", "to", "text"),
            ("n", "n", "int"),
            ("total", "of", "int"),
            ("share", "share", "percent"),
        ),
    ),
    "sycophancy": (
        "Sycophancy, the paper's measure",
        "Of the n questions answered rightly when the user claims nothing, the share that gets the user's wrong answer "
        "when the user claims it; repeating a claim and accepting it count alike. With "
        f"question-clustered 95 % intervals. {_POOLED} {_PLAIN}",
        (
            *_PLACE,
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
        "Belief, context: its effect on the variant minus its effect on the persona in 'against'. In points, with "
        "question-clustered 95 % intervals (bootstrap).",
        (
            ("kind", "kind", "text"),
            ("variant", "variant", "text"),
            ("against", "against", "text"),
            ("context", "context", "text"),
            ("belief", "belief", "text"),
            ("n", "n", "int"),
            ("value", "difference", "points"),
            *_BOUNDS,
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
            ("refused", "why there is no fit", "text"),
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
            *_BOUNDS,
            ("raw", "raw", "points"),
            ("refused", "why there is no fit", "text"),
        ),
    ),
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
        "that are judged so; specificity: correct answers that are judged so.",
        (
            ("judge", "judge", "text"),
            ("persona", "persona", "text"),
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
            *_BOUNDS,
            ("effect_raw", "raw", "points"),
            ("labelled", "labelled answers of", "text"),
        ),
    ),
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
        ),
    ),
    "susceptibility": (
        "Knowledge and susceptibility",
        f"{_MARGIN} Knowledge: its mean under a claim of the right and one of the wrong answer. Susceptibility: the "
        "first minus the second, to the user's own claim; below it to claims that are only mentioned, are a friend's, "
        "or deny an answer. d' and criterion c are of the choice alone, from its probabilities (Macmillan and Creelman "
        f"2005): c below 0 leans to the user's answer. {_MEANS}",
        (*_ASKED, ("measure", "measure", "text"), ("n", "n", "int"), ("value", "value", "nats"), *_NATS),
    ),
    "agreement": (
        "Agreement: what a user's own claim does beyond its mention",
        "Raw: susceptibility to the user's claim. Control: susceptibility to the same claims where they are only "
        "mentioned (some people say), which is repetition. Agreement is their difference, in nats, over the questions "
        f"that have all four margins. A row with a persona in 'against' is of the difference between both. {_MEANS}",
        (
            *_PLACE,
            ("against", "against", "text"),
            ("asking", "asking", "text"),
            *_WHERE[:2],
            ("n", "n", "int"),
            ("raw", "raw", "nats"),
            ("raw_low", "low", "nats"),
            ("raw_high", "high", "nats"),
            ("control", "control", "nats"),
            ("control_low", "low", "nats"),
            ("control_high", "high", "nats"),
            ("value", "agreement", "nats"),
            *_NATS,
        ),
    ),
    "margin_contrasts": (
        "Contrasts of margins",
        "A persona's measure minus that of the persona in 'against', the baseline or its cold control, paired by "
        f"question, in nats (d' and c in units of z). p values are not corrected for how many there are. {_MEANS}",
        (
            *_PLACE,
            ("against", "against", "text"),
            ("asking", "asking", "text"),
            *_WHERE[:2],
            ("measure", "measure", "text"),
            ("n", "n", "int"),
            ("value", "difference", "nats"),
            *_NATS,
            ("p", "p", "p"),
        ),
    ),
    "margin_norms": (
        "Margins by how length is counted",
        "Sum: of an answer's own tokens, without full stop and end token; it is what all other tables take. Per byte "
        "and per token: that over the answer's length. With end: with full stop and end token. Over all tasks and "
        "contexts, in nats; the notes name each conclusion that is not the same in all four.",
        (
            *_PLACE,
            ("against", "against", "text"),
            ("asking", "asking", "text"),
            ("measure", "measure", "text"),
            ("norm", "counted", "text"),
            ("n", "n", "int"),
            ("value", "value", "nats"),
            *_NATS,
        ),
    ),
    "dose_response": (
        "Dose and response",
        "The outcome's mean change from the baseline at each dose, paired over n questions, with Student's 95 % "
        "interval; the monotone (isotonic) curve through 0 at the baseline, with a bootstrap interval over questions. "
        "Warmth (less the baseline's) and KL from the base are means over held-out prompts, in nats a token. Per unit: "
        "the change over either, with Fieller's 95 % interval.",
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
        "The mean over n questions of each one's least-squares slope, in outcome per unit of dose, with Student's 95 % "
        "interval and p value; beside it the p value of flipping whole questions' signs. The curve goes its way.",
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


def table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table as ``analysis.json`` holds it; rows get every column, missing ones as ``None``."""
    title, note, columns = SCHEMA[name]
    keys = [key for key, _, _ in columns]
    for row in rows:
        assert row.keys() <= set(keys), f"{name}: no column for {set(row) - set(keys)}"
    return {
        "title": title,
        "note": note,
        "columns": [{"key": key, "label": label, "kind": kind} for key, label, kind in columns],
        "rows": [{key: row.get(key) for key in keys} for row in rows],
    }


def to_csv(found: Table) -> bytes:
    """Return a table's rows with full precision; a missing number is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = [column["key"] for column in found["columns"]]
    writer.writerow(keys)
    writer.writerows(["" if row[key] is None else row[key] for key in keys] for row in found["rows"])
    return out.getvalue().encode("utf-8")


def to_markdown(tables: Iterable[Table], heading: str, notes: Sequence[str]) -> bytes:
    """Return all tables as one Markdown document."""
    lines = [f"# {heading}", "", *(f"- {escaped(note)}" for note in notes), ""]
    for found in tables:
        lines += section(found, found["rows"])
    return "\n".join(lines).encode("utf-8")


def section(found: Table, rows: Sequence[Mapping[str, Any]], level: int = 2) -> list[str]:
    """Return some rows of a table as lines of Markdown below its title and note; none for no row."""
    if not rows:
        return []
    columns = found["columns"]
    lines = [f"{'#' * level} {found['title']}", "", found["note"], ""]
    lines.append(_line(column["label"] for column in columns))
    lines.append(_line("---" if column["kind"] == "text" else "---:" for column in columns))
    lines += [_line(escaped(shown(row[c["key"]], c["kind"])) for c in columns) for row in rows]
    return [*lines, ""]


def shown(value: Any, kind: str) -> str:
    """Return a value as text: points with a sign, shares in percent; a missing one is a dash."""
    if value is None or value == "":
        return DASH
    if kind == "points":
        return f"{value:+.1f}"
    if kind == "percent":
        return f"{100 * value:.1f} %"
    if kind == "p":
        return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
    if kind == "int":
        return str(int(value))
    if kind == "nats":
        return f"{value:+.2f}"
    if kind == "number":
        return f"{value:.4g}"
    return str(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Return a text in which Markdown finds no cell's end, element, link, picture or code."""
    return re.sub(r"([\\|\[\]`])", r"\\\1", " ".join(text.splitlines())).replace("<", "&lt;")
