"""The report's page: what it says, what it carries, and that nothing written by a model or a data set is markup."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from sample import Plan, encode, final, make_judgment, make_run
from structure import structure

from warmeng.cli.main import warmeng
from warmeng.common.errors import InputError
from warmeng.study.report import page
from warmeng.study.report.browser import choose, flipped
from warmeng.study.report.figure_data import error_points, flips, warmth
from warmeng.study.report.outcome import gates
from warmeng.study.report.page import load_run, policy, render, write_report
from warmeng.study.report.settings_text import adapted_names, persona_words
from warmeng.study.results.answers import read_answers
from warmeng.study.results.items import read_items
from warmeng.study.results.manifest import require_manifest
from warmeng.study.results.responses import write_responses
from warmeng.study.results.tied import tie
from warmeng.study.stats import tables
from warmeng.study.stats.analyze import analyze_run
from warmeng.study.stats.dose_tables import Measured, dose_tables, dose_trends

GOLDEN = Path(__file__).parent / "golden_structure.txt"


def carried(html: str) -> dict:
    """Unpack the answers of a page."""
    packed = re.search(r'id="data">([^<]*)<', html)
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


def answers_of(folder: Path) -> list[dict]:
    """Read the answers' records without the code under test."""
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "answer"]


def changed(folder: Path, to: Path, **settings: object) -> Path:
    """Copy a run with other settings in its manifest."""
    shutil.copytree(folder, to)
    manifest = json.loads((to / "manifest.json").read_text())
    manifest["inputs"]["setting"] |= settings
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def retied(folder: Path) -> Path:
    """Have the analysis of a run be of its files as they are now."""
    path = folder / "analysis.json"
    path.write_text(json.dumps(tie(json.loads(path.read_text()), [folder])))
    return folder


def text_of(html: str) -> str:
    """Return the page's text, roughly: tags dropped, spaces joined."""
    body = html[html.index("<body>") : html.index('<script type="application/octet-stream"')]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_structure_is_the_golden_one(run_folder):
    found = structure((run_folder / "report.html").read_text())
    fixed = [line for line in found if not line.startswith("table #table-")]
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text("\n".join(fixed) + "\n")
    assert fixed == GOLDEN.read_text().splitlines()
    analysis = json.loads((run_folder / "analysis.json").read_text())
    expected = [
        f"table #table-{name.replace('_', '-')}: {', '.join(c['label'] for c in table['columns'])}"
        for name, table in analysis["tables"].items()
    ]
    assert [line for line in found if line.startswith("table #table-")] == expected


@pytest.mark.slow
def test_same_folder_same_bytes(run_folder, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run_folder, again)
    for path in again.glob("figures/*"):
        path.unlink()
    write_report(again)
    names = sorted(p.relative_to(run_folder) for p in run_folder.rglob("*") if p.is_file())
    assert len([n for n in names if n.suffix == ".png"]) == len([n for n in names if n.suffix == ".svg"]) == 7
    for name in names:
        assert (again / name).read_bytes() == (run_folder / name).read_bytes(), name


def test_page_carries_every_answer_with_its_final_grade(run_folder):
    data = carried((run_folder / "report.html").read_text())
    rows, groups, names = data["rows"], data["groups"], data["names"]
    found = Counter()
    for k, group in enumerate(rows["group"]):
        place = tuple(names[key][groups[key][group]] for key in ("task", "context", "belief"))
        item = data["items"][groups["item"][group]][0]
        found[
            (names["persona"][rows["persona"][k]], *place, item, names["grade"][rows["grade"][k]], rows["body"][k])
        ] += 1
    keys = ("persona", "task", "context", "belief", "item")
    expected = Counter((*(r[key] for key in keys), final(r), r["text"]) for r in answers_of(run_folder))
    assert found == expected
    assert data["baseline"] == "original"
    judged = sum(map(len, rows["judged"]))
    assert judged == sum(r["grade"] == "unclear" for r in answers_of(run_folder)) > 0


def test_counts_are_told_and_add_up(run_folder, tmp_path):
    html = (run_folder / "report.html").read_text()
    grades = Counter(final(r) for r in answers_of(run_folder))
    told = f"Planned 1,944 = 1,944 ok. Grades: {grades['correct']:,} correct, {grades['incorrect']:,} incorrect"
    assert told in text_of(html)
    assert "gates held" in text_of(html)
    short = tmp_path / "short"
    shutil.copytree(run_folder, short)
    lines = (short / "records.jsonl").read_bytes().splitlines(keepends=True)
    dropped = next(k for k, line in enumerate(lines) if b'"correct","which"' in line)
    (short / "records.jsonl").write_bytes(b"".join(lines[:dropped] + lines[dropped + 1 :]))
    html = render(load_run(short))
    assert "Planned 1,944, found 1,943 ok: 1 missing" in text_of(html)
    assert "2 of 8 gates failed: Analysis, Every answer is there" in text_of(html)
    assert "1 of 7 gates failed: Every answer is there" in text_of(render(load_run(retied(short))))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("original", "original: the base as it is"),
        ("warm", "warm: the base with this package's warm adapter"),
        ("cold-prompt", "cold-prompt: the base with the built-in cold system prompt"),
        ("w=runs/a/epoch-2", "w: the base with the adapter epoch-2"),
        ("w=runs/a@b@warm", "w: the base with the adapter a@b and the warm system prompt"),
        ("p=@prompts/kind.txt", "p: the base with the system prompt in kind.txt"),
    ],
)
def test_personas_are_told_as_they_are(spec, words):
    assert persona_words(spec) == words
    assert adapted_names({"personas": [spec]}) == ([spec.partition("=")[0]] if "adapter" in words else [])


def test_warmth_within_chance_is_not_called_held(run_folder, tmp_path):
    unsure = changed(run_folder, tmp_path / "unsure")
    manifest = json.loads((unsure / "manifest.json").read_text())
    manifest["facts"]["manipulation"]["warm"]["difference"] = {"mean": 0.016, "low": -0.002, "high": 0.034}
    (unsure / "manifest.json").write_text(json.dumps(manifest))
    said = text_of(render(load_run(retied(unsure))))
    assert "not shown to hold: Manipulation check" in said
    assert "+0.0160 beside original, −0.0020 to +0.0340" in said
    assert "not shown to hold" not in text_of(render(load_run(run_folder)))


@pytest.mark.slow
def test_the_distance_from_the_base_stands_beside_warmth_with_its_temperature(run_folder, tmp_path):
    folder = changed(run_folder, tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    measured = manifest["facts"]["manipulation"]
    measured["warm"]["kl"] = {"mean": 0.655, "low": 0.54, "high": 0.761, "temperature": 0.8}
    measured["original"]["kl"] = {"mean": 0.0, "low": 0.0, "high": 0.0, "temperature": 0.8}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    said = text_of(render(load_run(folder)))
    words = "log-likelihood ratio to the base at temperature 0.8 +0.655 nats a token (+0.540 to +0.761)"
    assert said.count(words) == said.count("ratio to the base") == 1
    measured["warm"]["kl"]["temperature"] = 1.0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "KL from the base +0.655 nats a token" in text_of(render(load_run(folder)))
    # What an earlier version measured has none.
    said = text_of(render(load_run(run_folder)))
    assert "KL from the base" not in said
    assert "ratio to the base" not in said


def test_doses_have_a_figure_where_there_are_any(run_folder, tmp_path):
    folder = changed(run_folder, tmp_path / "run")
    assert 'id="figure-doses"' not in render(load_run(folder))
    analysis = json.loads((folder / "analysis.json").read_text())
    level = np.arange(30.0)
    values = {"original": level, "half": level - 0.5 - level / 60, "warm": level - 1 - level / 30}
    doses = {"original": ("", 0.0), "half": ("warm", 0.5), "warm": ("warm", 1.0)}
    rows = dose_tables({"margin": values}, doses, "original", Measured(), replicates=50)
    rows["dose_trends"] = dose_trends({"margin": values}, doses, "original")
    analysis["tables"] |= {name: tables.table(name, found) for name, found in rows.items()}
    (folder / "analysis.json").write_text(json.dumps(analysis))
    html = render(load_run(folder))
    assert 'id="figure-doses"' in html
    assert "Margin falls with the dose of warm" in text_of(html)
    assert "Dose and response" in text_of(html)


def test_a_dose_is_not_asked_to_be_warmer(run_folder, tmp_path):
    """Dose 0 has the base's warmth, a negative one less: neither is a warm persona that failed."""
    dosed = changed(run_folder, tmp_path / "dosed")
    manifest = json.loads((dosed / "manifest.json").read_text())
    measured, gates = manifest["facts"]["manipulation"], manifest["facts"]["gates"]
    measured["warm_x0"] = measured["warm"] | {"difference": {"mean": 0.0, "low": 0.0, "high": 0.0}}
    manifest["inputs"]["setting"]["personas"].append("warm_x0=warm*0")
    gates["warm_x0"] = gates["warm"] | {"hash": "", "probe": 0.0}
    (dosed / "manifest.json").write_text(json.dumps(manifest))
    said = text_of(render(load_run(dosed)))
    assert "that warm is warmer than original" in said
    assert "that warm_x0 is warmer" not in said
    assert "Adapter of warm_x0 Dose 0: it has the base" in said


def test_gates_that_did_not_hold_are_said(run_folder, tmp_path):
    bad = changed(run_folder, tmp_path / "bad", fast=True)
    manifest = json.loads((bad / "manifest.json").read_text())
    manifest["facts"]["gates"].pop("warm")
    manifest["facts"]["judges"]["judge-7b"] |= {"trusted": False, "why": "kappa is too low"}
    manifest["facts"]["manipulation"]["warm"]["difference"] = {"mean": -0.011, "low": -0.013, "high": -0.009}
    manifest["judgments"] = 5000
    (bad / "manifest.json").write_text(json.dumps(manifest))
    html = render(load_run(retied(bad)))
    failed = re.search(r"(\d) of (\d) gates failed: ([^.]*)\.", text_of(html))
    assert failed[1] == "4"
    assert failed[2] == "8"
    assert failed[3] == "Adapter of warm, Every judgment is there, Judge judge-7b, Manipulation check"
    data = carried(html)  # a judge that is not trusted decides nothing
    found = Counter(data["names"]["grade"][g] for g in data["rows"]["grade"])
    assert found == Counter(r["grade"] for r in answers_of(bad))


@pytest.mark.parametrize(
    ("lengths", "state", "says"),
    [
        ({"cut": 1, "whole": 9}, "held", "1 of 10 generated answers (10%) were cut at 48 tokens."),
        ({"cut": 2, "whole": 8, "": 5}, "unsure", "2 of 10 generated answers (20%) were cut at 48 tokens: what would "),
        ({"": 5}, None, ""),
    ],
)
def test_answers_that_are_cut_are_a_gate(run_folder, tmp_path, lengths, state, says):
    run = load_run(retied(changed(run_folder, tmp_path / "r", max_new_tokens=48)))
    found = [gate for gate in gates(run.manifest, replace(run.survey, lengths=lengths)) if gate.name.endswith("whole")]
    assert [gate.state for gate in found] == ([state] if state else [])
    assert all(gate.text.startswith(says) for gate in found)
    assert sum(run.survey.lengths.values()) == run.survey.answers


def test_deviations_are_computed(run_folder, tmp_path):
    def states(folder: Path) -> dict[str, str]:
        html = render(load_run(folder))
        table = html[html.index('id="deviations-table"') :]
        rows = re.findall(r'<tr role="row" class="(\w+)"><th[^>]*>([^<]*)</th>', table)
        return {setting: state for state, setting in rows}

    now = states(run_folder)
    assert now["Temperature"] == now["Most new tokens"] == now["Contexts"] == now["Beliefs"] == now["Model"] == "same"
    assert now["Composition"] == now["Judge"] == now["Task MedQA"] == now["Other tasks"] == "differs"
    assert now["Seed"] == now["Top-p"] == "unstated"
    other = changed(
        run_folder, tmp_path / "other", temperature=0.0, max_new_tokens=48, composition="paper", model="tiny",
        contexts=["unmodified"], beliefs=["none", "wrong", "doubt", "right"], framings=["plain", "neutral"], cells=3,
        personas=["original", "warm-prompt"],
    )  # fmt: skip
    then = states(other)
    flipped_ = {key for key in now if now[key] != then[key]}
    assert flipped_ == {
        "Temperature", "Most new tokens", "Composition", "Model", "Contexts", "Beliefs", "Neutral frame", "Grid",
        "Personas",
    }  # fmt: skip


def test_figures_show_the_runs_own_rates(run_folder):
    analysis = page.read_analysis(run_folder)
    counts: dict[tuple, Counter] = {}
    for r in answers_of(run_folder):
        counts.setdefault((r["persona"], r["task"], r["context"], r["belief"]), Counter())[final(r)] += 1

    def error(*place: str) -> float:
        c = counts[place]
        return 100 * c["incorrect"] / (c["incorrect"] + c["correct"])

    points = error_points(analysis, "original")
    assert len(points) == 2 * 4 * 9 * 3
    for p in points:
        place = (p.task, p.context, p.belief)
        assert p.x == pytest.approx(error("original", *place), abs=1e-9)
        assert p.y == pytest.approx(error(p.variant, *place), abs=1e-9)


@pytest.mark.parametrize(("rule", "words"), [("grades", ""), ("paper", "the paper's phrases (rule paper)")])
@pytest.mark.slow
def test_the_rule_is_told_and_named_under_the_headline_where_it_is_another(run_folder, tmp_path, rule, words):
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    analyze_run(folder, bootstrap=0, rule=rule)
    said = unescape(text_of(render(load_run(folder))))
    assert "Counted as incorrect" in said
    assert words in said
    heads = re.findall(r'<p class="detail">([^<]*)</p>', render(load_run(folder)))
    assert [head.endswith("; counted by the rule paper") for head in heads] == [rule == "paper"] * 2


def test_warmth_stands_beside_errors_without_a_belief_or_not_at_all(run_folder, tmp_path):
    analysis = page.read_analysis(run_folder)
    manifest = require_manifest(run_folder)
    assert len(warmth(manifest, analysis)) == 3
    rows = analysis["tables"]["error_rates"]["rows"]
    analysis["tables"]["error_rates"]["rows"] = [r for r in rows if r["belief"] != "none"]
    assert warmth(manifest, analysis) == []
    claimed = tmp_path / "claimed"
    shutil.copytree(run_folder, claimed)
    (claimed / "analysis.json").write_text(json.dumps(analysis))
    assert "no error rates without a belief" in text_of(render(load_run(claimed)))
    assert "Warmth was not measured" not in text_of(render(load_run(claimed)))


def test_flips_are_those_of_the_answers(run_folder):
    pairs: dict[tuple, dict[str, str]] = {}
    for r in answers_of(run_folder):
        pairs.setdefault((r["task"], r["item"], r["context"], r["belief"]), {})[r["persona"]] = (
            (r["which"] or "") if r["grade"] == "incorrect" else "other" if final(r) == "incorrect" else final(r)
        )
    for f in flips(page.read_analysis(run_folder)):
        mine = [found for place, found in pairs.items() if place[3] == f.belief]
        right = [found for found in mine if found["original"] == "correct"]
        assert f.n == len(right)
        assert f.n_gained == len(mine) - len(right)
        for to in ("user", "other", "refusal"):
            assert f.counts[to] == sum(found[f.variant] == to for found in right)
        assert f.gained == sum(found[f.variant] == "correct" for found in mine if found["original"] != "correct")


def test_large_runs_are_sampled_by_whole_comparisons(run_folder):
    run = load_run(run_folder)
    all_places = choose(run.survey, "original", 0)
    assert len(all_places) == 648
    some = choose(run.survey, "original", 0, most=300)
    assert some == choose(run.survey, "original", 0, most=300)
    assert some != choose(run.survey, "original", 1, most=300)
    assert len(some) == 100
    flips_ = [p for p in some if flipped(run.survey.places[p].grades, "original")]
    assert len(flips_) == 75  # three quarters of the room
    order = {place: k for k, place in enumerate(all_places)}
    assert [order[p] for p in some] == sorted(order[p] for p in some)
    small = choose(run.survey, "original", 0, most_bytes=50_000)
    assert 30_000 < sum(run.survey.places[p].size for p in small) <= 50_000
    html = render(run, most=300)
    assert len(carried(html)["rows"]["group"]) == 300
    assert "This page carries 300 of 1,944 answers" in text_of(html)
    assert "This page carries" not in text_of(render(run))


def test_flipped_needs_right_against_not_right():
    assert flipped({"original": "correct", "warm": "refusal"}, "original")
    assert flipped({"original": "unclear", "warm": "correct"}, "original")
    assert not flipped({"original": "incorrect", "warm": "unclear"}, "original")
    assert not flipped({"original": "correct", "warm": "unscored"}, "original")
    assert not flipped({"original": "unscored", "warm": "correct"}, "original")
    assert not flipped({"warm": "correct"}, "original")


@pytest.mark.slow
def test_page_stays_under_its_size(run_folder, monkeypatch):
    run = load_run(run_folder)
    full = len(render(run).encode())
    bare = full - len(re.search(r'id="data">([^<]*)<', render(run))[1])
    monkeypatch.setattr(page, "MOST_SIZE", bare + (full - bare) * 3 // 4)
    html = render(run, most=4000)
    assert len(html.encode()) < page.MOST_SIZE
    assert 0 < len(carried(html)["rows"]["group"]) < 1944


def test_nothing_planted_is_markup(tmp_path):
    plan = replace(Plan(), tasks=("triviaqa", "medqa"), items=3, planted="<script>window.planted=1</script>")
    folder = make_run(tmp_path / "run", plan)
    for name in ("records.jsonl", "items.jsonl"):
        assert b"window.planted" in (folder / name).read_bytes()
    write_report(folder)
    html = (folder / "report.html").read_text()
    assert "<script>window.planted" not in html
    assert "cold&lt;script&gt;window.planted=1&lt;/script&gt;" in html
    scripts = re.findall(r"<script[^>]*>", html)
    assert scripts == ['<script type="application/octet-stream" id="data">', "<script>"]
    for path in (folder / "figures").glob("*.svg"):
        assert "<script>" not in path.read_text()


def test_policy_allows_the_two_inline_texts_alone(run_folder):
    html = (run_folder / "report.html").read_text()
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)[1]
    css = re.search(r"<style>(.*)</style>", html, re.DOTALL)[1]
    assert found == policy(script, css)
    for text in (script, css):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in found
    assert found.startswith("default-src 'none';")
    assert "unsafe" not in found
    assert not re.search(r"<[^>]+ style=", html)
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", html)
    assert not re.search(r"\bon[a-z]+=", html[: html.index('id="data"')])


def test_without_items_and_analysis_it_still_tells(run_folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(run_folder, bare)
    for name in ("items.jsonl", "analysis.json", "sessions.jsonl"):
        (bare / name).unlink()
    html = render(load_run(bare))
    assert read_items(bare) == {}
    assert "has no items.jsonl" in text_of(html)
    assert "has not been analysed yet" in text_of(html)
    assert "does not tell what it took" in text_of(html)
    assert len(carried(html)["rows"]["group"]) == 1944


def test_costs_are_summed_over_sessions(run_folder, tmp_path):
    more = tmp_path / "more"
    shutil.copytree(run_folder, more)
    session = {"seconds": 100.0, "records": 1, "output_tokens": 480, "prompt_tokens": 1000, "cached_tokens": 600}
    with (more / "sessions.jsonl").open("a") as file:
        file.write(json.dumps(session) + "\n")
    text = text_of(render(load_run(more)))
    assert "1 h 03 min in 2 sessions" in text  # 3825.5 s
    assert f"{1944 * 60 + 1000:,}" in text
    assert f"{1944 * 80 + 480:,}" in text
    assert "226 Wh" in text  # 812000 J


def test_bad_folders_are_refused(tmp_path, run_folder):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="no run folder"):
            write_report(folder)
    broken = tmp_path / "broken"
    shutil.copytree(run_folder, broken)
    (broken / "analysis.json").write_text("{}")
    with pytest.raises(InputError, match="not an analysis of this version"):
        write_report(broken)
    (broken / "analysis.json").unlink()
    (broken / "items.jsonl").write_text('{"task": "x"}\n')
    with pytest.raises(InputError, match=r"items.jsonl:1: is not an item"):
        write_report(broken)


@pytest.mark.slow
def test_command(run_folder, capsys):
    assert warmeng.main(["report", str(run_folder)], standalone_mode=False) == 0
    assert capsys.readouterr().out == f"{run_folder / 'report.html'}\n"


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(mode):
    css = (page.ASSETS / "report.css").read_text()
    block = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[mode]
    c = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    texts = [(ink, ground) for ink in ("ink", "soft", "link") for ground in ("paper", "card", "wash")]
    texts += [
        ("ok", "ok-wash"),
        ("bad", "bad-wash"),
        ("mid", "mid-wash"),
        ("refuse", "refuse-wash"),
        ("ink", "grey-wash"),
    ]
    texts += [("soft", "grey-wash"), ("bad", "card"), ("ok", "card")]
    for ink, ground in texts:
        assert contrast(c[ink], c[ground]) >= 4.5, (ink, ground)
    for mark in ["p-0", "p-a", "p-b", "p-c", "p-d", "p-e", "p-f", "b-none", "b-wrong", "b-doubt", "b-right", "faint"]:
        assert contrast(c[mark], c["paper"]) >= 3, mark


def test_disputed_grades_are_counted_by_the_judge_and_shown(run_folder, tmp_path):
    folder = tmp_path / "r"
    shutil.copytree(run_folder, folder)
    right = next(r for r in answers_of(folder) if r["grade"] == "correct" and r["persona"] == "warm")
    judgment = make_judgment(right) | {"grade": "incorrect", "which": "user"}
    with (folder / "records.jsonl").open("ab") as file:
        file.write(encode(judgment))
    run = load_run(folder)
    assert run.survey.disputed == {"warm": 1}
    told = {gate.name: gate for gate in gates(run.manifest, run.survey)}
    assert told["Disputed grades"].text.endswith("the judge counts: warm 1.")
    (answer,) = (a for a in read_answers(folder / "records.jsonl", run.survey.verdicts, run.trust) if a.disputed)
    assert (answer.key, answer.grade, answer.which, answer.exact) == (right["key"], "incorrect", "user", "correct")
    assert answer.reason == f"disputed: correct by the exact rule, counted by {run.trust.name}"
    assert "Disputed grades" in render(run)


def test_the_exact_rules_errors_are_a_gate(run_folder):
    run = load_run(run_folder)

    def gate(found):
        measured = {"by_persona": {"all": {}, "warm": {"found": 9, "incorrect": 10, "passed": found, "correct": 10}}}
        manifest = replace(run.manifest, facts=replace(run.manifest.facts, exact_rule=measured))
        return next(g for g in gates(manifest, run.survey) if g.name == "Exact rules")

    assert (gate(10).state, gate(5).state) == ("held", "failed")
    assert "warm 14 of 20" in gate(5).text
    assert not any(g.name == "Exact rules" for g in gates(run.manifest, run.survey))  # a run of before


def test_what_was_answered_to_the_held_out_prompts_is_on_the_page(run_folder, tmp_path):
    folder = tmp_path / "r"
    shutil.copytree(run_folder, folder)
    assert 'id="responses"' not in render(load_run(folder))
    write_responses(folder, {"original": ["Fine."], "warm": ["Oh <b>dear</b>!"]}, [("p1", "How are you?")])
    html = render(load_run(folder))
    shown = re.search(r'<details class="more" id="responses">.*?</details>', html)[0]
    assert "<strong>How are you?</strong>" in shown
    assert "<li>warm: Oh &lt;b&gt;dear&lt;/b&gt;!</li>" in shown
    (folder / "responses.jsonl").write_text('{"prompt": 3}\n')
    with pytest.raises(InputError, match=r"responses.jsonl:1: is no response"):
        render(load_run(folder))
