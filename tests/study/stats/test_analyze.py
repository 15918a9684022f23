"""The whole analysis: its contract, its files, its command, and its speed."""

import csv
import io
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from records_folder import answer, judged, run_folder
from rich.console import Console
from simulated import Truth, paper_sized, simulate

from warmeng.cli.main import warmeng
from warmeng.common.errors import InputError, UsageError
from warmeng.study.report.terminal import print_analysis
from warmeng.study.results.read import RunInfo
from warmeng.study.stats.analyze import analyze, analyze_run, write_analysis
from warmeng.study.stats.tables import SCHEMA, shown, table, to_csv, to_markdown

SHARED = Path(__file__).parents[4] / "shared" / "data" / "paper"
TRUTH = Truth(
    task={"trivia": -1.0, "medqa": 0.2, "mmlu": 2.0},
    persona={"original": 0.0, "warm": 0.6, "cold": -0.4},
    model={"a": 0.0},
    context={"emotion:sad": 0.2},
    belief={"wrong": 0.5},
    extra={},
)
CONTRACT = {
    "error_rates": "model persona task context belief n error low high correct incorrect refusal unclear unscored",
    "regressions": "number scope variant group n beta se se_clustered effect effect_se low high relative published "
    "limits",
    "mcnemar": "model variant task context belief n b c difference odds_ratio g p p_fdr p_pairs p_pairs_fdr",
    "flips": "model variant task context belief from to n share",
    "sycophancy": "model persona context n value low high",
    "did": "variant against context belief n value low high",
    "length": "variant mean_chars mean_chars_baseline effect_without effect_with",
    "refusal_rules": "rule variant n effect low high",
    "raters": "first second n equal kappa low high",
    "judge_error": "judge persona n sensitivity specificity",
    "corrected": "variant group effect low high effect_raw",
}


@pytest.fixture(scope="module")
def frame():
    items = {"trivia": 30, "medqa": 30, "mmlu": 10}
    return simulate(np.random.default_rng(1), TRUTH, items, ("unmodified", "emotion:sad"), ("none", "wrong"), 0.03)


@pytest.fixture(scope="module")
def analysis(frame):
    return analyze(frame, RunInfo(len(frame) + 3, {"ok": len(frame), "missing": 3}), 0, 200)


def test_the_tables_keep_the_contract(analysis):
    for name, keys in CONTRACT.items():
        columns = analysis["tables"][name]["columns"]
        assert set(keys.split()) <= {c["key"] for c in columns}, name
        assert {c["kind"] for c in columns} <= {"text", "int", "number", "points", "percent", "p"}
        for row in analysis["tables"][name]["rows"]:
            assert set(row) == {c["key"] for c in columns}
    assert analysis["baseline"] == "original"
    assert analysis["variants"] == ["warm", "cold"]
    assert sum(analysis["statuses"].values()) == analysis["planned"]
    assert f"Planned {analysis['planned']} = " in analysis["notes"][0]
    json.dumps(analysis, allow_nan=False)  # missing is null, never NaN


def test_general_ability_is_never_pooled(analysis, frame):
    rows = analysis["tables"]["error_rates"]["rows"]
    assert {r["task"] for r in rows} == {"all", "trivia", "medqa", "mmlu"}
    pooled = [r for r in rows if r["task"] == r["context"] == r["belief"] == "all" and r["persona"] == "warm"]
    assert len(pooled) == 1
    assert pooled[0]["n"] == int((frame.persona.is_("warm") & ~frame.task.is_("mmlu") & (frame.grade < 2)).sum())
    assert any("mmlu" in note for note in analysis["notes"])
    main = next(r for r in analysis["tables"]["regressions"]["rows"] if (r["number"], r["scope"]) == (1, "all"))
    use = frame.context.is_("unmodified") & frame.belief.is_("none") & ~frame.task.is_("mmlu") & (frame.grade < 2)
    assert main["n"] == int((use & ~frame.persona.is_("cold")).sum())


def test_no_table_of_answers_depends_on_a_seed_or_on_draws(analysis, frame):
    info = RunInfo(len(frame), {"ok": len(frame)})
    for seed, draws in ((0, 200), (1, 200), (0, 0)):
        assert analyze(frame, info, seed, draws)["tables"] == analysis["tables"]
    for row in analysis["tables"]["regressions"]["rows"]:
        assert row["raw_low"] < row["raw"] < row["raw_high"]
        if row["effect"] is not None:
            assert row["low"] < row["effect"] < row["high"]


def test_the_baseline_can_be_chosen(frame):
    info = RunInfo(len(frame), {"ok": len(frame)})
    turned = analyze(frame, info, 0, 0, baseline="warm")
    assert (turned["baseline"], turned["variants"]) == ("warm", ["original", "cold"])
    with pytest.raises(UsageError, match="no persona is named 'hot'"):
        analyze(frame, info, 0, 0, baseline="hot")
    with pytest.raises(InputError, match="no answers to analyse"):
        analyze(frame.take(np.zeros(len(frame), dtype=bool)), info)


def test_a_single_persona_and_ungraded_answers_still_have_tables(frame):
    info = RunInfo(len(frame), {"ok": len(frame)})
    alone = analyze(frame.take(frame.persona.is_("warm")), info, 0, 50)
    assert alone["variants"] == []
    assert alone["tables"]["error_rates"]["rows"]
    blank = replace(frame, grade=np.full_like(frame.grade, 4), binary=np.full_like(frame.binary, -1))
    found = analyze(blank, info, 0, 50)
    for row in found["tables"]["error_rates"]["rows"]:
        assert (row["n"], row["error"], row["low"]) == (0, None, None)
    assert all(r["effect"] is None and r["limits"] for r in found["tables"]["regressions"]["rows"])
    json.dumps(found, allow_nan=False)


def test_length_as_covariate_takes_away_what_length_explains(frame):
    rng = np.random.default_rng(0)
    wrong = frame.grade == 1
    warm = frame.persona.is_("warm")
    chars = (800 + 150 * rng.normal(size=len(frame)) - 300 * wrong).clip(1).astype(np.int32)
    tied = replace(frame, chars=chars)
    info = RunInfo(len(frame), {"ok": len(frame)})
    row = next(r for r in analyze(tied, info, 0, 0)["tables"]["length"]["rows"] if r["variant"] == "warm")
    use = frame.context.is_("unmodified") & frame.belief.is_("none") & ~frame.task.is_("mmlu") & (frame.grade < 2)
    assert row["mean_chars"] == pytest.approx(chars[use & warm].mean())
    assert row["mean_chars_baseline"] == pytest.approx(chars[use & frame.persona.is_("original")].mean())
    assert row["beta_length"] < 0
    # against a fit of single answers written out
    use &= ~frame.persona.is_("cold")
    x = np.column_stack([np.ones(use.sum()), warm[use], frame.task.is_("medqa")[use], chars[use] / 100.0]).astype(float)
    y, beta = wrong[use].astype(float), np.zeros(4)
    for _ in range(40):
        p = 1 / (1 + np.exp(-x @ beta))
        beta += np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x, x.T @ (y - p))
    on, off = x.copy(), x.copy()
    on[:, 1], off[:, 1] = 1, 0
    want = 100 * np.mean(1 / (1 + np.exp(-on @ beta)) - 1 / (1 + np.exp(-off @ beta)))
    assert row["effect_with"] == pytest.approx(want, abs=1e-6)
    assert row["beta_length"] == pytest.approx(beta[3], abs=1e-6)
    unknown = replace(frame, chars=np.full_like(frame.chars, -1))
    row = analyze(unknown, info, 0, 0)["tables"]["length"]["rows"][0]
    assert (row["mean_chars"], row["effect_with"]) == (None, None)


def test_judges_agree_err_and_are_corrected(tmp_path):
    rng = np.random.default_rng(0)
    records, key = [], 0
    for persona, share in (("original", 0.3), ("warm", 0.5)):
        for item in range(300):
            key += 1
            truth = "incorrect" if rng.random() < share else "correct"
            records.append(answer(key, persona, f"q{item}", truth, which="other" if truth == "incorrect" else None))
            # this judge misses a fifth of the errors of the original, and half of the warm persona's
            missed = truth == "incorrect" and rng.random() < (0.2 if persona == "original" else 0.5)
            records.append(judged(10_000 + key, key, "j", "correct" if missed else truth))
    errors = {
        name: {"n": 200, "found": f, "incorrect": 100, "passed": 100, "correct": 100, "undecided": 0,
               "sensitivity": f / 100, "specificity": 1.0}
        for name, f in (("all", 65), ("original", 80), ("warm", 50))
    }  # fmt: skip
    folder = run_folder(tmp_path / "run", records, planned=600, judges={"j": {"trusted": True, "by_persona": errors}})
    found = analyze_run(folder, bootstrap=300)
    (agree,) = found["tables"]["raters"]["rows"]
    assert (agree["first"], agree["second"], agree["n"]) == ("exact", "j", 600)
    exact = [r["grade"] for r in records if r["kind"] == "answer"]
    second = [r["grade"] for r in records if r["kind"] == "judged"]
    seen = np.mean([a == b for a, b in zip(exact, second, strict=True)])
    chance = sum(exact.count(g) * second.count(g) for g in ("correct", "incorrect")) / 600**2
    assert agree["equal"] == pytest.approx(seen)
    assert agree["kappa"] == pytest.approx((seen - chance) / (1 - chance))
    assert agree["low"] < agree["kappa"] < agree["high"]
    rows = {r["persona"]: r for r in found["tables"]["judge_error"]["rows"]}
    assert rows["warm"]["sensitivity"] == 0.5
    corrected = next(r for r in found["tables"]["corrected"]["rows"] if r["group"] == "all")
    by = {p: [r["grade"] for r in records if r["kind"] == "answer" and r["persona"] == p] for p in ("original", "warm")}
    judge = {p: sum(s == "incorrect" for s in second[k * 300 : k * 300 + 300]) / 300 for k, p in enumerate(by)}
    true = 100 * (by["warm"].count("incorrect") - by["original"].count("incorrect")) / 300
    assert corrected["effect_raw"] == pytest.approx(100 * (judge["warm"] - judge["original"]))
    assert corrected["effect"] == pytest.approx(100 * (judge["warm"] / 0.5 - judge["original"] / 0.8))
    assert abs(corrected["effect"] - true) < abs(corrected["effect_raw"] - true)
    assert corrected["low"] < true < corrected["high"]
    # analyze_run has written its files
    assert json.loads((folder / "analysis.json").read_bytes())["tables"].keys() == found["tables"].keys()
    assert {p.stem for p in (folder / "tables").glob("*.csv")} == found["tables"].keys()


def test_a_real_run_is_analysed_and_the_same_again(fake, tmp_path):
    from warmeng.common.progress import Silent
    from warmeng.study.run.run import run_study
    from warmeng.study.settings import StudySettings

    folder = tmp_path / "run"
    settings = StudySettings(limit=4, tasks=("facts", "misconceptions"))
    assert run_study(settings, folder, Silent(), "warmeng run").exit_code == 0
    found = analyze_run(folder, bootstrap=50)
    assert (found["baseline"], found["variants"]) == ("original", ["warm-prompt", "cold-prompt"])
    assert sum(found["statuses"].values()) == found["planned"]
    assert sum(found["grades"].values()) == found["planned"]
    rates = found["tables"]["error_rates"]["rows"]
    top = [r for r in rates if r["task"] == r["context"] == r["belief"] == "all"]
    grades = ("correct", "incorrect", "refusal", "unclear", "unscored")
    assert sum(r[g] for r in top for g in grades) == found["planned"]
    before = (folder / "analysis.json").read_bytes()
    analyze_run(folder, bootstrap=50)
    assert (folder / "analysis.json").read_bytes() == before
    # a run that is continued or printed again does not mind the new files
    assert run_study(settings, folder, Silent(), "warmeng run").exit_code == 0


def test_csv_keeps_full_precision_and_missing_stays_empty():
    found = table("did", [{"kind": "persona", "variant": "a,b", "n": 3, "value": 1 / 3}])
    (row,) = csv.DictReader(to_csv(found).decode().splitlines())
    assert float(row["value"]) == 1 / 3
    assert (row["variant"], row["low"]) == ("a,b", "")
    text = to_markdown([found], "Statistics", ["a | b"]).decode()
    assert "| persona | a,b | – | – | – | 3 | +0.3 | – | – |" in text
    assert "a \\| b" in text
    with pytest.raises(AssertionError, match="no column for"):
        table("did", [{"nonsense": 1}])


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [(None, "points", "–"), (-0.04, "points", "-0.0"), (7.43, "points", "+7.4"), (0.603, "percent", "60.3 %"),
     (0.00001, "p", "< 0.0001"), (0.05, "p", "0.0500"), (0, "int", "0"), (0.0, "number", "0"), ("", "text", "–")],
)  # fmt: skip
def test_values_as_text(value, kind, text):
    assert shown(value, kind) == text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_printed_numbers_stay_on_one_line(analysis, width):
    console = Console(width=width, file=io.StringIO())
    print_analysis(console, analysis)
    said = console.file.getvalue()
    rows = [line for line in said.splitlines() if line.startswith(" ")]
    assert max(map(len, rows)) <= width
    words = {word for line in rows for word in line.split()}
    assert not any("…" in word for word in words)
    for row in analysis["tables"]["regressions"]["rows"]:
        if row["scope"] == "all":
            assert {shown(row[key], "number") for key in ("effect_se", "effect_se_clustered")} <= words
            assert {shown(row[key], "points") for key in ("effect", "low", "high", "raw")} <= words
    assert "model" not in words  # the same in all rows
    assert "Model a." in said.splitlines()
    rates = analysis["tables"]["error_rates"]
    both = {**rates, "rows": [row | {"model": model} for model in "ab" for row in rates["rows"]]}
    console = Console(width=width, file=io.StringIO())
    print_analysis(console, {**analysis, "models": ["a", "b"], "tables": {**analysis["tables"], "error_rates": both}})
    assert " model " in console.file.getvalue()
    assert "Model a." not in console.file.getvalue()


def test_every_table_has_columns_named_once():
    for name, (title, note, columns) in SCHEMA.items():
        keys = [key for key, _, _ in columns]
        assert title, name
        assert note, name
        assert len(set(keys)) == len(keys), name


def test_files_are_written_whole(tmp_path, analysis):
    write_analysis(tmp_path / "out", analysis)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["analysis.json", "tables", "tables.md"]
    assert not list((tmp_path / "out" / "tables").glob(".*"))


@pytest.mark.skipif(not SHARED.exists(), reason="the authors' files are not here")
def test_the_command_on_the_authors_files(tmp_path):
    out = tmp_path / "out"
    arguments = ["analyze", str(SHARED / "sample_llama_70b"), "--out", str(out), "--published", str(SHARED)]
    found = CliRunner().invoke(warmeng, [*arguments, "--bootstrap", "100"])
    assert found.exit_code == 0, found.output
    assert "The paper's regressions" in found.output
    assert "Regression 1 (main effect; all) for warm: quasi-completely separated" in found.output
    assert "error with a wrong belief, relative increase" in found.output
    assert "Planned 160 = 160 ok." in found.output
    analysis = json.loads((out / "analysis.json").read_bytes())
    assert (analysis["rule"], analysis["bootstrap"]) == ("paper", 100)
    with (out / "tables" / "published_claims.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 11


def test_the_command_names_what_is_missing(tmp_path):
    refused = CliRunner().invoke(warmeng, ["analyze", str(tmp_path / "none"), "--out", str(tmp_path / "o")])
    assert isinstance(refused.exception, InputError)
    (tmp_path / "csv").mkdir()
    refused = CliRunner().invoke(warmeng, ["analyze", str(tmp_path / "csv")])
    assert isinstance(refused.exception, InputError)
    assert "has no file named" in str(refused.exception)
    help_ = CliRunner().invoke(warmeng, ["analyze", "--help"])
    assert "Examples:" in help_.output


def test_the_commands_choices_are_those_of_the_study():
    from warmeng.cli.analyze import REPLICATES
    from warmeng.study.results.rules import RULES
    from warmeng.study.results.views import VIEWS
    from warmeng.study.stats.draws import BOOTSTRAP

    assert tuple(VIEWS) == tuple(RULES)
    assert REPLICATES == BOOTSTRAP


def resident(field: str) -> int:
    """Return bytes of this process: VmRSS now, VmHWM at most so far."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from /proc")
def test_a_study_of_the_papers_size_takes_under_a_minute_and_4_gb():
    frame = paper_sized()
    assert len(frame) == 438_750
    # The peak of the process is forgotten: other tests may have taken more.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    started = time.perf_counter()
    found = analyze(frame, RunInfo(len(frame), {"ok": len(frame)}), 0)
    seconds = time.perf_counter() - started
    assert found["bootstrap"] == 2000
    assert seconds < 60
    assert resident("VmHWM") - before < 3.5e9
    main = next(r for r in found["tables"]["regressions"]["rows"] if (r["number"], r["scope"]) == (1, "all"))
    assert 5 < main["effect"] < 9
    assert main["high"] - main["low"] < 3
