"""One model behind a server that does everything wrong: nothing is lost, nothing is asked twice without need."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from api_server import (
    ANSWERING,
    BUSY,
    CANARY,
    FAULTS,
    FINGERPRINT,
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    Fault,
    api_server,
    written,
)
from tiers import slow

from warmeng.common.errors import InputError
from warmeng.remote.budget import Budget, Limits, Price
from warmeng.remote.engine import RemoteEngine
from warmeng.remote.errors import BudgetReached, OtherModel, Unavailable
from warmeng.remote.pace import Patience
from warmeng.remote.request import ChatRequest

FAST = Patience(attempts=6, timeout=30.0, first=0.01, longest=0.02, most=5.0)
PRICES = {"tiny": Price(10.0, 100.0)}


def requests(count, labels=(), max_tokens=8):
    return [
        ChatRequest(f"{k}", (("system", "Be brief."), ("user", f"Question {k}?")), max_tokens, seed=k, labels=labels)
        for k in range(count)
    ]


def opened(server, budget=None, patience=FAST, say=lambda line: None, **more):
    engine = RemoteEngine("openai:tiny", server.url, budget or Budget(Limits(), {}), patience=patience, say=say, **more)
    engine.open(1.0, 1.0)
    return engine


def expected(request):
    messages = [{"role": role, "content": content} for role, content in request.messages]
    return written({"model": "tiny", "messages": messages, "seed": request.seed})


def asked_all(engine, wanted):
    """Ask, and return results by id; each comes once, and is its request's own answer."""
    for request in wanted:
        engine.add(request)
    found = list(engine.results())
    assert sorted(r.id for r in found) == sorted(r.id for r in wanted)
    by_id = {r.id: r for r in found}
    assert all(by_id[r.id].text == expected(r) for r in wanted)
    return by_id


def test_answers_come_with_what_answered_and_what_it_took():
    with api_server() as server:
        engine = opened(server)
        found = asked_all(engine, requests(20))
        engine.close()
    first = found["0"]
    assert (first.model, first.fingerprint, first.status, first.finish_reason) == (ANSWERING, FINGERPRINT, "ok", "stop")
    assert (first.prompt_tokens, first.tokens) == (PROMPT_TOKENS, OUTPUT_TOKENS)
    assert engine.identity == {
        "api": server.url, "asked": "tiny", "answering": ANSWERING, "seed": True, "top_logprobs": 20
    }  # fmt: skip
    assert server.keys == {f"Bearer {CANARY}"}
    assert len(server.asked) == 21
    assert server.most_at_once <= 20
    assert engine.stats.prompt_tokens == 21 * PROMPT_TOKENS


@pytest.mark.parametrize("name", [*list(FAULTS)[::3], *slow(*(n for k, n in enumerate(FAULTS) if k % 3))])
def test_a_fault_costs_one_attempt_and_no_answer(name):
    fault = FAULTS[name]
    wanted = requests(5)
    with api_server(lambda n, body: fault if n in (2, 4) else None) as server:
        budget = Budget(Limits(), PRICES)
        # A slow machine must not look like a server that drips.
        patience = replace(FAST, timeout=3.0) if name == "drip" else FAST
        engine = opened(server, budget, patience)
        asked_all(engine, wanted)
        engine.close()
        # A connection that the server closed may be met once more before anything is sent.
        assert len(server.asked) == 1 + 5 + 2
        assert Counter(server.answered.values()) == {1: 6}
    known = 6 * (PROMPT_TOKENS + OUTPUT_TOKENS)
    assert budget.tokens == known if name.startswith("429") else budget.tokens > known


def test_many_faults_at_once_lose_nothing_and_the_budget_is_never_passed():
    kinds = [fault for name, fault in FAULTS.items() if name != "drip"]
    script = lambda n, body: kinds[n * 7 % len(kinds)] if n and n % 3 == 0 else None  # noqa: E731
    with api_server(script) as server:
        budget = Budget(Limits(), PRICES)
        engine = opened(server, budget, Patience(attempts=20, timeout=30, first=0.005, longest=0.01))
        asked_all(engine, requests(60))
        engine.close()
        assert max(server.answered.values()) == 1
    assert budget.requests >= len(server.asked)
    assert budget.tokens >= 61 * (PROMPT_TOKENS + OUTPUT_TOKENS)


@pytest.mark.parametrize(
    ("limits", "most"), [(Limits(requests=9), 9), (Limits(tokens=2000), None), (Limits(usd=0.02), None)]
)
def test_a_budget_stops_before_it_is_passed_and_what_is_under_way_is_kept(limits, most):
    with api_server(delay=0.01) as server:
        budget = Budget(limits, PRICES)
        engine = opened(server, budget)
        for request in requests(100):
            engine.add(request)
        found = []
        with pytest.raises(BudgetReached):
            found.extend(engine.results())
        engine.close()
        assert len(found) == len(server.asked) - 1, "all that was asked is kept"
        spent = len(server.asked) * (PROMPT_TOKENS * 10 + OUTPUT_TOKENS * 100) / 1e6
        tokens = len(server.asked) * (PROMPT_TOKENS + OUTPUT_TOKENS)
    assert len(server.asked) == (most or len(server.asked)) > 5
    assert spent <= (limits.usd or spent)
    assert tokens <= (limits.tokens or tokens)
    # Close to it: no further request fitted.
    worst = requests(1)[0]
    if limits.usd:
        assert spent + PRICES["tiny"].of(worst.most_prompt, worst.most_output) > limits.usd
    if limits.tokens:
        assert tokens + worst.most_prompt + worst.most_output > limits.tokens


def test_a_server_that_does_not_count_is_taken_to_have_used_the_most():
    with api_server(usage=False) as server:
        budget = Budget(Limits(), PRICES)
        engine = opened(server, budget)
        before = budget.tokens
        [request] = requests(1)
        asked_all(engine, [request])
        engine.close()
    assert budget.tokens - before == request.most_prompt + request.most_output


def test_a_server_that_ignores_the_limit_of_tokens_ends_a_run_with_a_budget():
    with api_server() as server:
        engine = opened(server, Budget(Limits(tokens=10**6), {}))
        engine.add(requests(1, max_tokens=1)[0])
        assert [r.tokens for r in engine.results()] == [1]
        server.completion = lambda body: {**type(server).completion(server, body), "usage": {
            "prompt_tokens": 1, "completion_tokens": 500, "total_tokens": 501}}  # fmt: skip
        engine.add(requests(1)[0])
        with pytest.raises(InputError, match=r"500 tokens where at most 8 were asked for"):
            list(engine.results())
        engine.close()


def test_attempts_have_an_end():
    with api_server(lambda n, body: FAULTS["500"] if n else None) as server:
        engine = opened(server)
        engine.add(requests(1)[0])
        with pytest.raises(Unavailable, match=r"status 500: .*; 6 attempts are the most for one request") as caught:
            list(engine.results())
        engine.close()
        assert len(server.asked) == 7
    assert CANARY not in str(caught.value)


def test_a_server_that_asks_to_wait_for_long_ends_it():
    with api_server(
        lambda n, body: Fault(status=429, headers={"retry-after": "7200"}, body={}) if n else None
    ) as server:
        engine = opened(server)
        engine.add(requests(1)[0])
        with pytest.raises(Unavailable, match="asks to wait 7,200 s"):
            list(engine.results())
        engine.close()
        assert len(server.asked) == 2


def test_a_hint_is_obeyed():
    fault = Fault(status=429, headers={"retry-after-ms": "300"}, body={})
    with api_server(lambda n, body: fault if n == 1 else None) as server:
        engine = opened(server)
        began = time.monotonic()
        asked_all(engine, requests(3))
        assert time.monotonic() - began >= 0.3
        engine.close()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(status=401, body={"error": {"message": f"wrong key {CANARY}"}}), "status 401: wrong key ...: check the"),
        (Fault(status=404, body={"error": {"message": "no such model"}}), "check the model's name and --api-base"),
        (Fault(status=400, body={"error": {"message": "no", "param": "n"}}), r"status 400 \(n\): no: change"),
        (Fault(status=429, body={"error": {"message": "pay", "code": "insufficient_quota"}}), "see to the account"),
    ],
)
def test_what_no_attempt_can_mend_ends_at_once_in_one_line(fault, why):
    with api_server(lambda n, body: fault if n == 1 else None) as server:
        engine = opened(server, most=1)
        for request in requests(3):
            engine.add(request)
        with pytest.raises(InputError, match=why) as caught:
            list(engine.results())
        engine.close()
        assert len(server.asked) == 2
    assert CANARY not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("code", "status"), [("context_length_exceeded", "too_long"), ("content_filter", "filtered")])
def test_an_item_that_the_server_does_not_take_is_a_result(code, status):
    fault = Fault(status=400, body={"error": {"message": "no", "code": code}})
    with api_server(lambda n, body: fault if n == 1 else None) as server:
        engine = opened(server)
        [request] = requests(1)
        engine.add(request)
        [result] = engine.results()
        engine.close()
    assert (result.status, result.text, result.finish_reason) == (status, "", "none")


def test_another_model_ends_it_by_name_and_another_fingerprint_is_said():
    said = []
    with api_server() as server:
        engine = opened(server, say=said.append)
        server.fingerprint = "fp_two"
        found = asked_all(engine, requests(4))
        assert {r.fingerprint for r in found.values()} == {"fp_two"}
        assert sum("fp_two now, fp_one at first" in line for line in said) == 1
        server.model = "tiny-2026-02-02"
        engine.add(requests(1)[0])
        with pytest.raises(OtherModel, match="tiny-2026-02-02 answers for tiny now, tiny-2026-01-01 before"):
            list(engine.results())
        engine.close()


def test_labels_are_told_by_likeliest_tokens():
    with api_server(top=lambda body: [("B", -0.2), (" A", -3.0), ("The", -4.0)]) as server:
        engine = opened(server)
        [result] = engine.score(requests(1, ("A", "B", "C"), 1))
        assert result.logprobs == pytest.approx((-3.0, -0.2, None))
        assert 0 < result.mass < 1
        sent = server.asked[-1]
        assert (sent["logprobs"], sent["top_logprobs"], sent["max_tokens"]) == (True, 20, 1)
        server.top = lambda body: []
        [result] = engine.score(requests(1, ("A", "B"), 1))
        assert (result.logprobs, result.mass) == ((None, None), 0.0)
        server.top = lambda body: None
        with pytest.raises(Unavailable, match="it tells no likeliest tokens"):
            engine.score(requests(1, ("A", "B"), 1))
        engine.close()


def test_what_a_server_does_not_take_is_left_out_by_its_name():
    unknown = ("top_logprobs", "seed", "max_tokens")

    def script(n, body):
        bad = next((name for name in unknown if name in body and body[name] != 5), None)
        return Fault(status=400, body={"error": {"message": f"Unsupported parameter: '{bad}'"}}) if bad else None

    with api_server(script) as server:
        engine = opened(server)
        sent = server.asked[-1]
        assert (sent["top_logprobs"], sent.get("seed"), sent["max_completion_tokens"]) == (5, None, 16)
        assert engine.identity["seed"] is False
        engine.close()
    with api_server(top=lambda body: None) as server:
        assert opened(server).identity["top_logprobs"] == 0
    with api_server(lambda n, body: Fault(status=400, body={"error": {"message": "temperature"}})) as server:
        with pytest.raises(InputError, match="status 400: temperature"):
            opened(server)
        assert len(server.asked) == 1


@pytest.mark.slow
def test_requests_at_once_follow_what_the_server_takes():
    with api_server(delay=0.08) as server:
        engine = opened(server, most=9)
        asked_all(engine, requests(50))
        assert 7 < engine._limiter.limit <= 9
        assert server.most_at_once <= 9
        engine.close()
    with api_server(lambda n, body: BUSY if server.at_once > 2 else None, delay=0.01) as server:
        engine = opened(server, patience=Patience(attempts=30, first=0.01))
        asked_all(engine, requests(40))
        refused = len(server.asked) - 41
        assert 0 < refused < 30, "it learns that the server takes two at once"
        engine.close()


def test_an_interrupt_ends_the_wait_for_a_server_that_answers_nothing():
    interrupted = []
    with api_server() as server:
        engine = opened(server)
        server.delay = 3.0
        engine.add(requests(1)[0])
        threading.Timer(0.2, interrupted.append, (2,)).start()
        began = time.monotonic()
        assert list(engine.results(interrupted)) == []
        assert time.monotonic() - began < 2.9
        server.delay = 0.0
        engine.close()


def test_a_reader_that_leaves_gives_up_what_is_under_way():
    with api_server(delay=0.05) as server:
        budget = Budget(Limits(), PRICES)
        engine = opened(server, budget)
        for request in requests(50):
            engine.add(request)
        results = engine.results()
        next(results)
        results.close()
        asked = len(server.asked)
        assert asked < 40
        # What was given up may be paid for.
        assert budget.requests >= asked
        assert budget.tokens > asked * (PROMPT_TOKENS + OUTPUT_TOKENS)
        assert list(engine.results()) == []
        engine.close()


def test_no_server_at_all_is_said():
    with api_server() as server:
        url = server.url
    engine = RemoteEngine("openai:tiny", url, Budget(Limits(), {}), patience=Patience(2, 30.0, 0.01))
    with pytest.raises(Unavailable, match=r"the connection failed \(ConnectError\); 2 attempts"):
        engine.open(1.0, 1.0)
    assert engine.budget.tokens == 0
    engine.close()
