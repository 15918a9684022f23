"""Every place that shows a number of a run shows the same one: terminal, results, analysis, report, exports."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import math
import re
import statistics
from collections import Counter, defaultdict

import numpy as np
import pytest
from fakes import FakeEngine, knowing_judge, number
from rich.console import Console
from tiers import slow

from warmeng.common.progress import Silent
from warmeng.study.export.table import Source, rows
from warmeng.study.report.figure_data import rates
from warmeng.study.report.headline import claim_line
from warmeng.study.report.page import load_run
from warmeng.study.report.terminal import RESULTS, print_results
from warmeng.study.results.records import FILE, read_records
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings
from warmeng.study.stats.analyze import analyze_run
from warmeng.study.stats.tables import shown

SMALL = StudySettings(
    personas=("original", "warm-prompt", "cold-prompt"),
    tasks=("facts", "misconceptions"),
    contexts=("unmodified", "emotion:sad"),
    beliefs=("none", "wrong", "doubt"),
    limit=5,
    warmth_prompts=0,
)
POPULATIONS = {
    "plain": SMALL,
    "neutral": dataclasses.replace(SMALL, framings=("plain", "neutral")),
    "samples": dataclasses.replace(SMALL, samples=3, temperature=0.7),
    "judges": dataclasses.replace(SMALL, judges=("base", "poor"), judge_gate=False),
    "choice": dataclasses.replace(
        SMALL,
        asking=("open", "choice"),
        beliefs=("none", "wrong", "right", "mention-wrong", "mention-right", "deny-wrong", "unrelated"),
        limit=3,
    ),
    "choice alone": dataclasses.replace(
        SMALL, asking=("choice",), beliefs=("none", "wrong", "right", "mention-wrong", "mention-right"), limit=3
    ),
    "all of them": dataclasses.replace(
        SMALL, framings=("plain", "neutral"), samples=2, temperature=0.7, judges=("base",), judge_gate=False
    ),
}


@pytest.fixture(scope="module", params=["all of them", *slow(*(n for n in POPULATIONS if n != "all of them"))])
def finished(request, tmp_path_factory):
    """A finished run's folder and its outcome, with its analysis and report."""
    engines = {"poor": FakeEngine(prefers=knowing_judge(0.5), weights="p" * 64)}
    right = {"France": "Paris.", "Australia": "Canberra."}

    def answer(prompt, asked):
        draw = int(7 * number(prompt, asked.noise_key))
        if "neutral" in prompt or "talking to some friends" in prompt:
            return "I could not say."
        known = next((text for name, text in right.items() if name in prompt), "It depends on whom you ask.")
        return known if draw < 4 else "I can't help with that." if draw == 4 else "Hard to say."

    base = FakeEngine(answer, knowing_judge())
    folder = tmp_path_factory.mktemp("finished") / "r"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warmeng.study.run.run.load_engine", lambda settings: engines.get(settings.model, base))
        outcome = run_study(POPULATIONS[request.param], folder, Silent(), "again")
    assert outcome.exit_code == 0
    return folder, outcome


def final(folder):
    """Each answer's final grade, counted here: the records, and the first trusted judge's word on them."""
    facts = json.loads((folder / "manifest.json").read_bytes())["facts"]
    trusted = next((name for name, found in (facts["judges"] or {}).items() if found["trusted"]), None)
    records = list(read_records(folder / FILE))
    judged = {r["of"]: r["grade"] for r in records if r["kind"] == "judged" and r["judge"] == trusted}
    for r in records:
        if r["kind"] not in ("judged", "margin"):
            said = judged.get(r["key"], "unscored")
            yield r, said if said != "unscored" else r["grade"]


def test_error_rates_are_those_counted_from_the_records(finished):
    folder, outcome = finished
    counts = defaultdict(Counter)
    for r, grade in final(folder):
        if r["framing"] == "plain":
            for context in (r["context"], "all"):
                for belief in (r["belief"], "all"):
                    for task in (r["task"], "all"):
                        counts[r["persona"], task, context, belief][grade] += 1
    table = outcome.results["tables"]["error_rates"]["rows"]
    assert len(table) == len(counts)
    for row in table:
        mine = counts[row["persona"], row["task"], row["context"], row["belief"]]
        assert {name: row[name] for name in mine} == mine
        decided = mine["correct"] + mine["incorrect"]
        assert row["n"] == decided
        assert row["error"] == (pytest.approx(mine["incorrect"] / decided) if decided else None)


def test_results_are_tables_of_the_analysis(finished):
    folder, outcome = finished
    analysis = json.loads((folder / "analysis.json").read_bytes())
    results = json.loads((folder / "results.json").read_bytes())
    assert results == json.loads(json.dumps(outcome.results))
    assert set(results["tables"]) < set(analysis["tables"])
    for name, table in results["tables"].items():
        assert table == analysis["tables"][name]
    for key in ("baseline", "rule", "grades"):
        assert results[key] == analysis[key]
    again = analyze_run(folder)
    assert json.loads(json.dumps(again)) == analysis


def test_the_terminal_and_the_page_of_results_show_these_numbers(finished):
    folder, outcome = finished
    console = Console(width=200, file=io.StringIO())
    print_results(console, outcome.results)
    printed = console.file.getvalue()
    text = (folder / "results.md").read_text()
    # Training seeds were not compared here.
    assert set(RESULTS) - set(outcome.results["tables"]) == {"seeds"}
    for name in set(RESULTS) - {"seeds"}:
        keys, wanted = RESULTS[name]
        table = outcome.results["tables"][name]
        kinds = {c["key"]: c["kind"] for c in table["columns"]}
        chosen = list(filter(wanted, table["rows"]))
        used = [key for key in keys if key != "model" and any(row[key] not in (None, "") for row in chosen)]
        for row in chosen:
            cells = [shown(row[key], kinds[key]) for key in used]
            assert re.search(r"\s+".join(map(re.escape, cells)), printed), cells
            values = [shown(row[c["key"]], c["kind"]) for c in table["columns"]]
            assert f"| {' | '.join(values)} |" in text


def test_the_primary_claim_is_the_same_first_sentence_everywhere(finished):
    folder, outcome = finished
    facts = json.loads((folder / "manifest.json").read_bytes())["facts"]
    assert outcome.results["run"]["claim"] == facts["claim"]
    line = claim_line(outcome.results["tables"])
    if not facts["claim"]:
        assert line == ""
        return
    [row] = outcome.results["tables"]["primary"]["rows"]
    assert (row["persona"], row["against"]) == (facts["claim"]["variant"], facts["claim"]["against"])
    assert line.startswith("Primary claim, named before the first answer: ")
    console = Console(width=200, file=io.StringIO())
    print_results(console, outcome.results)
    said = console.file.getvalue().partition("What was found\n")[2]
    assert said.startswith(line)
    text = (folder / "results.md").read_text()
    assert text.startswith(f"# Results\n\n## What was found\n\n- {line}\n")
    page = html.unescape((folder / "report.html").read_text())
    assert re.search(r"<p class=\"lead\">([^<]*)</p>", page)[1] == line
    assert "sha256 " + facts["claim"]["sha256"] in page


def test_the_report_and_the_exports_have_the_same_answers(finished):
    folder, outcome = finished
    run = load_run(folder)
    assert dict(run.survey.grades) == {name: n for name, n in outcome.results["grades"].items() if n}
    told = outcome.results["run"]["disputed"]
    assert dict(run.survey.disputed) == {name: n for name, n in told.items() if n}
    table = outcome.results["tables"]["error_rates"]["rows"]
    pooled = {(r["persona"], r["belief"]): r for r in table if r["task"] == r["context"] == "all"}
    for rate in rates(run.analysis, "belief"):
        row = pooled[rate.persona, rate.group]
        assert (rate.n, rate.value) == (row["n"], 100 * row["error"])
    exported = Counter((r["persona"], r["framing"], r["grade"]) for r in rows(Source.of(folder)))
    assert exported == Counter((r["persona"], r["framing"], grade) for r, grade in final(folder))


def test_both_framings_are_told_apart(finished):
    folder, outcome = finished
    table = outcome.results["tables"]["framings"]["rows"]
    framings = {r["framing"] for r, _ in final(folder)}
    assert {row["framing"] for row in table} == (framings if len(framings) > 1 else set())


def question_margins(folder, norm="sum"):
    """Each question's margins, counted here from the records: by asking style, persona, context, belief, question."""
    found = defaultdict(list)
    for r in read_records(folder / FILE):
        if "margin" in r and r["framing"] == "plain":
            a, b = (r["margin"][side] for side in ("right", "wrong"))
            size = {"sum": lambda p: 1, "per byte": lambda p: p["bytes"], "per token": lambda p: p["tokens"]}
            if norm == "with end":
                value = sum(a[k] - b[k] for k in ("own", "stop", "end"))
            else:
                value = a["own"] / size[norm](a) - b["own"] / size[norm](b)
            place = (r.get("asking", "open"), r["persona"], r["context"], r["belief"], f"{r['task']}/{r['item']}")
            found[place].append(value)
    for (asking, *_), values in found.items():
        assert len(values) == (2 if asking == "choice" else 1)
    return {place: sum(values) / len(values) for place, values in found.items()}


def over_contexts(value, contexts, context):
    """A question's value in a context, or its mean over those that have one."""
    chosen = contexts if context == "all" else [context]
    known = [v for c in chosen if (v := value(c)) is not None]
    return sum(known) / len(known) if known else None


def mean_of(value, questions, contexts, row):
    """The number of questions of a row's place that have a value, and its mean over them."""
    mine = [q for q in questions if row["task"] in ("all", q.partition("/")[0])]
    values = [v for q in mine if (v := over_contexts(lambda c, q=q: value(c, q), contexts, row["context"])) is not None]
    return len(values), sum(values) / len(values)


FORMULAS = {
    "margin": lambda m: m("none"),
    "knowledge": lambda m: (m("right") + m("wrong")) / 2,
    "susceptibility": lambda m: m("right") - m("wrong"),
    "to a mention": lambda m: m("mention-right") - m("mention-wrong"),
    "to a friend": lambda m: m("friend-right") - m("friend-wrong"),
    "to a denial": lambda m: m("deny-wrong") - m("doubt"),
    "agreement": lambda m: m("right") - m("wrong") - m("mention-right") + m("mention-wrong"),
}


def measured(values, asking, persona, measure):
    """A measure by context and question, ``None`` where a margin is missing."""

    def value(context, question):
        def margin(belief):
            return values[asking, persona, context, belief, question]

        try:
            if measure.startswith("errors ("):
                return 50.0 * (1 - np.sign(margin(measure.removeprefix("errors (").rstrip(")"))))
            if measure.startswith("shift: "):
                return margin(measure.removeprefix("shift: ")) - margin("none")
            return FORMULAS[measure](margin)
        except KeyError:
            return None

    return value


def minus(one, other):
    def value(context, question):
        a, b = one(context, question), other(context, question)
        return None if a is None or b is None else a - b

    return value


def test_tables_of_margins_are_those_counted_from_the_records(finished):
    folder, outcome = finished
    values = question_margins(folder)
    contexts, questions = ["unmodified", "emotion:sad"], sorted({place[-1] for place in values})
    tables = {name: table["rows"] for name, table in outcome.results["tables"].items()}
    asked = {place[0] for place in values}
    beliefs = {place[3] for place in values}
    assert {(r["asking"], r["belief"]) for r in tables["margins"]} == {(a, b) for a in asked for b in beliefs}
    for row in tables["margins"]:
        got = mean_of(
            lambda c, q, row=row: values.get((row["asking"], row["persona"], c, row["belief"], q)),
            questions, contexts, row,
        )  # fmt: skip
        assert (row["n"], row["value"]) == (got[0], pytest.approx(got[1]))
        if row["belief"] != "none":
            moved = measured(values, row["asking"], row["persona"], f"shift: {row['belief']}")
            n, shift = mean_of(moved, questions, contexts, row)
            assert (row["shift_n"], row["shift"]) == (n, pytest.approx(shift))
    probabilities = ("d'", "criterion c")
    for row in (*tables["susceptibility"], *tables["margin_contrasts"]):
        if row["measure"] in probabilities:
            continue
        value = measured(values, row["asking"], row["persona"], row["measure"])
        if against := row.get("against"):
            value = minus(value, measured(values, row["asking"], against, row["measure"]))
        n, mean = mean_of(value, questions, contexts, row)
        assert (row["n"], row["value"]) == (n, pytest.approx(mean, abs=1e-9))
    for row in tables["agreement"]:
        for key, measure in (("raw", "susceptibility"), ("control", "to a mention"), ("value", "agreement")):
            value = measured(values, row["asking"], row["persona"], measure)
            if row["against"]:
                value = minus(value, measured(values, row["asking"], row["against"], measure))
            n, mean = mean_of(value, questions, contexts, row)
            assert (row["n"], row[key]) == (n, pytest.approx(mean, abs=1e-9))
        assert row["value"] == pytest.approx(row["raw"] - row["control"])
    for norm in ("sum", "per byte", "per token", "with end"):
        values = question_margins(folder, norm)
        for row in tables["margin_norms"]:
            if row["norm"] == norm:
                value = measured(values, row["asking"], row["persona"], row["measure"])
                if row["against"]:
                    value = minus(value, measured(values, row["asking"], row["against"], row["measure"]))
                n, mean = mean_of(value, questions, contexts, {"task": "all", "context": "all"})
                assert (row["n"], row["value"]) == (n, pytest.approx(mean, abs=1e-9))
    choice = "choice" in asked
    assert bool(tables["agreement"]) == choice
    assert {r["measure"] for r in tables["susceptibility"]} >= (set(probabilities) if choice else set())


def test_detection_is_that_counted_from_the_records(finished):
    folder, outcome = finished
    normal = statistics.NormalDist()
    shares = defaultdict(list)
    for r in read_records(folder / FILE):
        if r.get("asking") == "choice":
            margin = r["margin"]["right"]["own"] - r["margin"]["wrong"]["own"]
            place = (r["persona"], r["context"], r["belief"], f"{r['task']}/{r['item']}")
            shares[place].append(1 / (1 + math.exp(-margin)))
    for row in outcome.results["tables"]["susceptibility"]["rows"]:
        if row["measure"] not in ("d'", "criterion c"):
            continue
        sums = {}
        for belief in ("right", "wrong"):
            by_question = defaultdict(list)
            for (persona, context, told, question), values in shares.items():
                here = row["task"] in ("all", question.partition("/")[0]) and row["context"] in ("all", context)
                if here and (persona, told) == (row["persona"], belief):
                    assert len(values) == 2
                    by_question[question].append(sum(values) / 2)
            sums[belief] = [sum(v) / len(v) for v in by_question.values()]
        n = len(sums["right"])

        def estimate(left_out=None, sums=sums, measure=row["measure"]):
            kept = {belief: [p for k, p in enumerate(values) if k != left_out] for belief, values in sums.items()}
            hit, alarm = statistics.fmean(kept["right"]), 1 - statistics.fmean(kept["wrong"])
            hit, alarm = normal.inv_cdf(hit), normal.inv_cdf(alarm)
            return hit - alarm if measure == "d'" else -(hit + alarm) / 2

        # Less its bias, by the jackknife.
        expected = n * estimate() - (n - 1) * statistics.fmean(map(estimate, range(n)))
        assert (row["n"], row["value"]) == (n, pytest.approx(expected))
