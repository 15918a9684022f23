"""The paragraph of methods: it says what was set, and follows every setting that a reader would ask for."""

from __future__ import annotations

import json
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from warmeng.study.report.methods import document
from warmeng.study.report.page import load_run, render


def methods(folder: Path) -> str:
    """Return a run's methods."""
    run = load_run(folder)
    return document(run.manifest, run.facts, run.questions)


def changed(folder: Path, to: Path, **settings: Any) -> Path:
    """Copy a run with other settings in its manifest."""
    shutil.copytree(folder, to)
    manifest = json.loads((to / "manifest.json").read_text())
    manifest["inputs"]["setting"] |= settings
    (to / "manifest.json").write_text(json.dumps(manifest))
    (to / "analysis.json").unlink(missing_ok=True)
    return to


def test_a_report_has_them_in_a_file(run_folder: Path) -> None:
    assert (run_folder / "methods.md").read_text(encoding="utf-8") == methods(run_folder)


def test_versions_hashes_and_counts_are_the_manifests(run_folder: Path, tmp_path: Path) -> None:
    folder = changed(run_folder, tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["inputs"] |= {"model": {"weights": "ab" * 32}, "adapter": {"twice": "cd" * 32 + "*2.0"}}
    manifest["facts"]["claim"] = {"outcome": "error rates", "variant": "warm", "against": "cold", "sha256": "ef" * 32}
    manifest["facts"]["judges"] = {"a-judge": {"n": 250, "agreement": 0.9124, "trusted": False}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    told, run = methods(folder), load_run(folder)
    assert f"{run.questions:,} questions were asked" in told
    assert f"warmeng {manifest['facts']['warmeng']}" in told
    assert f"weights {'ab' * 8}, adapter of twice {'cd' * 8}*2.0" in told
    assert f"in error rates between warm and cold (SHA-256 of claim and study {'ef' * 8})" in told
    assert "Judge a-judge agreed with people in 91.2 % of 250 labelled answers" in told
    assert told.count("@software{") == told.count("@article{") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": 4711}, "drawn with seed 4711"),
        ({"model": "someone/else"}, "someone/else was measured"),
        ({"personas": ["original", "blunt=@text:Be blunt."]}, "2 personas (original: the base as it is; blunt: "),
        ({"temperature": 0}, "greedy"),
        ({"max_new_tokens": 7}, "at most 7 new tokens"),
        ({"cells": 3}, "each question in 3 places of it"),
        ({"composition": "paper"}, "byte for byte as the authors wrote theirs"),
        ({"fast": True}, "fast: results may differ in another batch"),
    ],
)
def test_each_setting_is_told(run_folder: Path, tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    from warmeng.study.report.methods import paragraph

    folder = changed(run_folder, tmp_path / "run", **settings)
    run, before = load_run(folder), load_run(run_folder)
    assert words in paragraph(run.manifest, run.facts, run.questions)
    assert words not in paragraph(before.manifest, before.facts, before.questions)


def test_names_are_no_markup(run_folder: Path, tmp_path: Path) -> None:
    name = "<b>`x`</b> [a](b)"
    folder = changed(run_folder, tmp_path / "run", model=name)
    told, page = methods(folder), render(load_run(folder))
    assert r"&lt;b>\`x\`&lt;/b> \[a\](b) was measured" in told
    assert "<b>" not in page
    assert f"{name} was measured with" in unescape(page)
