"""Puts the small rewriting engine in the real one's place where a test asks for it."""

from __future__ import annotations

import pytest


@pytest.fixture
def rewriter(monkeypatch):
    """The engine that ``load_engine`` returns in this test."""
    from rewriting_engine import RewritingEngine

    engine = RewritingEngine()
    monkeypatch.setattr("warmeng.finetune.prepare.run.load_engine", lambda settings: engine)
    return engine


@pytest.fixture
def silent():
    """Progress that a test can read: ``silent.said`` are the messages."""
    from rewriting_engine import Said

    return Said()
