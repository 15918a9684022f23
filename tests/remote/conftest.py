"""A key that must appear nowhere, and waits that are short."""

from __future__ import annotations

from functools import partial

import pytest
from api_server import CANARY

from warmeng.remote.pace import Patience


@pytest.fixture(autouse=True)
def canary(monkeypatch):
    """Every test of this folder has a key in its environment."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    for name in ("OPENAI_BASE_URL", "OPENAI_LOG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Runs wait a little after a failure without a hint, and make no analysis and no report."""
    monkeypatch.setattr("warmeng.study.run.api.Patience", partial(Patience, first=0.01, longest=0.02))
    monkeypatch.setattr("warmeng.study.run.finish.conclude", lambda *given: True)
