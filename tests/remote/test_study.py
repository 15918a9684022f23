"""A whole study of models behind an API: the same records, resume, grades and results as of local models."""

from __future__ import annotations

import json
import math
import socket
from functools import partial
from pathlib import Path

import orjson
import pytest
from api_jobs import EXPIRED
from api_server import (
    ANSWERING,
    BUSY,
    CANARY,
    FAULTS,
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    Fault,
    api_server,
    found_in,
)
from fakes import FakeEngine, Heard, knowing_judge

from warmeng.common.errors import InputError, UsageError
from warmeng.common.progress import Silent
from warmeng.remote.budget import FILE as SPENDING
from warmeng.remote.budget import Budget, Limits, Price, in_batches
from warmeng.remote.errors import BudgetReached
from warmeng.study.grading.judge import LABELS
from warmeng.study.grading.rows import read_rows
from warmeng.study.plan import Study
from warmeng.study.report.results import markdown
from warmeng.study.results.records import FILE, read_records
from warmeng.study.run.calibrate import LABELLED, calibrate
from warmeng.study.run.dry_run import dry_run
from warmeng.study.run.grade_file import Wanted, grade_file
from warmeng.study.run.run import INTERRUPTED, run_study
from warmeng.study.settings import StudySettings

TUNED = "openai:ft:tiny:us:warm"


def settings(server, **more):
    plain = {
        "model": "openai:tiny",
        "personas": ("original", "warm-prompt", f"tuned={TUNED}"),
        "tasks": ("facts", "misconceptions"),
        "contexts": ("unmodified",),
        "beliefs": ("none", "wrong"),
        "limit": 2,
        "api_base": getattr(server, "url", server),
        "api_timeout": 60.0,
    }
    return StudySettings(**(plain | more))


def records(folder):
    return list(read_records(folder / FILE))


def by_model(server):
    """Let each model answer by its own name."""
    complete = server.completion
    server.completion = lambda body: {**complete(body), "model": f"{body['model']}-2026"}
    return server


def conversations(server):
    """Conversations that were asked for answers, without the first question to each model."""
    return [body for body in server.asked if "Which letter comes first" not in body["messages"][-1]["content"]]


def test_a_run_ends_in_tables_and_says_what_an_api_does_not_give(tmp_path, capfd):
    with api_server() as server:
        outcome = run_study(settings(by_model(server)), tmp_path / "r", Heard(), "warmeng run")
    assert outcome.exit_code == 0
    found = records(tmp_path / "r")
    assert len(found) == 3 * 2 * 2 * 2 == len(conversations(server))
    assert {r["answered_by"] for r in found if r["persona"] == "tuned"} == {"ft:tiny:us:warm-2026"}
    assert {r["answered_by"] for r in found if r["persona"] != "tuned"} == {"tiny-2026"}
    assert {r["fingerprint"] for r in found} == {"fp_one"}
    assert {(r["task"], r["kind"]) for r in found} == {("facts", "answer"), ("misconceptions", "score")}
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["inputs"]["model"]["answering"] == "tiny-2026"
    assert manifest["inputs"]["model of"]["tuned"]["answering"] == "ft:tiny:us:warm-2026"
    assert manifest["margins"] == 0
    text = markdown(outcome.results)
    assert "not deterministic" in text
    assert "Answered by tiny-2026 (fp_one) 16 times; ft:tiny:us:warm-2026 (fp_one) 8 times" in text
    assert "no margins, susceptibility" in text
    system = [body["messages"][0]["content"] for body in server.asked if body["messages"][0]["role"] == "system"]
    assert len(system) == 8
    # The same seed for all personas of a question, another for each question.
    seeds = {}
    for body in conversations(server):
        seeds.setdefault(body["messages"][-1]["content"].partition("?")[0], set()).add(body["seed"])
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set(map(min, seeds.values()))) == 4
    assert not found_in(CANARY, tmp_path)
    assert CANARY not in "".join(capfd.readouterr())


def test_the_report_says_it_too(tmp_path):
    from warmeng.study.report.page import load_run, render

    with api_server() as server:
        run_study(settings(server, personas=("original", "warm-prompt")), tmp_path / "r", Silent())
    page = render(load_run(tmp_path / "r"))
    for told in ("An API gives none: the same request may be answered otherwise", "no shared noise",
                 f"by {ANSWERING} behind {server.url}", f"{ANSWERING} (fp_one) 16 times"):  # fmt: skip
        assert told in page, told
    assert "same bits" not in page


def test_options_are_graded_by_likeliest_letters_and_undecided_where_these_have_little(tmp_path):
    with api_server(top=lambda body: [("A", math.log(0.6)), ("B", math.log(0.3)), ("So", math.log(0.1))]) as server:
        quick = settings(server, personas=("original",), tasks=("misconceptions",), limit=6)
        run_study(quick, tmp_path / "told", Silent())
        server.top = lambda body: [("A", math.log(0.03)), ("So", math.log(0.9))]
        run_study(quick, tmp_path / "little", Silent())
        server.top = lambda body: [("B", math.log(0.9))]
        run_study(quick, tmp_path / "one", Silent())
    told = records(tmp_path / "told")
    assert {r["grade"] for r in told} == {"correct", "incorrect"}
    for r in told:
        assert r["labels"]["mass"] == pytest.approx(0.9)
        right = r["labels"]["right"] > r["labels"]["wrong"]
        assert r["grade"] == ("correct" if right else "incorrect")
        assert r["which"] == (None if right else "user")
    little = records(tmp_path / "little")
    assert {(r["grade"], r["reason"]) for r in little} == {("unscored", "label mass below 0.05")}
    one = records(tmp_path / "one")
    assert {r["grade"] for r in one} == {"correct", "incorrect"}
    assert all(None in r["labels"].values() for r in one), "what is not told is not assumed"


def test_a_server_that_tells_no_tokens_is_asked_for_a_letter(tmp_path):
    with api_server(top=lambda body: None, answer=lambda body: "The answer is A.") as server:
        run_study(settings(server, personas=("original",), limit=6), tmp_path / "r", Silent())
        assert not any("logprobs" in body for body in conversations(server))
    found = [r for r in records(tmp_path / "r") if r["task"] == "misconceptions"]
    assert {r["kind"] for r in found} == {"answer"}
    assert {r["grade"] for r in found} == {"correct", "incorrect"}
    facts = json.loads((tmp_path / "r" / "manifest.json").read_text())["facts"]["api"]
    assert facts["options"] == "written letters"


def test_a_budget_stops_a_run_which_a_higher_limit_continues(tmp_path):
    with api_server() as server:
        whole = settings(by_model(server), price_in=1.0, price_out=2.0)
        kept = []
        for most in (8, 15):
            limited = settings(server, price_in=1.0, price_out=2.0, max_requests=most)
            with pytest.raises(BudgetReached, match=r"kept: continue with a higher limit: warmeng run") as caught:
                run_study(limited, tmp_path / "r", Heard(), "warmeng run")
            assert f"the budget of {most} requests is reached" in str(caught.value)
            assert len(server.asked) == most
            kept.append(len(records(tmp_path / "r")))
        assert 0 < kept[0] < kept[1] < 24
        outcome = run_study(whole, tmp_path / "r", Heard(), "warmeng run")
        assert outcome.exit_code == 0
        asked = len(server.asked)
        # Finished: its tables again, without a request.
        assert run_study(whole, tmp_path / "r", Heard(), "warmeng run").results == outcome.results
        assert len(server.asked) == asked
    assert len(conversations(server)) == len(records(tmp_path / "r")) == 24, "none is asked twice"


def test_money_is_never_passed_over_several_runs(tmp_path):
    with api_server() as server:
        for _ in range(3):
            limited = settings(server, personas=("original",), price_in=1e4, price_out=1e4, max_cost=9.0, limit=6)
            with pytest.raises(BudgetReached):
                run_study(limited, tmp_path / "r", Silent())
        spent = sum(30 + (1 if body.get("max_tokens") == 1 else 3) for body in server.asked) * 1e4 / 1e6
    assert 3 < spent <= 9.0


def test_faults_during_a_run_change_nothing_of_its_records(tmp_path):
    kinds = [fault for name, fault in FAULTS.items() if name != "drip"]
    with api_server() as server:
        port = server.http.server_address[1]
        quick = settings(server, personas=("original", "warm-prompt"), limit=4)
        run_study(quick, tmp_path / "plain", Silent())
    with api_server(lambda n, body: kinds[n % len(kinds)] if n % 3 == 1 else None) as server:
        other = settings(server, personas=("original", "warm-prompt"), limit=4)
        run_study(other, tmp_path / "faulty", Silent())
        assert max(server.answered.values()) <= 1
    assert port != server.http.server_address[1]
    plain, faulty = (
        sorted(json.dumps({k: v for k, v in r.items() if k not in ("key", "crc32")}) for r in records(tmp_path / name))
        for name in ("plain", "faulty")
    )
    assert plain == faulty
    assert not found_in(CANARY, tmp_path)


def test_another_answering_model_is_refused_by_name_when_it_comes_and_when_a_run_goes_on(tmp_path):
    with api_server() as server:
        changed = settings(server, personas=("original",), limit=4)

        def script(n, body):
            if n == 6:
                server.model = "tiny-2026-02-02"

        server.script = script
        with pytest.raises(InputError, match="tiny-2026-02-02 answers for tiny now, tiny-2026-01-01 before"):
            run_study(changed, tmp_path / "r", Silent())
        kept = records(tmp_path / "r")
        assert 0 < len(kept) < 16
        assert {r["answered_by"] for r in kept} == {ANSWERING}
        server.script = lambda n, body: None
        with pytest.raises(InputError, match=r"made with model answering .*tiny-2026-01-01.*tiny-2026-02-02"):
            run_study(changed, tmp_path / "r", Silent())
        server.model = ANSWERING
        server.fingerprint = "fp_two"
        heard = Heard()
        assert run_study(changed, tmp_path / "r", heard).exit_code == 0
    assert {r["fingerprint"] for r in records(tmp_path / "r")} == {"fp_one", "fp_two"}


def test_the_bases_own_model_is_no_persona(tmp_path):
    with (
        api_server() as server,
        pytest.raises(InputError, match=f"{ANSWERING} answers for {TUNED}, as it does for the"),
    ):
        run_study(settings(server), tmp_path / "r", Silent())


REFUSED = [
    ({"asking": ("open", "choice")}, "asking choice is not there for openai:tiny"),
    ({"outcome": "susceptibility", "beliefs": ("wrong", "right")}, "outcome susceptibility is not there"),
    ({"warmth_prompts": 3}, "warmth_prompts is not there"),
    ({"fast": True}, "fast is not there"),
    ({"revision": "main"}, "revision is not there"),
    ({"personas": ("original", "warm")}, "persona warm has an adapter or a vector"),
    ({"personas": ("original", "x=full:smollm2-135m-instruct")}, "compare models behind an API with each other"),
    ({"model": "smollm2-135m-instruct"}, "compare models behind an API with each other"),
    ({"max_cost": 1.0}, "tiny, ft:tiny:us:warm: has no price"),
]


@pytest.mark.parametrize(("more", "why"), REFUSED)
def test_what_an_api_cannot_give_is_refused_by_name(tmp_path, more, why):
    with api_server() as server, pytest.raises(UsageError, match=why):
        run_study(settings(server, **more), tmp_path / "r", Silent())
    assert server.asked == []
    assert not (tmp_path / "r" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"max_requests": -1}, "max_requests is -1"),
        ({"max_cost": "1"}, "max_cost is '1'"),
        ({"api_timeout": 0}, "api_timeout is 0"),
        ({"api_concurrency": 0}, "api_concurrency is 0"),
        ({"price_in": 1.0}, "give both"),
        ({"api_base": "nowhere"}, "expected an address"),
        ({"model": "openai:"}, "names no model"),
        ({"judges": ("openai:a b",)}, "names no model"),
    ],
)
def test_unsound_settings_are_refused(more, why):
    with pytest.raises(UsageError, match=why):
        settings("http://127.0.0.1:1/v1", **more)


def test_what_may_be_spent_is_no_part_of_a_run_and_nothing_of_an_api_names_a_local_one():
    plain, limited = (
        settings("http://127.0.0.1:1/v1", **more) for more in ({}, {"max_requests": 3, "price_in": 1, "price_out": 2})
    )
    assert plain.digest == limited.digest
    assert not any("api" in name or "price" in name for name in StudySettings().as_dict())


def test_a_dry_run_tells_requests_tokens_and_money_without_a_network(tmp_path, monkeypatch):
    def refuse(*given):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.delenv("OPENAI_API_KEY")
    planned = settings(
        "https://api.example.org/v1", judges=("openai:judge",), price_in=2.0, price_out=8.0, max_cost=0.001
    )
    text = "\n".join(dry_run(planned, tmp_path / "r"))
    assert "requests         24: 12 answers to generate, 12 letters of options" in text
    assert "16 requests (8 answers, 8 options) and 1 question to see what answers; about" in text
    assert "8 requests (4 answers, 4 options) and 2 questions" in text
    assert "openai:judge     172 requests (12 judgments, 160 labelled answers)" in text
    assert "nothing was sent to it" in text
    assert "USD, at most" in text
    assert "0.001 USD (--max-cost): too little by this estimate" in text
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="has no price"):
        list(dry_run(settings("http://127.0.0.1:1/v1", max_cost=1.0), tmp_path / "r"))


def test_a_dry_runs_counts_are_those_of_the_run(tmp_path):
    with api_server() as server:
        planned = settings(by_model(server), price_in=1.0, price_out=1.0)
        lines = list(dry_run(planned, tmp_path / "r"))
        run_study(planned, tmp_path / "r", Silent())
    told = [int(line.split()[1]) for line in lines if "requests (" in line and "see what answers" in line]
    assert sum(told) == len(conversations(server)) == Study.load(planned).size
    spending = [orjson.loads(line) for line in (tmp_path / "r" / SPENDING).read_bytes().splitlines()]
    assert sum("of" not in line for line in spending) == len(server.asked) == 24 + 3


@pytest.fixture
def few_labelled(tmp_path, monkeypatch):
    """A judge is measured on every third of the labelled answers: 54."""
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(LABELLED.read_text().splitlines(keepends=True)[::3]))
    monkeypatch.setattr("warmeng.study.run.judges.calibrate", partial(calibrate, path=path))
    return 54


def judging(share=1.0):
    """Likeliest tokens of a judge that knows a share of the labelled answers; of others, of letters."""
    prefers = knowing_judge(share)

    def top(body):
        prompt = body["messages"][-1]["content"]
        if "Answer to grade" not in prompt:
            return [("B", -0.1)]
        return [(label, prefers(f"<user>{prompt}<assistant>", label)) for label in LABELS]

    return top


def test_a_judge_behind_an_api_passes_the_gate_and_grades(tmp_path, few_labelled):
    with api_server(top=judging()) as server:
        quick = settings(server, personas=("original",), tasks=("facts",), judges=("openai:a", "openai:b"))
        outcome = run_study(quick, tmp_path / "r", Silent())
        assert len(conversations(server)) == 4 + 2 * few_labelled + 2 * 4
        asked = len(server.asked)
        run_study(quick, tmp_path / "r", Silent())
        assert len(server.asked) == asked
    judged = [r for r in records(tmp_path / "r") if r["kind"] == "judged"]
    assert len(judged) == 8
    assert {(r["answered_by"], r["fingerprint"]) for r in judged} == {(ANSWERING, "fp_one")}
    facts = json.loads((tmp_path / "r" / "manifest.json").read_text())["facts"]["judges"]
    assert facts["openai:a"]["trusted"]
    assert facts["openai:a"]["kappa"] == 1.0
    assert outcome.results["run"]["judgments"]["done"] == {"openai:a": 4, "openai:b": 4}
    assert not found_in(CANARY, tmp_path)


def test_a_run_in_batches_has_the_records_of_one_that_asks_alone_at_half_the_price(tmp_path, few_labelled):
    """Of subjects and judges; a batch that failed in part, in another order, changes nothing."""
    quick = {"judges": ("openai:judge",), "price_in": 100.0, "price_out": 100.0}
    with api_server(top=judging()) as server:
        run_study(settings(by_model(server), **quick), tmp_path / "alone", Silent())
        server.jobs.line = lambda n, body: EXPIRED if n % 5 == 4 else None
        server.asked.clear()
        outcome = run_study(settings(server, api_batch=True, **quick), tmp_path / "batched", Silent())
        assert len(conversations(server)) == 0
        first = len(server.asked) * (PROMPT_TOKENS + OUTPUT_TOKENS) * 100.0 / 1e6
        lines = list(dry_run(settings(server, api_batch=True, **quick), tmp_path / "r"))
    assert outcome.exit_code == 0
    alone, batched = (
        sorted(
            json.dumps({k: v for k, v in r.items() if k not in ("key", "of", "crc32")})
            for r in records(tmp_path / name)
        )
        for name in ("alone", "batched")
    )
    assert alone == batched
    facts = json.loads((tmp_path / "batched" / "manifest.json").read_text())["facts"]["api"]
    assert facts["batches"] is True
    assert any("in batches, half the price; nothing was sent" in line for line in lines)
    spent = {name: cost(tmp_path / name) for name in ("alone", "batched")}
    assert spent["batched"] == pytest.approx(first + (spent["alone"] - first) / 2)


def cost(folder):
    """Dollars of a run's spending, at 100 a million tokens and half of it in batches."""
    names = {"tiny", TUNED.removeprefix("openai:"), "judge"}
    prices = {name: Price(100.0, 100.0) for name in names} | {in_batches(name): Price(50.0, 50.0) for name in names}
    budget = Budget(Limits(), prices, folder / SPENDING, "again")
    budget.close()
    return budget.usd


def test_a_run_in_batches_and_one_without_are_not_mixed(tmp_path):
    with api_server() as server:
        quick = settings(server, personas=("original",))
        run_study(settings(server, personas=("original",), api_batch=True), tmp_path / "r", Silent())
        with pytest.raises(InputError, match="api_batch"):
            run_study(quick, tmp_path / "r", Silent())
    with pytest.raises(UsageError, match="no model is behind an API"):
        StudySettings(api_batch=True)


def test_an_interrupted_run_goes_on(tmp_path):
    with api_server(delay=0.01) as server:
        quick = settings(server, personas=("original", "warm-prompt"))
        assert run_study(quick, tmp_path / "r", Heard(stop_after=5), "warmeng run").exit_code == INTERRUPTED
        kept = len(records(tmp_path / "r"))
        assert 5 <= kept < 16
        asked = len(server.asked)
        assert run_study(quick, tmp_path / "r", Heard(), "warmeng run").exit_code == 0
        assert len(server.asked) - asked == 1 + 16 - kept


def test_a_judge_behind_an_api_commits_itself_first_and_the_dry_run_counts_it(tmp_path, few_labelled):
    with api_server(top=judging()) as server:
        quick = settings(server, personas=("original",), tasks=("facts",), judges=("openai:a",), judge_commits=True)
        told = "\n".join(dry_run(quick, tmp_path / "r"))
        assert run_study(quick, tmp_path / "r", Silent()).exit_code == 0
        own = [
            body for body in conversations(server) if body["messages"][-1]["content"].startswith("Answer the question")
        ]
        judged = [r for r in records(tmp_path / "r") if r["kind"] == "judged"]
    texts = [body["messages"][-1]["content"] for body in own]
    assert len(texts) == len(set(texts))
    assert all(body["temperature"] == 0.0 for body in own)
    assert all(r["own"] for r in judged)
    # Of all labelled answers' questions, of which this test takes a third.
    everyone = {row.question for row in read_rows(LABELLED, "label")}
    assert f"{len(everyone) + len({r['item'] for r in judged})} answers of its own" in told


def test_a_file_is_graded_by_a_judge_behind_an_api(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question": "What is wet?", "answer": "Water", "right": "Water"}\n' * 3)
    with api_server(top=lambda body: [("correct", -0.1), ("in", -3.0)]) as server:
        judge = StudySettings(model="openai:a", api_base=server.url, max_requests=5)
        lines = list(grade_file(judge, path, Wanted(form="jsonl")))
        assert [json.loads(line)["grade"] for line in lines] == ["correct"] * 3
        assert len(server.asked) == 4


def test_a_judge_that_agrees_too_little_or_tells_no_tokens_is_refused(tmp_path, few_labelled):
    with api_server(top=judging(0.0)) as server:
        quick = settings(server, personas=("original",), tasks=("facts",), judges=("openai:a",))
        with pytest.raises(InputError, match="judge openai:a is refused"):
            run_study(quick, tmp_path / "r", Silent())
        server.top = lambda body: None
        with pytest.raises(InputError, match="tells no likeliest tokens"):
            run_study(quick, tmp_path / "s", Silent())


def test_a_local_subject_may_have_a_judge_behind_an_api(tmp_path, monkeypatch, few_labelled):
    monkeypatch.setattr("warmeng.study.run.run.load_engine", lambda settings: FakeEngine())
    with api_server(lambda n, body: BUSY if n == 20 else None, top=judging()) as server:
        mixed = settings(
            server, model="fake", personas=("original", "warm-prompt"), tasks=("facts",), judges=("openai:a",),
            warmth_prompts=0, asking=("open",), max_requests=1000,
        )  # fmt: skip
        outcome = run_study(mixed, tmp_path / "r", Silent())
    assert outcome.exit_code == 0
    assert len([r for r in records(tmp_path / "r") if r["kind"] == "judged"]) == 8
    assert "answered_by" not in records(tmp_path / "r")[0]


def test_items_that_the_server_filters_are_records_with_their_reason(tmp_path):
    fault = Fault(status=400, body={"error": {"message": "no", "code": "content_filter"}})
    with api_server(lambda n, body: fault if n == 2 else None) as server:
        outcome = run_study(settings(server, personas=("original",)), tmp_path / "r", Silent())
    assert outcome.exit_code == 0
    assert [(r["status"], r["grade"], r["reason"]) for r in records(tmp_path / "r") if r["status"] != "ok"] == [
        ("filtered", "unscored", "filtered")
    ]


def test_wrong_answers_that_are_missing_are_borrowed(tmp_path):
    path = Path(tmp_path / "quiz.jsonl")
    path.write_text("".join(f'{{"id": "q{k}", "question": "Who is {k}?", "answer": "Name{k}"}}\n' for k in range(3)))
    with api_server() as server:
        run_study(settings(server, personas=("original",), tasks=(str(path),), limit=0), tmp_path / "r", Silent())
        assert len(conversations(server)) == 6
    items = [json.loads(line) for line in (tmp_path / "r" / "items.jsonl").read_text().splitlines()]
    assert all("wrong answer borrowed" in item["marks"] for item in items)
