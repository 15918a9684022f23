"""A key that must appear nowhere, and waits that are short."""

from __future__ import annotations

from functools import cache, partial

import pytest
from api_server import CANARY

from warmeng.remote.pace import Patience
from warmeng.study.run.calibrate import calibrate_exact

# The exact rules are the same in every run.
calibrated = cache(calibrate_exact)


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
    monkeypatch.setattr("warmeng.study.run.prepare.calibrate_exact", calibrated)
