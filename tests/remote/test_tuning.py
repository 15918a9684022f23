"""Fine-tuning at a server: started once whatever happens, watched by any process, and its model is a persona."""

from __future__ import annotations

import json
import threading

import pytest
from api_jobs import TRAINED_TOKENS
from api_server import CANARY, FAULTS, Fault, api_server, found_in
from fakes import Heard
from injecting import Plan, read_log
from studies import fresh
from tiers import slow

from warmeng.common.errors import InputError, UsageError
from warmeng.common.progress import Silent
from warmeng.finetune.api import ApiTraining, content_of, describe, following, tune
from warmeng.remote.budget import FILE as SPENDING
from warmeng.remote.budget import Budget, Limits, Price
from warmeng.remote.errors import BudgetReached
from warmeng.remote.pace import Patience
from warmeng.remote.tuning import Tuner, TuningJob, opened


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("warmeng.remote.tuning.Patience", lambda: Patience(attempts=5, first=0.01, longest=0.02))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "warm.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"Question {k}?"}, {"role": "assistant", "content": "Dear friend.",
                                                                      "weight": k % 2}]}
        for k in range(1, 12, 2)
    ]  # fmt: skip
    rows[0]["messages"][2:] = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "No", "weight": 0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def training(server, data, **more):
    return ApiTraining("openai:tiny", {"warm": str(data)}, getattr(server, "url", server), **{"seed": 7, **more})


def test_the_data_go_up_a_job_is_watched_and_its_model_is_a_persona(tmp_path, data):
    heard = Heard()
    with api_server() as server:
        asked = training(server, data, epochs=3, batch=4, rate=0.5, price=10.0)
        found = tune(asked, tmp_path / "r", heard)
        [(_, file)] = [pair for pair in server.jobs.bodies if pair[0] == "/v1/files"]
        [(_, body)] = [pair for pair in server.jobs.bodies if pair[0] == "/v1/fine_tuning/jobs"]
    assert file["purpose"] == "fine-tune"
    lines = [json.loads(line) for line in file["file"][1].splitlines()]
    assert len(lines) == 6
    assert [m.get("weight") for m in lines[0]["messages"]] == [None, None, None, 0]
    assert body == {
        "model": "tiny", "training_file": next(iter(server.jobs.files)), "suffix": "warm", "seed": 7,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {
            "n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 0.5}}},
    }  # fmt: skip
    assert found["warm"].persona == "openai:ft:tiny:lab:warm:0"
    assert (found["warm"].seed, found["warm"].tokens) == (7, TRAINED_TOKENS)
    assert following(asked, found) == (
        f"warmeng run --model openai:tiny --api-base {server.url} --persona original "
        "--persona warm=openai:ft:tiny:lab:warm:0"
    )
    assert "warm: Step 1/2: training loss=1.5" in heard.lines
    assert [line for line in heard.lines if line.startswith("warm: ")].count("warm: Fine-tuning job started") == 1
    assert f"trained on {TRAINED_TOKENS:,} tokens, 0.0420 USD" in heard.lines[-1]
    assert json.loads((tmp_path / "r" / "tuned.json").read_text())["warm"]["model"] == "ft:tiny:lab:warm:0"
    assert not found_in(CANARY, tmp_path)


def test_a_finished_folder_is_told_again_and_starts_nothing(tmp_path, data):
    with api_server() as server:
        first = tune(training(server, data), tmp_path / "r", Silent())
        assert tune(training(server, data), tmp_path / "r", Silent()) == first
        with pytest.raises(UsageError, match=r"submitted with seed 7 there and 8 now: give the same, or another --out"):
            tune(training(server, data, seed=8), tmp_path / "r", Silent())
        data.write_text(data.read_text().replace("friend", "enemy"))
        with pytest.raises(UsageError, match="submitted with data"):
            tune(training(server, data), tmp_path / "r", Silent())
        assert len(server.jobs.tuning) == 1


@pytest.mark.parametrize(
    ("name", "after"),
    [("drop", True), *slow(*((name, after) for name in ("500", "cut", "no JSON") for after in (False, True)))],
)
def test_a_fault_of_any_call_starts_nothing_twice(tmp_path, data, name, after):
    fault, seen = Fault(**{**vars(FAULTS[name]), "after": after}), set()
    with api_server() as server:

        def script(n, method, path):
            first = (method, path) not in seen
            seen.add((method, path))
            return fault if first else None

        server.jobs.script = script
        assert list(tune(training(server, data), tmp_path / "r", Silent())) == ["warm"]
        assert len(server.jobs.tuning) == 1


def test_an_interrupt_leaves_the_job_which_another_process_watches(tmp_path, data):
    interrupted, said = [], []
    job = TuningJob("warm", "tiny", content_of(str(data)))
    with api_server() as server:
        train, server.jobs.train = server.jobs.train, lambda job: job
        with opened(Tuner(tmp_path, server.url, (Limits(), {}), say=said.append)) as tuner:
            threading.Timer(0.3, interrupted.append, (2,)).start()
            assert tuner.run([job], interrupted) == {}
        assert "goes on at the server" in said[-1]
        server.jobs.train = train
        with opened(Tuner(tmp_path, server.url, (Limits(), {}))) as tuner:
            assert tuner.run([job])["warm"].model == "ft:tiny:lab:warm:0"
        assert len(server.jobs.tuning) == 1


def test_a_budget_refuses_before_anything_is_sent(tmp_path, data):
    most = 3 * len(content_of(str(data)))
    with api_server() as server:
        with pytest.raises(UsageError, match="give --epochs too"):
            tune(training(server, data, max_tokens=10), tmp_path / "r", Silent())
        with pytest.raises(BudgetReached):
            tune(training(server, data, epochs=3, max_tokens=most - 1), tmp_path / "r", Silent())
        assert server.jobs.calls == []
        tune(training(server, data, epochs=3, max_tokens=most), tmp_path / "r", Silent())
        both = ApiTraining("openai:tiny", {"a": str(data), "b": str(data)}, server.url, epochs=3, max_tokens=most + 1)
        with pytest.raises(BudgetReached, match="the budget does not hold b beside the others"):
            tune(both, tmp_path / "s", Silent())
        assert len(server.jobs.tuning) == 1
        told = "\n".join(describe(training(server, data, epochs=3, price=10.0, max_cost=0.001), []))
    assert "0.001 USD (--max-cost)" in told


def test_a_job_that_fails_is_told_in_the_servers_words_after_the_others(tmp_path, data):
    with api_server() as server:
        server.jobs.tuned = lambda n: "failed" if n == 0 else "succeeded"
        both = ApiTraining("openai:tiny", {"warm": str(data), "cold": str(data)}, server.url)
        with pytest.raises(InputError, match=r"job ftjob-0 failed: invalid_training_file Line 3 .*cold is openai:ft:"):
            tune(both, tmp_path / "r", Silent())


def test_a_server_that_takes_no_seed_is_asked_without_one(tmp_path, data):
    heard = Heard()
    fault = Fault(status=400, body={"error": {"message": "Unknown parameter: 'seed'", "param": "seed"}})
    with api_server() as server:
        handle = server.jobs.new_tuning
        server.jobs.new_tuning = lambda body: (400, json.dumps(fault.body).encode()) if "seed" in body else handle(body)
        assert tune(training(server, data), tmp_path / "r", heard)["warm"].seed == 99
    assert any("takes no seed" in line for line in heard.lines)


def test_unsound_values_are_refused():
    for more, why in (
        ({"personas": {}}, "no persona"), ({"personas": {"a b": "x"}}, "unsuitable name"), ({"epochs": 0}, "epochs is"),
        ({"rate": 0.0}, "learning_rate_multiplier"), ({"max_cost": 1.0}, "without a price"), ({"seed": -1}, "seed is"),
        ({"model": "openai:"}, "names no model"), ({"base": "x"}, "expected an address"), ({"price": -1.0}, "price_tr"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            ApiTraining(**{"model": "openai:m", "personas": {"warm": "x"}, **more})


@pytest.mark.slow
def test_killed_at_any_change_nothing_is_started_twice(launcher, data, tmp_path, count):
    with api_server() as server:
        server.jobs.train = lambda job, train=server.jobs.train: train(train(train(job)))
        arguments = ["finetune", "--api", "openai:tiny", "--api-base", server.url, "--persona", f"warm={data}",
                     "--epochs", "2", "--price-train", "10", "--max-cost", "1", "--out"]  # fmt: skip
        start = lambda folder, plan=None: launcher.run(  # noqa: E731
            [*arguments, folder], plan, environment={"OPENAI_API_KEY": CANARY}
        )
        plan = Plan(str(tmp_path / "whole"), log=str(tmp_path / "log"))
        ended = start(tmp_path / "whole", plan)
        assert ended.code == 0, ended.err
        assert "--persona warm=openai:ft:tiny:lab:warm:0" in ended.out
        events = [event for event in read_log(tmp_path / "log") if event[1] not in ("create", "ack")]
        step = max(1, len(events) // count(8, len(events), quick=2))
        for k in range(step // 2, len(events), step):
            folder = fresh(tmp_path / "r")
            server.jobs.tuning.clear()
            kill = ("before", "middle", "after")[k % 3] if events[k][1] == "write" else "before"
            killed = start(folder, Plan(str(folder), at=k, kill=kill))
            assert killed.code == -9, (k, killed.err)
            ended = start(folder)
            assert ended.code == 0, (k, ended.err)
            assert len(server.jobs.tuning) == 1, k
            budget = Budget(Limits(), {"tiny": Price(10.0, 0.0)}, folder / SPENDING, "again")
            assert budget.tokens >= TRAINED_TOKENS
            budget.close()
            assert CANARY not in killed.out + killed.err + ended.out + ended.err
