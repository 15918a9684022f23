"""Makes the small engine importable, and puts it in the real one's place where a test asks for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


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
    monkeypatch.setattr("warmeng.study.run.load_engine", load)
    monkeypatch.setattr("warmeng.study.grading.file.load_engine", load)
    monkeypatch.setattr("warmeng.study.finish.conclude", lambda folder, progress: True)
    return engine
