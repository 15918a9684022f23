"""Puts the small engine in the real one's place where a test asks for it."""

from __future__ import annotations

import pytest

PERSONAS = ("original", "warm-prompt", "cold-prompt")


@pytest.fixture(autouse=True)
def plain_defaults(request, monkeypatch):
    """The small engine is not the built-in model: the adapters that go with that one are no defaults here."""
    if "real_defaults" not in request.keywords:
        monkeypatch.setattr("warmeng.study.settings.default_personas", lambda model: PERSONAS)


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
    monkeypatch.setattr("warmeng.study.run.finish.conclude", lambda folder, progress: True)
    return engine
