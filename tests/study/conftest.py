"""Puts the small engine in the real one's place where a test asks for it; a run folder of invented answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from designs import ANSWERS_ALONE

# Before the defaults change: its help names them.
import warmeng.cli.run  # noqa: F401
from warmeng.study import settings

PERSONAS = ("original", "warm-prompt", "cold-prompt")
DESIGN = settings.DESIGN
# Here, because modules of tests make settings when they are imported. Most tests are about answers.
settings.DESIGN = ANSWERS_ALONE


@pytest.fixture(autouse=True)
def plain_defaults(request, monkeypatch):
    """The small engine is not the built-in model: the adapters that go with that one are no defaults here."""
    if "real_defaults" in request.keywords:
        monkeypatch.setattr("warmeng.study.settings.DESIGN", DESIGN)
    else:
        monkeypatch.setattr("warmeng.study.settings.default_personas", lambda model, dosed=False: PERSONAS)


@pytest.fixture
def fake(monkeypatch):
    """The engine that ``load_engine`` returns in this test; ``fake.models`` has other engines by model name.

    The analysis and the report after a run, which have tests of their own, are left out.
    """
    from fakes import FakeEngine

    engine = FakeEngine()
    engine.models = {}
    loads = []

    def load(settings):
        loads.append(settings)
        return engine.models.get(settings.model, engine)

    engine.loads = loads
    monkeypatch.setattr("warmeng.study.run.run.load_engine", load)
    monkeypatch.setattr("warmeng.study.run.grade_file.load_engine", load)
    monkeypatch.setattr("warmeng.study.run.finish.conclude", lambda *given: True)
    return engine


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 1,944 answers with its analysis and its report; not to be changed."""
    from sample import make_run

    from warmeng.study.report.page import write_report
    from warmeng.study.stats.analyze import analyze_run

    folder = make_run(tmp_path_factory.mktemp("run"))
    analyze_run(folder, bootstrap=50)
    write_report(folder)
    return folder
