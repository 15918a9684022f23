"""``kill -9`` at any change of a run's folder, then the same command: no answer lost, none asked again without need."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from api_server import CANARY, OUTPUT_TOKENS, PROMPT_TOKENS, Fault, api_server, found_in
from injecting import Plan, read_log
from studies import acknowledged, fresh, keys, lines

from warmeng.common.journal import read_journal
from warmeng.remote.budget import FILE as SPENDING
from warmeng.remote.budget import Budget, Limits

MOST = 60  # requests of one run and all its continuations


def command(server):
    return [
        "run", "--model", "openai:tiny", "--persona", "original", "--persona", "kind=@text:Be kind.", "--tasks",
        "facts,misconceptions", "--beliefs", "none,wrong", "--contexts", "unmodified", "--limit", "2", "--api-base",
        server.url, "--max-requests", str(MOST), "--out",
    ]  # fmt: skip


def in_batches(server):
    return [*command(server)[:-1], "--api-batch", "--out"]


def content(folder):
    return sorted(lines(folder))


@pytest.fixture(scope="module")
def server():
    with api_server(delay=0.002) as running:
        yield running


@pytest.fixture(scope="module")
def start(launcher, server, tmp_path_factory):
    # So that no process has to import what it uses.
    launcher.warm([*command(server), tmp_path_factory.mktemp("warm") / "r"])
    key = {"OPENAI_API_KEY": CANARY}
    return lambda arguments, plan=None: launcher.run(arguments, plan, environment=key)


@pytest.mark.slow
def test_killed_at_any_change_of_the_folder(server, start, tmp_path, count):
    plan = Plan(str(tmp_path / "whole"), log=str(tmp_path / "log"))
    ended = start([*command(server), tmp_path / "whole"], plan)
    assert ended.code == 0, ended.err
    events = [event for event in read_log(tmp_path / "log") if event[1] not in ("create", "ack")]
    whole = content(tmp_path / "whole")
    assert len(whole) == 16
    step = len(events) // count(16, len(events), quick=3)
    for k in range(step // 2, len(events), max(1, step)):
        folder, acks = fresh(tmp_path / "r"), tmp_path / "acks"
        server.asked.clear()
        server.answered.clear()
        kill = ("before", "middle", "after")[k % 3] if events[k][1] == "write" else "before"
        killed = start([*command(server), folder], replace(plan, root=str(folder), at=k, kill=kill, acks=str(acks)))
        assert killed.code == -9, (k, killed.err)
        kept = keys(folder)
        spending = {line["key"] for line in read_journal(folder / SPENDING)} if (folder / SPENDING).exists() else set()
        assert acknowledged(acks) <= kept | spending
        acks.unlink(missing_ok=True)
        before = len(server.asked)
        ended = start([*command(server), folder])
        assert ended.code == 0, (k, ended.err)
        assert content(folder) == whole, "nothing is lost, and nothing is there twice"
        # After the kill: the first question again, and what has no record; nothing where all is there.
        assert len(server.asked) - before == (1 + 16 - len(kept) if len(kept) < 16 else 0), k
        # All that was sent is counted, also what the killed process sent.
        reserved = Counter("of" in line for line in read_journal(folder / SPENDING))[False]
        assert len(server.asked) <= reserved <= MOST
        assert not found_in(CANARY, folder)
        assert CANARY not in killed.out + killed.err + ended.out + ended.err


@pytest.mark.slow
def test_killed_at_any_change_nothing_is_submitted_twice(server, start, tmp_path, count):
    """Also where the server made a batch whose id nobody wrote down."""
    server.jobs.stages = ["in_progress"]
    plan = Plan(str(tmp_path / "whole"), log=str(tmp_path / "log"))
    ended = start([*in_batches(server), tmp_path / "whole"], plan)
    assert ended.code == 0, ended.err
    events = [event for event in read_log(tmp_path / "log") if event[1] not in ("create", "ack")]
    whole = content(tmp_path / "whole")
    step = len(events) // count(16, len(events), quick=3)
    for k in range(step // 2, len(events), max(1, step)):
        folder = fresh(tmp_path / "r")
        server.asked_in_batches.clear()
        server.jobs.paid.clear()
        direct = len(server.asked)
        kill = ("before", "middle", "after")[k % 3] if events[k][1] == "write" else "before"
        killed = start([*in_batches(server), folder], replace(plan, root=str(folder), at=k, kill=kill))
        assert killed.code == -9, (k, killed.err)
        ended = start([*in_batches(server), folder])
        assert ended.code == 0, (k, ended.err)
        assert content(folder) == whole, "nothing is lost, and nothing is there twice"
        assert len(server.asked_in_batches) == 16, k
        assert set(server.jobs.paid.values()) == {1}
        # All that was sent is counted, and a process that was killed costs no more than its first question.
        budget = Budget(Limits(), {}, folder / SPENDING, "again")
        direct = len(server.asked) - direct
        assert 16 + direct <= budget.requests <= MOST
        known = (16 + direct) * (PROMPT_TOKENS + OUTPUT_TOKENS) - 8 * (OUTPUT_TOKENS - 1)
        assert known <= budget.tokens, k
        budget.close()
        assert not found_in(CANARY, folder)


def test_a_key_is_in_no_output_even_with_traces_and_the_clients_own_log(server, start, launcher, tmp_path):
    environment = {"OPENAI_API_KEY": CANARY, "WARMENG_DEBUG": "1", "OPENAI_LOG": "debug"}
    ended = launcher.run([*command(server), tmp_path / "r"], environment=environment)
    assert ended.code == 0, ended.err
    wrong = Fault(status=401, body={"error": {"message": f"Incorrect key: {CANARY}"}})
    server.script = lambda n, body: wrong
    refused = launcher.run([*command(server), tmp_path / "s"], environment=environment)
    server.script = lambda n, body: None
    assert refused.code == 65
    assert "Incorrect key: ..." in refused.err
    assert "Traceback" in refused.err
    assert CANARY not in ended.out + ended.err + refused.out + refused.err
    assert not found_in(CANARY, tmp_path)
