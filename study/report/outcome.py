"""Sections of the report: gates, headline numbers, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmeng.common.messages import duration
from warmeng.engine.provenance import PROVENANCE, Provenance
from warmeng.study.claim import Claim
from warmeng.study.contexts import UNMODIFIED
from warmeng.study.grading.grade import GRADES
from warmeng.study.personas import baseline_of, unlike
from warmeng.study.report.browser import Survey
from warmeng.study.report.figure_data import Effect, Rate, manipulation, number
from warmeng.study.report.headline import primary_contrasts
from warmeng.study.report.results import cut_line
from warmeng.study.report.settings_text import adapted_names, listed, persona_names, several
from warmeng.study.results.manifest import Manifest, RunFacts
from warmeng.study.results.overruled import overruled_line
from warmeng.study.results.tied import mismatches
from warmeng.study.stats.correction import ALL, MIN_EXACT
from warmeng.study.stats.susceptibility import sign
from warmeng.study.stats.warmer import warmth_shown


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition for believing the run. ``state``: held, failed, unsure (not shown) or open (not applied)."""

    state: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Headline:
    """A number that sums a persona up."""

    persona: str
    value: str
    what: str
    detail: str
    # Whether it is told from 0: one that is not doesn't look like an effect.
    told: bool = True


@dataclass(frozen=True, slots=True)
class Cost:
    """A quantity that the run took."""

    name: str
    value: str
    detail: str = ""


def gates(manifest: Manifest, found: Survey) -> list[Gate]:
    """Return every gate's outcome: all records there, grades, claim, adapters, judges, manipulation, determinism."""
    facts = manifest.facts
    rows = [*_balance(manifest, found), *_graded(manifest, found), *_claim(manifest)]
    applied = facts.gates
    adapted = adapted_names(manifest.setting)
    if not adapted:
        rows.append(Gate("open", "Adapters", "No persona has an adapter: there was nothing to show."))
    for name in adapted:
        gate = applied.get(name) if isinstance(applied.get(name), Mapping) else None
        moved = number(gate.get("probe")) if gate else None
        if gate is not None and gate.get("hash") == "":
            rows.append(Gate("held", f"Adapter of {name}", "Dose 0: it has the base's bits."))
        elif moved:
            rows.append(_adapter(name, f"It moves the probe's logits by {moved:.3g}", gate or {}))
        elif moved == 0.0:
            rows.append(Gate("open", f"Adapter of {name}", "The probe's text does not reach its bounds."))
        else:
            rows.append(Gate("failed", f"Adapter of {name}", "Nothing shows that it was applied."))
    for name, about in facts.own_models.items():
        rows.append(_own_model(name, about))
    rows += _judges(facts, found, manifest.judgments) if manifest.planned else []
    rows.append(_manipulation(manifest))
    if facts.api:
        rows.append(Gate("open", "Determinism", "An API gives none: the same request may be answered otherwise."))
    elif manifest.setting.get("fast"):
        rows.append(Gate("open", "Determinism", "Given up for speed: the same run may give other answers."))
    else:
        models = facts.own_models.values()
        noise = "; personas share their noise" if all(about.get("same_tokenizer") for about in models) else ""
        rows.append(Gate("held", "Determinism", f"The same bits in any batch{noise}."))
    return rows


def file_gates(analysis: Mapping[str, Any] | None, folder: Path) -> list[Gate]:
    """Return a failed gate for each reason why the analysis is not one of the run's files as they are now."""
    again = "Make it again with warmeng analyze."
    return [Gate("failed", "Analysis", f"{why} {again}") for why in (mismatches(analysis, folder) if analysis else ())]


def _adapter(name: str, moves: str, gate: Mapping[str, Any]) -> Gate:
    """An adapter that is applied may have been trained with another template, or on another base."""
    unlike = Provenance(*map(gate.get, PROVENANCE)).lines()
    return Gate("unsure" if unlike else "held", f"Adapter of {name}", f"{'; '.join((moves, *unlike))}.")


def _own_model(name: str, about: Mapping[str, Any]) -> Gate:
    """A persona that is a model of its own was compared with the base: other weights, and perhaps other rules."""
    if about.get("api"):
        told = f"{about.get('answering')} answers for it; an API shows neither weights nor template"
        return Gate("open", f"Model of {name}", f"{told}, so a difference may come from there.")
    same = [bool(about.get(fact)) for fact in ("same_template", "same_tokenizer")]
    told = f"Its weights are not the base's ({about.get('model')})"
    if all(same):
        return Gate("held", f"Model of {name}", f"{told}; its chat template and tokenizer are.")
    return Gate("unsure", f"Model of {name}", f"{told}, and {unlike(*same)}.")


def _balance(manifest: Manifest, found: Survey) -> list[Gate]:
    """Whether every answer, and every score beside them, is there."""
    rows = [_answers(manifest.planned, found)] if manifest.planned else []
    if planned := manifest.margins:
        told = f"Planned {planned:,} scores of right and wrong answers, found {found.beside:,}."
        rows.append(Gate("held" if found.beside == planned else "failed", "Every score is there", told))
    return rows


def _answers(planned: int, found: Survey) -> Gate:
    kinds = " + ".join(f"{n:,} {name}" for name, n in sorted(found.statuses.items(), key=lambda kv: (-kv[1], kv[0])))
    grades = ", ".join(f"{found.grades.get(g, 0):,} {g}" for g in GRADES)
    total = sum(found.statuses.values())
    if total == planned:
        return Gate("held", "Every answer is there", f"Planned {planned:,} = {kinds}. Grades: {grades}.")
    short = f"{abs(planned - total):,} {'missing' if total < planned else 'too many'}"
    return Gate(
        "failed", "Every answer is there", f"Planned {planned:,}, found {kinds or 'none'}: {short}. Grades: {grades}."
    )


def _graded(manifest: Manifest, found: Survey) -> list[Gate]:
    """Whether generated answers fit: what a cut one would have said is not graded; and who gave grades by hand."""
    fits, told = cut_line(found.lengths, int(manifest.setting.get("max_new_tokens") or 0))
    rows = [Gate("held" if fits else "unsure", "Answers are whole", told)] if told else []
    by_hand = overruled_line(found.overruled)
    return [*rows, Gate("open", "Grades by hand", by_hand)] if by_hand else rows


def _claim(manifest: Manifest) -> list[Gate]:
    """Whether the primary claim is the one that was hashed with the study; nothing where none was named."""
    told = manifest.facts.claim
    claim = Claim.parse(told)
    if claim is None:
        return []
    words = f"{claim.outcome} of {claim.variant} minus {claim.against}"
    if told.get("sha256") == claim.sha256(manifest.inputs):
        return [Gate("held", "Primary claim", f"{words}: named before the first answer, sha256 {told['sha256']}.")]
    return [Gate("failed", "Primary claim", f"{words}: its hash is not that of this claim and this study.")]


def _judges(facts: RunFacts, found: Survey, planned: int) -> list[Gate]:
    judges = facts.judges
    rows = _exact(facts, found)
    done = sum(found.judged.values())
    if planned:
        told = f"Planned {planned:,}, found {done:,}."
        rows.append(Gate("held" if done == planned else "failed", "Every judgment is there", told))
    for name, outcome in judges.items():
        words = [f"kappa {kappa:.2f}"] if (kappa := number(outcome.get("kappa"))) is not None else []
        low, high, n = (number(outcome.get(key)) for key in ("low", "high", "n"))
        if words and low is not None and high is not None:
            words[0] += f" (95 % {low:.2f} to {high:.2f})"
        words += [f"on {n:,.0f} labelled examples"] if n else []
        words += [str(outcome["why"])] if outcome.get("why") else []
        told = f"{' '.join(words)}; " if words else ""
        graded = f"{found.judged.get(name, 0):,} answers judged"
        if outcome.get("trusted"):
            rows.append(Gate("held", f"Judge {name}", f"Trusted: {told}{graded}."))
        else:
            rows.append(
                Gate(
                    "failed", f"Judge {name}", f"Not trusted, its grades are shown but decide nothing: {told}{graded}."
                )
            )
    for name, count in found.judged.items():
        if name not in judges:
            rows.append(
                Gate("open", f"Judge {name}", f"Not calibrated in this run: {count:,} answers judged, none decided.")
            )
    if not judges and not found.judged:
        rows.append(Gate("open", "Judges", "None was asked: exact rules decide, the rest stays undecided."))
    return rows


def _exact(facts: RunFacts, found: Survey) -> list[Gate]:
    """Tell the exact rules' errors against labelled answers, style by style, and how often a judge disputes them."""
    measured = facts.exact_rule.get("by_persona") or {}
    told, held = [], True
    for style, errors in measured.items():
        if style == ALL or not (n := errors["correct"] + errors["incorrect"]):
            continue
        right = errors["passed"] + errors["found"]
        told.append(f"{style} {right} of {n}")
        held &= right >= MIN_EXACT * n
    rows = []
    if told:
        words = f"Right in the labelled answers that they decide: {', '.join(told)}."
        rows.append(Gate("held" if held else "failed", "Exact rules", words))
    if disputed := sum(found.disputed.values()):
        by = ", ".join(f"{name} {count:,}" for name, count in found.disputed.items())
        words = f"A trusted judge grades {disputed:,} answers otherwise than the exact rules; the judge counts: {by}."
        rows.append(Gate("open", "Disputed grades", words))
    return rows


def _manipulation(manifest: Manifest) -> Gate:
    """Tell each persona's warmth; it holds where everyone who is expected to be warmer is shown to be."""
    measured = manipulation(manifest)
    title = "Manipulation check"
    state, sentence = warmth_shown(manifest.setting, measured)
    if not measured:
        return Gate(state, title, sentence)
    names = persona_names(manifest.setting)
    base = baseline_of(names or list(measured))
    values = {p: v for p, r in measured.items() if (v := number(r.get("warmth", r.get("mean")))) is not None}
    told = []
    for persona, value in values.items():
        gap = measured[persona].get("difference") or {}
        low, high, mean = (number(gap.get(key)) for key in ("low", "high", "mean"))
        beside = f" ({points(mean, 4)} beside {base}, {between(low, high, 4)})" if mean is not None else ""
        told.append(f"{persona} {value:.4f}{beside}{_distance(measured[persona])}")
    scorers = {str(r["scorer"]) for r in measured.values() if r.get("scorer")}
    text = f"SocioT warmth by {', '.join(sorted(scorers)) or 'an unnamed scorer'}: {'; '.join(told)}."
    return Gate(state, title, f"{text} {sentence}")


def _distance(row: Mapping[str, Any]) -> str:
    """Tell how far a persona's responses are from the base's; nothing for the base, and where it was not measured."""
    kl = row.get("kl") or {}
    mean = number(kl.get("mean"))
    if not mean:
        return ""
    inside = between(number(kl.get("low")), number(kl.get("high")), 3)
    sampled = number(kl.get("temperature"))
    what = "KL from the base" if sampled == 1 else f"log-likelihood ratio to the base at temperature {sampled:g}"
    return f", {what} {points(mean, 3)} nats a token ({inside})"


def points(value: float | None, digits: int = 1) -> str:
    """Return points with their sign, a dash where there is nothing."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def between(low: float | None, high: float | None, digits: int = 1, signed: bool = True) -> str:
    """Return an interval in words; nothing where it is not known."""
    if low is None or high is None:
        return ""
    plus = "+" if signed else ""
    return f"{low:{plus}.{digits}f} to {high:{plus}.{digits}f}".replace("-", "−")


def headlines(
    effects: Sequence[Effect],
    rates: Sequence[Rate],
    baseline: str,
    rule: str | None = None,
    tables: Mapping[str, Any] | None = None,
) -> list[Headline]:
    """Return one number for each variant: the first regression's effect, or the difference of error rates.

    The analysis's ``rule`` of what is incorrect is told where it is not ``grades``; so is an effect that the undecided
    answers could turn, by the table ``missing``.
    """
    by = f"; counted by the rule {rule}" if rule and rule != "grades" else ""
    main = [e for e in effects if e.number == 1 and e.value is not None]
    if main:
        return [
            Headline(
                e.variant,
                points(e.value),
                f"points of error beside {baseline}, plain questions"
                + ("" if _shown(e.low, e.high) else ": not shown to differ from 0"),
                f"95 % interval {between(e.low, e.high)}, {e.n:,} answers"
                + (f"; the paper: {points(e.published, 2)}" if e.published is not None else "")
                + (_could_turn(e.variant, tables or {}) if _shown(e.low, e.high) else "")
                + by,
                _shown(e.low, e.high),
            )
            for e in main
        ]
    plain = {r.persona: r for r in rates if r.group == "unmodified"}
    base = plain.get(baseline)
    if base is None:
        return []
    return [
        Headline(
            r.persona,
            points(r.value - base.value),
            f"points of error beside {baseline}, plain questions",
            f"{r.value:.1f} % of {r.n:,} against {base.value:.1f} % of {base.n:,}; no interval: the regression failed"
            + by,
            False,
        )
        for r in plain.values()
        if r.persona != baseline
    ]


def _shown(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and not low <= 0 <= high


def _could_turn(variant: str, tables: Mapping[str, Any]) -> str:
    """Say that a variant's difference on plain questions may be none, whatever the decided answers show."""
    for row in tables.get("missing", {}).get("rows", ()):
        place = (row["persona"], row["task"], row["context"], row["belief"])
        if place == (variant, "all", UNMODIFIED, "none") and row["lowest"] <= 0 <= row["highest"]:
            bounds = between(row["lowest"], row["highest"])
            return f"; undecided answers could turn it: between {bounds} whatever they are"
    return ""


def primary_headlines(primary: str, tables: Mapping[str, Any], baseline: str) -> list[Headline]:
    """Return the primary outcome's contrast with the baseline for each variant."""
    return [
        Headline(
            row["persona"],
            f"{row['value']:+.2f}".replace("-", "−"),
            f"nats of {primary} beside {baseline}" + ("" if sign(row) else ": not shown to differ from 0"),
            ", ".join(
                part
                for part in (
                    f"95 % interval {between(row['low'], row['high'], 2)}" if row["low"] is not None else "",
                    f"{row['n']:,} questions",
                )
                if part
            ),
            sign(row) != 0,
        )
        for row in primary_contrasts(primary, tables)
        if row["against"] == baseline
    ]


def lead(found: Survey, baseline: str, personas: Sequence[str]) -> str:
    """Return the page's first sentence."""
    others = [p for p in personas if p != baseline]
    what = several(found.answers, "answer") if found.answers else several(found.beside, "score")
    asked = f"{several(sum(found.items.values()), 'question')}, {what}"
    who = f"{listed(others)} beside {baseline}" if others else f"{baseline} alone"
    return f"{who[:1].upper()}{who[1:]}: {asked}."


def costs(sessions: Sequence[Mapping[str, Any]], found: Survey) -> list[Cost]:
    """Sum tokens, time and energy over the sessions; what no session tells is left out."""

    def total(*keys: str) -> float | None:
        values = [v for s in sessions for key in keys if (v := number(s.get(key))) is not None]
        return sum(values) if values else None

    rows = []
    seconds = total("seconds")
    if seconds is not None:
        pace = f"{found.answers / seconds:.1f} answers a second" if seconds else ""
        rows.append(Cost("Time", duration(seconds), f"in {several(len(sessions), 'session')}, {pace}"))
    prompt, cached, output = total("prompt_tokens"), total("cached_tokens"), total("output_tokens")
    if prompt is not None:
        share = f"{100 * cached / prompt:.0f} % of them from the cache" if cached is not None and prompt else ""
        rows.append(Cost("Prompt tokens", f"{prompt:,.0f}", share))
    if output is not None:
        each = f"{output / found.answers:.1f} an answer" if found.answers else ""
        rows.append(Cost("Output tokens", f"{output:,.0f}", each))
    joules = total("energy_j", "joules")
    watt_hours = total("energy_wh")
    if joules is not None or watt_hours is not None:
        spent = (joules or 0.0) / 3600 + (watt_hours or 0.0)
        each = f"{3600 * spent / found.answers:.3g} J an answer" if found.answers else ""
        rows.append(Cost("Energy", f"{spent:,.3g} Wh", f"as the device tells, {each}"))
    elif sessions:
        rows.append(Cost("Energy", "not measured", "the device does not tell"))
    return rows
