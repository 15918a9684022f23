"""One small Ray cluster for all tests of a module, and the default study on a tiny model beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two one-thread workers on this machine, which ends with the module."""
    from warmeng.fleet.cluster import join
    from warmeng.fleet.settings import FleetSettings

    former = dict(os.environ)
    # Workers import the tests' helpers, and have one thread.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
    os.environ["OMP_NUM_THREADS"] = "1"
    found = join(FleetSettings(workers=2, cores=1), "cpu")
    yield found
    found.close()
    os.environ.clear()
    os.environ.update(former)
