"""Makes the small engine importable, and puts it in the real one's place where a test asks for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def fake(monkeypatch):
    """The engine that ``load_engine`` returns in this test."""
    from fakes import FakeEngine

    engine = FakeEngine()
    loads = []

    def load(settings):
        loads.append(settings)
        return engine

    engine.loads = loads
    monkeypatch.setattr("warmeng.study.run.load_engine", load)
    monkeypatch.setattr("warmeng.study.grade_file.load_engine", load)
    return engine
