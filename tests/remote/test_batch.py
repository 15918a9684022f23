"""One model in batches: whatever happens to files, batches and lines, each answer is paid for once and none is lost."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from api_jobs import EXPIRED, GARBAGE, MISSING
from api_server import FAULTS, OUTPUT_TOKENS, PROMPT_TOKENS, Fault, api_server
from tiers import slow

from warmeng.common.errors import InputError
from warmeng.remote.batch import FILE, BatchEngine
from warmeng.remote.budget import FILE as SPENDING
from warmeng.remote.budget import Budget, Limits, Price, in_batches
from warmeng.remote.errors import BudgetReached, OtherModel, Unavailable
from warmeng.remote.pace import Patience
from warmeng.remote.request import ChatRequest
from warmeng.remote.submit import Submissions

FAST = Patience(attempts=5, timeout=30.0, first=0.01, longest=0.02, most=5.0)
PRICES = {"tiny": Price(10.0, 100.0), in_batches("tiny"): Price(5.0, 50.0)}
LINE = Fault(status=500, body={"error": {"message": "it broke"}})


def requests(count, labels=(), first=0):
    return [
        ChatRequest(f"{k}", (("user", f"Question {k}?"),), 8, seed=k, labels=labels)
        for k in range(first, first + count)
    ]


class Opened:
    """An engine with its files, as one process has them."""

    def __init__(self, server, folder, limits=Limits(), say=lambda line: None, patience=FAST):  # noqa: B008
        self.budget = Budget(limits, PRICES, folder / SPENDING, "again")
        self.submissions = Submissions(folder / FILE, "again")
        self.engine = BatchEngine(
            "openai:tiny", server.url, self.budget, patience=patience, say=say, submissions=self.submissions
        )

    def __enter__(self):
        self.engine.open(1.0, 1.0)
        return self

    def __exit__(self, *error):
        self.engine.close()
        self.submissions.close()
        self.budget.close()

    def ask(self, wanted, interrupted=()):
        for request in wanted:
            self.engine.add(request)
        return {result.id: result for result in self.engine.results(interrupted)}


def test_answers_are_those_that_are_asked_alone_at_half_the_price(tmp_path):
    said = []
    with api_server() as server, Opened(server, tmp_path, say=said.append) as opened:
        found = opened.ask(requests(7))
        assert [found[f"{k}"].text for k in range(7)] == [server.answer(b) for b in server.asked_in_batches]
        assert len({r.text for r in found.values()}) == 7
        usd = (PROMPT_TOKENS * 10 + OUTPUT_TOKENS * 100 + 7 * (PROMPT_TOKENS * 5 + OUTPUT_TOKENS * 50)) / 1e6
        assert opened.budget.usd == pytest.approx(usd)
        assert opened.budget.requests == 8
        assert len(server.asked) == 1, "only the first question is asked alone"
        assert opened.engine.score(requests(2, ("A", "B"), first=9))[1].logprobs == pytest.approx((-2.5, -0.1))
        assert [path for _, path in server.jobs.calls[:3]] == ["/v1/files", "/v1/batches", "/v1/batches/batch_0"]
        assert len(server.jobs.batches) == 2
    assert any(line.endswith("batch_0: in_progress") for line in said)
    assert any("batch_0: completed, 7 of 7 done" in line for line in said)


@pytest.mark.parametrize("said", [LINE, *slow(MISSING, EXPIRED, GARBAGE, *(FAULTS[n] for n in (
    "429 without a hint", "no choices", "a list for a text")))])  # fmt: skip
def test_lines_that_fail_are_asked_again_alone(tmp_path, said):
    with api_server() as server, Opened(server, tmp_path) as opened:
        server.jobs.line = lambda n, body: said if n in (1, 4, 7) else None
        found = opened.ask(requests(6))
        assert len(found) == 6
        assert len({r.text for r in found.values()}) == 6
        # Six, the two that failed, and the one of these that failed again.
        assert len(server.asked_in_batches) == 6 + 2 + 1
        assert len(server.jobs.batches) == 3
        assert set(server.jobs.paid.values()) == {1}
        known = 7 * (PROMPT_TOKENS + OUTPUT_TOKENS)
        free = said == EXPIRED or getattr(said, "status", 0) == 429
        assert opened.budget.tokens == known if free else opened.budget.tokens > known


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("cut", True),
        ("500", False),
        *slow(*((name, after) for name in ("drop", "no JSON", "another shape") for after in (False, True))),
        *slow(("500", True), ("429 with retry-after-ms", False)),
    ],
)
def test_a_fault_of_any_call_costs_an_attempt_and_starts_nothing_twice(tmp_path, name, after):
    fault = Fault(**{**vars(FAULTS[name]), "after": after})
    with api_server() as server:
        seen = set()

        def script(n, method, path):
            kind = method, path.replace("_0", "")
            first = kind not in seen
            seen.add(kind)
            return fault if first else None

        server.jobs.script = script
        with Opened(server, tmp_path) as opened:
            found = opened.ask(requests(5))
            assert len(found) == 5
            assert len(server.jobs.batches) == 1
            assert set(server.jobs.paid.values()) == {1}
            assert opened.budget.tokens == 6 * (PROMPT_TOKENS + OUTPUT_TOKENS)


def test_a_server_that_is_gone_for_a_while_is_waited_for(tmp_path):
    """Longer than a request is tried: a batch takes a day. In the end it is given up, and costs nothing twice."""
    patience, looks = replace(FAST, attempts=2), []
    with api_server() as server, Opened(server, tmp_path, patience=patience) as opened:

        def script(n, method, path):
            looks.extend([path] if "batch_" in path else [])
            return FAULTS["503"] if "batch_" in path and len(looks) <= gone else None

        server.jobs.script, gone = script, 3 * patience.attempts
        assert len(opened.ask(requests(3))) == 3
        assert len(looks) > gone
        gone = 10**6
        with pytest.raises(Unavailable, match=f"{10 * patience.attempts} attempts are the most"):
            opened.ask(requests(3, first=3))
        gone = 0
        assert len(opened.ask(requests(3, first=3))) == 3
        assert len(server.asked_in_batches) == 6


def test_a_batch_that_may_be_there_is_looked_for_later_and_counts(tmp_path):
    """A server that makes a batch, loses the response, lists nothing yet, and then refuses."""
    refusal = Fault(status=403, body={"error": {"message": "no more"}})
    with api_server() as server:
        faults = [Fault(status=500, body={}, after=True), refusal]
        server.jobs.script = lambda n, method, path: (
            faults.pop(0) if (method, path) == ("POST", "/v1/batches") else None
        )
        server.jobs.lists = False
        with Opened(server, tmp_path) as opened:
            with pytest.raises(InputError, match=r"can't be told whether the job of file .* was made.*no more"):
                opened.ask(requests(3))
            assert opened.budget.tokens > 4 * (PROMPT_TOKENS + OUTPUT_TOKENS)
        server.jobs.lists = True
        with Opened(server, tmp_path) as opened:
            assert len(opened.ask(requests(3))) == 3
            assert opened.budget.tokens == 5 * (PROMPT_TOKENS + OUTPUT_TOKENS)
        assert len(server.jobs.batches) == 1


def test_an_expired_batch_gives_what_it_has_and_the_rest_is_asked_again(tmp_path):
    with api_server() as server, Opened(server, tmp_path) as opened:
        server.jobs.ending = lambda n: "completed" if n else "expired"
        server.jobs.line = lambda n, body: EXPIRED if 3 <= n < 6 else None
        found = opened.ask(requests(6))
        assert len(found) == 6
        assert len(server.asked_in_batches) == 9
        assert opened.budget.tokens == 7 * (PROMPT_TOKENS + OUTPUT_TOKENS)


def test_files_that_are_gone_are_made_again(tmp_path):
    """Of what goes up, before anything is paid; of answers, which are paid for and lost."""
    said = []
    with api_server() as server, Opened(server, tmp_path, say=said.append) as opened:
        left = {("POST", "/v1/batches"), "content"}

        def script(n, method, path):
            what = "content" if path.endswith("/content") else (method, path)
            if what in left:
                left.discard(what)
                server.jobs.files.clear()

        server.jobs.script = script
        assert len(opened.ask(requests(4))) == 4
        assert len(server.jobs.batches) == 2
        assert set(server.jobs.paid.values()) == {2}
        # What is lost counts in full.
        assert opened.budget.tokens > 9 * (PROMPT_TOKENS + OUTPUT_TOKENS)
    assert any("is gone: what was in it is asked again" in line for line in said)


def test_a_batch_that_is_too_large_is_sent_in_smaller_ones(tmp_path):
    with api_server() as server, Opened(server, tmp_path) as opened:
        server.jobs.ending = lambda n: "token_limit_exceeded" if n in (0, 1) else "completed"
        assert len(opened.ask(requests(9))) == 9
        sizes = [content.count(b"POST") for content in server.jobs.files.values() if b"POST" in content]
        assert sizes == [9, 4, 2, 2, 2, 2, 1]
        assert set(server.jobs.paid.values()) == {1}
        assert opened.budget.tokens == 10 * (PROMPT_TOKENS + OUTPUT_TOKENS)


def test_a_batch_that_is_refused_ends_it_in_the_servers_words_and_costs_nothing(tmp_path):
    with api_server() as server, Opened(server, tmp_path) as opened:
        server.jobs.ending = lambda n: "invalid_json_line"
        with pytest.raises(InputError, match=r"batch_0 failed: invalid_json_line No good \(line 1\): change"):
            opened.ask(requests(3))
        assert opened.budget.tokens == PROMPT_TOKENS + OUTPUT_TOKENS
        server.jobs.ending = lambda n: "completed"
        assert len(opened.ask(requests(3))) == 3


def test_what_is_wrong_with_a_line_ends_it_after_all_others(tmp_path):
    wrong = Fault(status=404, body={"error": {"message": "no such model", "code": "model_not_found"}})
    with api_server() as server:
        server.jobs.line = lambda n, body: wrong if n == 2 else None
        with Opened(server, tmp_path) as opened:
            found = []
            for request in requests(5):
                opened.engine.add(request)
            with pytest.raises(InputError, match="status 404: no such model: check the model's name"):
                found.extend(opened.engine.results())
            assert len(found) == 4
        with Opened(server, tmp_path) as opened:
            assert len(opened.ask(requests(5))) == 5
        assert len(server.asked_in_batches) == 6, "only the one that was wrong is asked again"


def test_a_filtered_line_is_a_result(tmp_path):
    fault = Fault(status=400, body={"error": {"message": "no", "code": "content_filter"}})
    with api_server() as server, Opened(server, tmp_path) as opened:
        server.jobs.line = lambda n, body: fault if n == 0 else None
        assert [r.status for r in opened.ask(requests(2)).values()].count("filtered") == 1


def test_lines_that_always_fail_have_an_end(tmp_path):
    with api_server() as server, Opened(server, tmp_path) as opened:
        server.jobs.line = lambda n, body: LINE
        with pytest.raises(Unavailable, match="it broke; 5 batches are the most"):
            opened.ask(requests(2))
        assert len(server.jobs.batches) == 5


def test_another_answering_model_ends_it(tmp_path):
    with api_server() as server, Opened(server, tmp_path) as opened:
        server.model = "tiny-2026-02-02"
        with pytest.raises(OtherModel, match="tiny-2026-02-02 answers for tiny now"):
            opened.ask(requests(2))


@pytest.mark.parametrize("limits", [Limits(usd=0.01), *slow(Limits(requests=20), Limits(tokens=2000))])
def test_a_budget_stops_before_it_is_passed(tmp_path, limits):
    with api_server() as server, Opened(server, tmp_path, limits) as opened:
        found = []
        for request in requests(100):
            opened.engine.add(request)
        with pytest.raises(BudgetReached):
            found.extend(opened.engine.results())
        asked = len(server.asked_in_batches)
        assert len(found) == asked > 10, "what was asked is kept"
        spent = (PROMPT_TOKENS * 10 + OUTPUT_TOKENS * 100 + asked * (PROMPT_TOKENS * 5 + OUTPUT_TOKENS * 50)) / 1e6
        assert spent <= (limits.usd or spent)
        assert (asked + 1) * (PROMPT_TOKENS + OUTPUT_TOKENS) <= (limits.tokens or 10**6)
        assert asked + 1 <= (limits.requests or 10**6)
        worst = requests(1)[0]
        if limits.usd:
            assert spent + PRICES[in_batches("tiny")].of(worst.most_prompt, worst.most_output) > limits.usd


def test_another_process_waits_for_the_batches_of_the_first(tmp_path):
    interrupted = []
    with api_server() as server:
        server.jobs.stages = ["in_progress"]
        server.jobs.look = lambda batch: {**server.jobs._shown(batch), "status": "in_progress"}
        with Opened(server, tmp_path) as opened:
            threading.Timer(0.3, interrupted.append, (2,)).start()
            assert opened.ask(requests(5), interrupted) == {}
        del server.jobs.look
        with Opened(server, tmp_path) as opened:
            found = opened.ask(requests(7))
            assert len(found) == 7
            assert opened.budget.tokens == 9 * (PROMPT_TOKENS + OUTPUT_TOKENS)
        # A third one, which is asked for what nobody recorded.
        with Opened(server, tmp_path) as opened:
            assert opened.ask(requests(7)) == found
        assert len(server.asked_in_batches) == 7
        assert len(server.jobs.batches) == 2


def test_a_batch_that_was_cancelled_at_the_server_ends_it(tmp_path):
    with api_server() as server, Opened(server, tmp_path) as opened:
        server.jobs.ending = lambda n: "completed" if n else "cancelled"
        server.jobs.line = lambda n, body: MISSING if n == 1 else None
        found = []
        for request in requests(3):
            opened.engine.add(request)
        with pytest.raises(Unavailable, match="batch_0 was cancelled there: the same again asks the rest"):
            found.extend(opened.engine.results())
        assert len(found) == 2
        assert len(opened.ask(requests(3))) == 3
        assert len(server.asked_in_batches) == 4, "only the one that was not begun is asked again"


def test_a_batch_of_another_account_is_named(tmp_path):
    with api_server() as server, Opened(server, tmp_path) as opened:
        server.jobs.script = lambda n, method, path: server.jobs.batches.clear() if "batch_0" in path else None
        with pytest.raises(InputError, match=r"knows no batch batch_0 of .*batches.jsonl: use the account"):
            opened.ask(requests(2))
