"""The figure of dose and response: what its sentence says, and the same numbers on the page and in the saved file."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from warmeng.study.report.charts import Look
from warmeng.study.report.dose_chart import dose_chart, dose_figure
from warmeng.study.report.dose_data import DoseCurve, dose_response, sentence
from warmeng.study.report.figures import dose_figure as saved_figure
from warmeng.study.report.figures import write_figures
from warmeng.study.results.manifest import Manifest, RunFacts
from warmeng.study.stats import tables
from warmeng.study.stats.dose_tables import Measured, dose_tables, dose_trends

DOSES = {"warm*-1": ("warm", -1.0), "warm": ("warm", 1.0), "warm*2": ("warm", 2.0), "cold": ("cold", 1.0),
         "cold*2": ("cold", 2.0), "placebo": ("placebo", 1.0), "placebo*2": ("placebo", 2.0)}  # fmt: skip
EFFECTS = {"original": 0.0, "warm*-1": 1.3, "warm": -1.1, "warm*2": -1.9, "cold": -1.4, "cold*2": -2.2, "placebo": 0.02,
           "placebo*2": 0.01}  # fmt: skip


@pytest.fixture(scope="module")
def analysis():
    rng = np.random.default_rng(0)
    level = rng.normal(4, 2, 60)
    outcomes = {name: level + effect + rng.normal(0, 0.4, 60) for name, effect in EFFECTS.items()}
    both = {"susceptibility": outcomes, "knowledge": outcomes}
    found = dose_tables(both, DOSES, "original", Measured(), replicates=200)
    found["dose_trends"] = dose_trends(both, DOSES, "original")
    return {"tables": {name: tables.table(name, rows) for name, rows in found.items()}}


def row(family, low, high):
    return {"family": family, "low": low, "high": high}


def test_the_sentence_says_what_is_shown_and_what_is_not():
    assert sentence("susceptibility", [row("warm", -2, -1), row("cold", -3, -1), row("placebo", -1, 1)]) == (
        "Susceptibility falls with the dose of warm and cold, and is not shown to change with that of placebo"
    )
    assert sentence("knowledge", [row("warm", -2, -1), row("cold", 1, 2)]) == (
        "Knowledge falls with the dose of warm, rises with the dose of cold"
    )
    assert sentence("knowledge", [row("a", -1, 2), row("b", None, None), row("c", 0, 1)]) == (
        "Knowledge is not shown to change with the dose of a, b and c"
    )


def test_curves_are_the_tables_first_outcome(analysis):
    found = dose_response(analysis)
    assert found.outcome == "susceptibility"
    assert [c.name for c in found.curves] == ["warm", "cold", "placebo"]
    warm = found.curves[0]
    assert warm.doses == (-1.0, 0.0, 1.0, 2.0)
    assert warm.means[1] == warm.curve[1] == warm.low[1] == 0.0
    assert warm.means[3] == pytest.approx(-1.9, abs=0.2)
    assert warm.banded
    assert found.sentence.startswith("Susceptibility falls with the dose of warm and cold, and is not shown")
    placebo = found.curves[2]
    assert placebo.curve == placebo.means
    assert placebo.low[1] < 0 < placebo.high[1]  # no way is drawn that is not shown
    assert dose_response({"tables": {}}) is None
    assert dose_response(None) is None


def test_the_page_draws_bands_curves_and_means_in_place(analysis):
    found = dose_figure(analysis, "original")
    assert found.title == dose_response(analysis).sentence
    assert "Change per unit of dose, with 95 % intervals: warm −" in found.caption
    for drawing in (found.wide, found.narrow):
        tree = ElementTree.fromstring(drawing)
        assert len(tree.findall("polyline")) == 3
        assert len([e for e in tree.findall("polygon") if "band" in e.get("class")]) == 3
        lines = [[tuple(map(float, p.split(","))) for p in e.get("points").split()] for e in tree.findall("polyline")]
        # The base is one place for all; warm falls from its left end to its right, down the page.
        base = lines[0][1]
        assert lines[1][0] == lines[2][0] == base
        assert [y for _, y in lines[0]] == sorted(y for _, y in lines[0])
        assert len(re.findall("<title>", drawing)) == len(DOSES)
    assert "placebo" in found.wide
    assert len(found.table.rows) == len(DOSES) + 3
    assert dose_figure({"tables": {}}, "original") is None


def test_arrays_alone_are_enough_and_a_curve_without_a_band_is_drawn():
    curve = DoseCurve("warm", (0.0, 1.0), (0.0, -1.0), (0.0, -1.0), (0.0, None), (0.0, None))
    drawn = dose_chart("d", "t", [curve], Look.of(["warm"], "original"), "nats")
    assert "band" not in drawn
    figure = saved_figure("Margins fall with the dose of warm", [curve], "nats")
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == [
        "Margins fall with the dose of warm"
    ]
    assert figure.axes[0].lines[2].get_ydata().tolist() == [0.0, -1.0]


def test_the_saved_figure_has_its_file(analysis, tmp_path):
    written = write_figures(tmp_path, Manifest({}, RunFacts(), 0), analysis, "original", ["original"])
    assert [p.name for p in written] == ["dose-response.png", "dose-response.svg"]
    assert "Susceptibility falls" in written[1].read_text()
