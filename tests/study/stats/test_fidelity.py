"""Two runs in two precisions: pairs, exact tests and shifts by hand, and what may not be compared."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from records_folder import answer, run_folder

from warmeng.cli.main import warmeng
from warmeng.common.errors import UsageError
from warmeng.study.results.manifest import read_manifest, write_manifest
from warmeng.study.results.tied import PLAN, digest
from warmeng.study.stats.compare import headline
from warmeng.study.stats.fidelity import fidelity
from warmeng.study.stats.paired import exact_p

KIND = {"kind": "int4", "scheme": "int4, groups of 128", "group": 128, "by": "warmeng, at load"}
ENGINE = {"dtype": "float32"}
MODEL = {"weights": "a" * 64, "dtype": "float32"}


def run(folder, wrong, items=20, **changes):
    """Write a run in which each persona is wrong on the named items of ``facts``."""
    # A key holds the model.
    records, key = [], 1000 if "model" in changes else 0
    for persona, missed in wrong.items():
        for k in range(items):
            key += 1
            grade = "incorrect" if k in missed else "correct"
            which = "other" if grade == "incorrect" else None
            records.append(answer(key, persona, f"q{k}", grade, which=which))
    run_folder(folder, records)
    manifest = read_manifest(folder)
    plan = {PLAN: digest([record["key"] for record in records])}
    inputs = {**manifest.inputs, **plan, "model": {**MODEL, **changes.pop("model", {})}, **changes.pop("inputs", {})}
    engine = {**ENGINE, **({"quantization": KIND} if "quantization" in (inputs["model"] or {}) else {})}
    write_manifest(folder, replace(manifest, inputs=inputs, facts=replace(manifest.facts, engine=engine)))
    return folder


QUANTIZED = {"quantization": KIND}


@pytest.fixture
def runs(tmp_path):
    first = run(tmp_path / "full", {"original": {0, 1, 2}, "warm": {0, 1, 2, 3, 4}})
    second = run(tmp_path / "int4", {"original": {0, 1, 2, 5}, "warm": {1, 2, 3, 4, 6, 7, 8, 9, 10}}, model=QUANTIZED)
    return first, second


def row(found, table, **wanted):
    wanted = {"task": "all", "context": "all", "belief": "all"} | wanted
    (only,) = (r for r in found["tables"][table]["rows"] if all(r[k] == v for k, v in wanted.items()))
    return only


def test_pairs_tests_and_shifts_by_hand(runs):
    found = fidelity(*runs)
    warm = row(found, "run_answers", persona="warm")
    # 0 became right; 6 to 10 became wrong.
    assert (warm["n"], warm["questions"], warm["b"], warm["c"], warm["changed"]) == (20, 20, 5, 1, 6 / 20)
    assert (warm["first"], warm["second"]) == (5 / 20, 9 / 20)
    assert warm["value"] == pytest.approx(100 * 4 / 20)
    assert (warm["p_pairs"], warm["p"]) == pytest.approx((exact_p(5, 1),) * 2)
    assert warm["low"] < warm["value"] < warm["high"]
    assert warm["detectable"] == pytest.approx((warm["high"] - warm["low"]) / 2 * (1 + 0.8416212 / 1.959964))
    original = row(found, "run_answers", persona="original")
    assert (original["b"], original["c"], original["p"]) == (1, 0, 1.0)
    contrast = row(found, "run_contrasts", persona="warm")
    assert (contrast["against"], contrast["n"]) == ("original", 20)
    assert contrast["first"] == pytest.approx(100 * 2 / 20)
    assert contrast["second"] == pytest.approx(100 * 5 / 20)
    assert contrast["value"] == pytest.approx(100 * 3 / 20)
    assert contrast["low"] < 15 < contrast["high"]
    assert found["first"] == "no quantisation, products in float32"
    assert found["second"] == "int4, groups of 128, warmeng, at load"
    lines = headline(found)
    assert any(line.startswith("warm: 30.0% of the answers have another grade; errors +20.0 points") for line in lines)
    assert any(line.startswith("warm minus original: +10.0 points, then +25.0: +15.0 (") for line in lines)


def test_the_plan_holds_the_model_and_versions_are_told(tmp_path):
    wrong = {"original": {0}, "warm": {1}}
    first, second = run(tmp_path / "a", wrong), run(tmp_path / "b", wrong, model=QUANTIZED)
    assert read_manifest(first).inputs[PLAN] != read_manifest(second).inputs[PLAN]
    assert not any("two versions" in note for note in fidelity(first, second)["notes"])
    manifest = read_manifest(second)
    write_manifest(second, replace(manifest, facts=replace(manifest.facts, sources="other")))
    assert any("two versions of warmeng" in note for note in fidelity(first, second)["notes"])


def test_turned_round_the_signs_turn(runs):
    there, back = fidelity(*runs), fidelity(*reversed(runs))
    for table in ("run_answers", "run_contrasts"):
        one, other = (row(found, table, persona="warm") for found in (there, back))
        assert one["value"] == pytest.approx(-other["value"])
        assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))
        assert one["p"] == pytest.approx(other["p"])


def test_where_nothing_changes_the_interval_still_has_a_width(tmp_path):
    wrong = {"original": {0, 1}, "warm": {0, 3}}
    found = fidelity(run(tmp_path / "a", wrong), run(tmp_path / "b", wrong, model=QUANTIZED))
    same = row(found, "run_answers", persona="warm")
    assert (same["changed"], same["b"], same["c"], same["value"], same["p"]) == (0, 0, 0, 0, None)
    assert same["low"] < 0 < same["high"]
    contrast = row(found, "run_contrasts", persona="warm")
    assert contrast["value"] == 0
    assert contrast["detectable"] > same["detectable"] > 0


def test_answers_that_one_run_lacks_or_leaves_undecided_are_no_pairs(tmp_path):
    first = run(tmp_path / "a", {"original": {0}, "warm": {0}}, items=10)
    second = run(tmp_path / "b", {"original": {0}, "warm": {0}}, items=8, model=QUANTIZED)
    assert row(fidelity(first, second), "run_answers", persona="warm")["n"] == 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "are in one precision: there is nothing to compare"),
        ({"inputs": {"items": {"facts": "x"}}, "model": QUANTIZED}, "items of .* is not that of"),
        ({"inputs": {"adapter": {"warm": "x"}}, "model": QUANTIZED}, "adapter of .* is not that of"),
        ({"model": {"weights": "b" * 64}}, "neither is quantised: these are two models"),
        ({"inputs": {"model": None}}, "a run of an API's model"),
    ],
)
def test_runs_that_differ_in_more_are_refused_by_name(tmp_path, changes, said):
    wrong = {"original": {0}, "warm": {1}}
    with pytest.raises(UsageError, match=said):
        fidelity(run(tmp_path / "a", wrong), run(tmp_path / "b", wrong, **changes))


def test_other_settings_are_refused_and_precision_may_differ(tmp_path):
    wrong = {"original": {0}, "warm": {1}}
    first, second = run(tmp_path / "a", wrong), run(tmp_path / "b", wrong, model=QUANTIZED)
    manifest = read_manifest(second)
    for name, value, fine in (("weights", "int4", True), ("kv_dtype", "fp8", True), ("seed", 3, False)):
        changed = {**manifest.inputs, "setting": {**manifest.setting, name: value}}
        write_manifest(second, replace(manifest, inputs=changed))
        if fine:
            fidelity(first, second)
        else:
            with pytest.raises(UsageError, match="the setting seed of"):
                fidelity(first, second)


def test_the_command_prints_and_writes(tmp_path, runs):
    out = tmp_path / "out"
    found = CliRunner().invoke(warmeng, ["fidelity", *map(str, runs), "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert "warm minus original" in found.output
    assert sorted(p.name for p in out.iterdir()) == ["fidelity.json", "fidelity.md"]
    assert json.loads((out / "fidelity.json").read_bytes())["baseline"] == "original"
    assert "## Personas in two runs" in (out / "fidelity.md").read_text()
    inside = CliRunner().invoke(warmeng, ["fidelity", *map(str, runs), "--out", str(runs[0] / "x")])
    assert inside.exit_code != 0


def test_keys_and_values_are_a_precision_too(tmp_path):
    wrong = {"original": {0}, "warm": {1}}
    second = run(tmp_path / "b", wrong, model={"kv_dtype": "fp8"})
    manifest = read_manifest(second)
    engine = {**manifest.facts.engine, "kv_dtype": "fp8"}
    write_manifest(second, replace(manifest, facts=replace(manifest.facts, engine=engine)))
    found = fidelity(run(tmp_path / "a", wrong), second)
    assert found["second"] == "no quantisation, products in float32, keys and values in fp8"
