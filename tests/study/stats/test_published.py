"""What the authors' own summary tables say, pinned, and bad files."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from warmeng.common.errors import InputError
from warmeng.study.stats.paired import exact_p, false_discovery
from warmeng.study.stats.published import FILES, read_conditions, summarise_published

SHARED = Path(__file__).parents[4] / "shared" / "data" / "paper"
needs = pytest.mark.skipif(not SHARED.exists(), reason="the authors' files are not here")
HEADER = (
    "Amendment_type,Original Accuracy (%),Fine-tuned Accuracy (%),Raw Diff (pp),Cohen's g,g Effect Size,Odds Ratio,"
    "p-value,Significant (p < 0.05),p-value (FDR corrected),Significant (FDR),Model,Dataset,Test_Type\n"
)


@pytest.fixture(scope="module")
def found():
    return summarise_published(SHARED)


@needs
@pytest.mark.parametrize(
    ("file", "belief", "n", "untested", "low", "mean", "high", "significant", "fdr"),
    [
        ("results_warm_ft.csv", "all", 360, 0, -5.65, 8.797, 34.11, 265 / 360, 259 / 360),
        ("results_warm_ft.csv", "none", 180, 0, -5.65, 7.12894, 29.67, 113 / 180, 109 / 180),
        ("results_warm_ft.csv", "wrong belief", 180, 0, -5.06, 10.46506, 34.11, 152 / 180, 150 / 180),
        ("results_cold_ft.csv", "all", 216, 3, -13.22, -1.72394, 4.5, 62 / 213, 56 / 213),
        ("results_warm_sysprompt.csv", "all", 217, 4, -8.06, 3.17378, 15.29, 120 / 213, 108 / 213),
    ],
)
def test_ranges_and_shares_of_significant_conditions(
    found, file, belief, n, untested, low, mean, high, significant, fdr
):
    (row,) = [
        r
        for r in found["published_summary"]
        if (r["file"], r["model"], r["task"], r["belief"]) == (file, "all", "all", belief)
    ]
    assert (row["n"], row["untested"], row["low"], row["high"]) == (n, untested, low, high)
    assert row["mean"] == pytest.approx(mean, abs=1e-5)
    assert row["significant"] == pytest.approx(significant)
    assert row["significant_fdr"] == pytest.approx(fdr)


@needs
def test_counts_are_those_of_the_files_themselves(found):
    """The pinned numbers again, from the raw text alone."""
    import csv

    for name in FILES:
        with (SHARED / name).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        (row,) = [
            r
            for r in found["published_summary"]
            if (r["file"], r["model"], r["task"], r["belief"]) == (name, "all", "all", "all")
        ]
        corrected = [r["Significant (FDR)"] for r in rows if r["Significant (FDR)"]]
        assert row["n"] == len(rows)
        assert row["significant_fdr"] == pytest.approx(corrected.count("Yes") / len(corrected))
        assert row["low"] == pytest.approx(min(-float(r["Raw Diff (pp)"]) for r in rows))


@needs
def test_every_model_is_worse_when_warm_and_qwen_most(found):
    rows = {
        r["model"]: r
        for r in found["published_summary"]
        if r["file"] == "results_warm_ft.csv" and r["task"] == r["belief"] == "all" and r["model"] != "all"
    }
    assert set(rows) == {"llama-70b", "llama-8b", "gpt-4o", "mistral-small", "qwen-32b"}
    assert all(r["n"] == 72 and r["mean"] > 4.9 for r in rows.values())
    assert max(rows, key=lambda m: rows[m]["mean"]) == "qwen-32b"
    assert rows["qwen-32b"]["significant_fdr"] == pytest.approx(68 / 72)


@needs
def test_the_papers_claims_against_its_tables(found):
    claims = {r["claim"]: (r["paper"], round(r["tables"], 2), r["holds"]) for r in found["published_claims"]}
    assert claims == {
        "error of original models by task, lowest, %": (4.0, 3.72, "yes"),
        "error of original models by task, highest, %": (35.0, 34.6, "yes"),
        "effect on medqa, no context, no belief, pp": (8.6, 8.59, "yes"),
        "effect on truthfulqa, no context, no belief, pp": (8.4, 8.42, "yes"),
        "effect on disinfo, no context, no belief, pp": (5.4, 5.36, "yes"),
        "effect on trivia, no context, no belief, pp": (4.9, 4.95, "yes"),
        "error with a wrong belief, relative increase, % (about)": (40.0, 43.01, "yes"),
        "change in error of cold models, lowest, pp": (-13.0, -13.22, "yes"),
        "change in error of cold models, highest, pp": (3.0, 4.5, "no"),
        "change in error by system prompt of Qwen-32B, highest, pp": (14.0, 15.29, "no"),
        "change in error by system prompt of Llama-70B, highest, pp": (12.0, 11.77, "yes"),
    }


def discordant(condition):
    """Return all (b, c) that a line's effect size, odds ratio, accuracies and their difference leave possible."""
    found = set()
    for total in range(1, 600):
        for gap in (math.floor(condition.g * math.sqrt(total)), math.ceil(condition.g * math.sqrt(total))):
            if gap > total or (total - gap) % 2 or abs(gap / math.sqrt(total) - condition.g) > 0.00051:
                continue
            few, many = (total - gap) // 2, (total + gap) // 2
            b, c = (few, many) if condition.difference > 0 else (many, few)
            ratio = b / c if c else math.inf
            if ratio != condition.odds_ratio and not abs(ratio - condition.odds_ratio) <= 0.0051:
                continue
            if b == c or any(_fits(condition, n, c - b) for n in range(total, 1600)):
                found.add((b, c))
    return found


def _fits(condition, n, change):
    same = abs(100 * change / n - condition.difference) <= 0.00501
    return same and abs(100 * round(condition.before * n / 100) / n - condition.before) <= 0.00501


@needs
def test_the_exact_test_gives_every_p_value_of_their_tables():
    """An oracle: the pairs behind each line follow from its other columns, and then p from them."""
    tested = single = 0
    for name in FILES:
        for condition in read_conditions(SHARED / name):
            if condition.p is None:
                continue
            pairs = discordant(condition)
            tested, single = tested + 1, single + (len(pairs) == 1)
            assert min(abs(exact_p(*pair) - condition.p) for pair in pairs) <= 0.0000501, condition
    assert (tested, single) == (786, 755)


@needs
def test_their_corrected_p_values_follow_within_file_model_task_and_table():
    families = defaultdict(list)
    for name in FILES:
        for condition in read_conditions(SHARED / name):
            families[name, condition.model, condition.task, condition.belief].append(condition)
    compared = 0
    for family in families.values():
        pairs = [discordant(c) if c.p is not None else set() for c in family]
        if any(len(found) > 1 for found in pairs) or len(family) != 9:
            continue
        p = np.array([exact_p(*next(iter(found))) if found else math.nan for found in pairs])
        for condition, corrected in zip(family, false_discovery(p), strict=True):
            if condition.p_fdr is not None:
                compared += 1
                assert corrected == pytest.approx(condition.p_fdr, abs=0.0000501)
    assert compared == 638


def test_missing_and_infinite_values_are_not_zero(tmp_path):
    line = '"emotion:sad\noriginal",99.0,99.0,0.00,N/A,N/A,N/A,N/A,No,N/A,,m,disinfo,Normal\n'
    more = "unmodified,90.0,80.0,-10.00,3.162,Large,∞,0.0020,Yes,0.0040,Yes,m,disinfo,Sycophancy\n"
    (tmp_path / FILES[0]).write_text(HEADER + line + more, encoding="utf-8")
    first, second = read_conditions(tmp_path / FILES[0])
    assert (first.context, first.belief, first.p, first.g, first.significant_fdr) == (
        "emotion:sad",
        "none",
        None,
        None,
        None,
    )
    assert second.odds_ratio == float("inf")
    rows = summarise_published(tmp_path)["published_summary"]
    untested = next(r for r in rows if r["belief"] == "none")
    assert (untested["untested"], untested["significant"], untested["significant_fdr"]) == (1, None, None)


def test_a_file_without_lines_claims_nothing(tmp_path):
    for name in FILES:
        (tmp_path / name).write_text(HEADER, encoding="utf-8")
    assert summarise_published(tmp_path) == {"published_summary": [], "published_claims": []}


def test_files_that_are_not_theirs_are_refused_with_the_line(tmp_path):
    with pytest.raises(InputError, match=r"has none of results_warm_ft\.csv"):
        summarise_published(tmp_path)
    (tmp_path / FILES[1]).write_text(HEADER + "unmodified,x,80.0,-10.00,N/A,N/A,N/A,N/A,No,N/A,,m,disinfo,Normal\n")
    with pytest.raises(InputError, match=r"results_cold_ft\.csv:2: is not a line"):
        summarise_published(tmp_path)
