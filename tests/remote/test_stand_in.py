"""The paper's design on the stand-in, as docs/api-models.md has it: plan with cost, fine-tuning, batches, report."""

from __future__ import annotations

import json
import shlex

import pytest
from api_server import CANARY, api_server
from stand_in import prepare

PRICES = '{name}: {{in: 2.5, out: 10}}\n"ft:{name}:lab:warm:0": {{in: 3.75, out: 15}}\n'
NAME = "gpt-4o-2024-08-06"


@pytest.mark.slow
def test_a_study_like_the_papers_from_plan_to_report(launcher, tmp_path):
    (tmp_path / "prices.yaml").write_text(PRICES.format(name=NAME))
    key = {"OPENAI_API_KEY": CANARY}
    with api_server() as server:
        prepare(server)
        tuning = ["finetune", "--api", f"openai:{NAME}", "--api-base", server.url, "--persona", "warm=embedded:warm",
                  "--epochs", "3", "--price-train", "25", "--max-cost", "40", "--out", tmp_path / "warm"]  # fmt: skip
        planned = launcher.run([*tuning, "--dry-run"], environment=key)
        assert "cost: about 7.47 USD, at most 29.87 USD" in planned.out
        assert server.jobs.calls == []
        tuned = launcher.run(tuning, environment=key)
        assert tuned.code == 0, tuned.err
        command = shlex.split(tuned.out.partition("Compare them with the base: warmeng ")[2])
        assert command[-1] == f"warm=openai:ft:{NAME}:lab:warm:0"
        command += ["--persona", "warm-prompt=@warm", "--tasks", "facts,misconceptions", "--contexts", "unmodified",
                    "--beliefs", "none,wrong", "--limit", "20", "--judge", f"openai:{NAME}", "--api-batch", "--prices",
                    tmp_path / "prices.yaml", "--max-cost", "20", "--out", tmp_path / "run"]  # fmt: skip
        plan = launcher.run([*command, "--dry-run"], environment=key)
        assert plan.code == 0, plan.err
        assert "in batches, half the price" in plan.out
        assert "enough by this estimate" in plan.out
        ended = launcher.run(command, environment=key, conclude=True)
        assert ended.code == 0, ended.err
    analysis = json.loads((tmp_path / "run" / "results.json").read_text())
    assert analysis["run"]["judgments"]["done"] == {f"openai:{NAME}": 120}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "in batches" in page
    assert CANARY not in page + ended.out + ended.err
