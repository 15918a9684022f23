"""Run folders of invented answers, made and analysed once."""

from __future__ import annotations

from pathlib import Path

import pytest


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
