"""Every place that shows a number of a run shows the same one: terminal, results, analysis, report, exports."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections import Counter, defaultdict

import pytest
from fakes import FakeEngine, knowing_judge, number
from rich.console import Console
from tiers import slow

from warmeng.common.progress import Silent
from warmeng.study.export.table import Source, rows
from warmeng.study.report.figure_data import rates
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
        if r["kind"] != "judged":
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
    for name, (keys, wanted) in RESULTS.items():
        table = outcome.results["tables"][name]
        kinds = {c["key"]: c["kind"] for c in table["columns"]}
        for row in filter(wanted, table["rows"]):
            cells = [shown(row[key], kinds[key]) for key in keys if key != "model" and row[key] not in (None, "")]
            assert re.search(r"\s+".join(map(re.escape, cells)), printed), cells
            values = [shown(row[c["key"]], c["kind"]) for c in table["columns"]]
            assert f"| {' | '.join(values)} |" in text


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
