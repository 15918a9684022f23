"""Properties over drawn cases: blocks have one owner, every request is computed whole, no text is lost."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from fuzz_device import BLOCK, Device, expected
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from warmeng.common.journal import Journal, encode, read_journal
from warmeng.engine.cache import NULL_BLOCK, BlockPool
from warmeng.engine.request import GenerateRequest, Request, SamplingParams, ScoreRequest
from warmeng.engine.scheduler import Scheduler
from warmeng.study.prompts import BELIEFS, CONTROLS, FRAMINGS, SENTENCES, clean, ended, fits, inside, paper
from warmeng.study.results.records import read_records
from warmeng.study.tasks.task import Item, Task

NAMES = [bytes([k]) * 16 for k in range(6)]


@pytest.fixture(scope="module")
def effort(count: Callable[..., int]) -> settings:
    """How many cases each property is tried on."""
    return settings(
        max_examples=count(60, 3000, quick=25),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


class Blocks(RuleBasedStateMachine):
    """A pool beside a plain list of who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(9, max_idle=3)
        self.held: list[int] = []  # one entry for each user of a block
        self.holds: dict[int, bytes] = {}  # what was published in a block that has kept its content since

    @precondition(lambda self: self.pool.available)
    @rule()
    def allocate(self) -> None:
        """A block that is handed out has no other user."""
        block = self.pool.allocate()
        assert block != NULL_BLOCK
        assert block not in self.held
        self.held.append(block)
        self.holds.pop(block, None)

    @rule(name=st.sampled_from(NAMES))
    def find(self, name: bytes) -> None:
        """A found block holds what was asked for."""
        block = self.pool.acquire(name)
        if block is not None:
            assert self.holds[block] == name
            self.held.append(block)
        assert (block is not None) == self.pool.is_cached(name)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def publish(self, data: st.DataObject, name: bytes) -> None:
        """A name goes to one block, a block has one name."""
        block = data.draw(st.sampled_from(self.held))
        free = not self.pool.is_cached(name) and block not in self.holds
        self.pool.publish(block, name)
        if free:
            self.holds[block] = name
        assert self.pool.is_cached(name) == (name in self.holds.values())

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """A block is let go by one of its users."""
        block = data.draw(st.sampled_from(self.held))
        self.held.remove(block)
        self.pool.release(block)

    @rule()
    def forget(self) -> None:
        """Cached prefixes without users go."""
        self.pool.forget_idle()
        self.holds = {block: name for block, name in self.holds.items() if block in self.held}

    @invariant()
    def counts(self) -> None:
        """Every block is in use or available; at most three prefixes are kept without users."""
        assert self.pool.available == 8 - len(set(self.held))
        idle = [name for name in NAMES if self.pool.is_idle(name)]
        assert len(idle) <= 3
        for block, name in list(self.holds.items()):
            if block in self.held:
                assert self.pool.is_cached(name)
            elif name not in idle:
                del self.holds[block]  # it made room


def test_the_pool_under_any_order_of_calls(count: Callable[..., int]) -> None:
    examples = count(40, 1500, quick=15)
    run_state_machine_as_test(
        Blocks, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None, database=None)
    )


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[tuple[Request, str]], dict[str, Any]]:
    """Return requests with their adapters, and limits."""
    heads = [[k] * draw(st.integers(0, 18)) for k in range(2)]
    asked: list[tuple[Request, str]] = []
    for number in range(draw(st.integers(1, 14))):
        prompt = (*draw(st.sampled_from(heads)), *draw(st.lists(st.integers(0, 1), min_size=1, max_size=14)))
        adapter = draw(st.sampled_from(["", "a", "b"]))
        if draw(st.integers(0, 3)) == 0:
            labels = draw(
                st.lists(
                    st.lists(st.integers(0, 3), min_size=1, max_size=7).map(tuple), min_size=1, max_size=3, unique=True
                )
            )
            asked.append((ScoreRequest(f"s{number}", prompt, tuple(labels)), adapter))
        else:
            sampling = SamplingParams(max_new_tokens=draw(st.integers(1, 30)))
            asked.append((GenerateRequest(f"g{number}", prompt, sampling), adapter))
    limits = {
        "blocks": draw(st.integers(12, 40)), "seqs": draw(st.integers(1, 8)), "budget": draw(st.integers(1, 40)),
        "overlap": draw(st.booleans()), "lack": draw(st.sampled_from([0, 0, 3, 7])), "late": draw(st.integers(0, 4)),
        "copies": draw(st.booleans()),
    }  # fmt: skip
    return asked, limits


def answered(asked: list[tuple[Request, str]], limits: dict[str, Any], order: int) -> tuple[Device, set[str]]:
    """Run requests in an order, some of them added while others run, and memory lacking at every so many steps."""
    pool = BlockPool(limits["blocks"], max_idle=5)
    scheduler = Scheduler(pool, BLOCK, limits["seqs"], limits["budget"], 60, copies=limits["copies"])
    # A device that copies runs one step after the other.
    device = Device(scheduler, limits["overlap"] and not limits["copies"])
    rest = [pair for pair in asked if not scheduler.rejection_reason(pair[0])]
    fits_ = {request.id for request, _ in rest}
    random.Random(order).shuffle(rest)
    late, rest = rest[: limits["late"]], rest[limits["late"] :]
    for request, adapter in rest:
        scheduler.add(request, adapter)
    for number in range(1, 20_000):
        if number % 3 == 0 and late:
            request, adapter = late.pop()
            scheduler.add(request, adapter, urgent=True)
        if not scheduler.busy and device.flight is None and not late:
            break
        if scheduler.busy or device.flight:
            device.step(lacks_memory=bool(limits["lack"]) and number % limits["lack"] == 0 and number < 60)
    else:
        raise AssertionError("the scheduler does not come to an end")
    return device, fits_


def test_every_request_is_computed_whole_and_once_in_any_order(effort: settings) -> None:
    """Budgets hold, blocks are never shared wrongly, preempted work is done again, and the order changes no answer."""

    @effort
    @given(plan=plans(), orders=st.tuples(st.integers(0, 99), st.integers(100, 199)))
    def check(plan: tuple[list[tuple[Request, str]], dict[str, Any]], orders: tuple[int, int]) -> None:
        asked, limits = plan
        for order in orders:
            device, which = answered(asked, limits, order)
            assert device.results.keys() == which
            for request, _ in asked:
                if request.id in which:
                    longest = 0
                    if isinstance(request, GenerateRequest):
                        longest = min(request.sampling.max_new_tokens, 60 - len(request.prompt))
                    assert device.results[request.id] == expected(request, longest)
            assert device.scheduler.pool.available == limits["blocks"] - 1
            assert not device.scheduler.running

    check()


def test_the_drawn_plans_preempt_share_and_retreat(count: Callable[..., int]) -> None:
    """The cases above are not only easy ones."""
    rng, seen = random.Random(5), Counter()
    for number in range(40):
        asked = [
            (
                GenerateRequest(
                    f"g{k}", tuple([k % 2] * 9 + [rng.randint(0, 1) for _ in range(5)]), SamplingParams(30)
                ),
                "",
            )
            for k in range(9)
        ]
        limits = {"blocks": 14, "seqs": 8, "budget": 20, "overlap": number % 2 == 0, "lack": 5, "late": 2}
        limits["copies"] = number % 4 == 1
        device, which = answered(asked, limits, number)
        assert device.results.keys() == which
        seen["preempted"] += device.scheduler.preemptions
        seen["copied"] += device.copied
        seen["again"] += sum(device.computed.values()) > sum(
            len(r.prompt) + len(device.results[r.id]) for r, _ in asked
        )
    assert seen["preempted"] > 20
    assert seen["again"] > 5
    assert seen["copied"] > 20


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
odd = st.sampled_from(
    ["\u2028", "\u2029", "\u0085", "\0", "\r\n", "\x1b[2J", "\ufeff", '"', "\\", ',"crc32":"00000000"}', "\U0010ffff"]
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
        odd,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts | odd, inner, max_size=4)),
    max_leaves=12,
)


def test_any_record_comes_back_as_it_was(effort: settings, tmp_path: Path) -> None:
    """Whatever a text holds, a record is one line, and is read back equal; so are those around it."""
    path = tmp_path / "records.jsonl"

    @effort
    @given(found=st.lists(st.dictionaries(texts | odd, values, max_size=5), min_size=1, max_size=5))
    def check(found: list[dict[str, Any]]) -> None:
        records = [{**fields, "key": f"{k:032x}"} for k, fields in enumerate(found)]
        for fields in records:
            fields.pop("crc32", None)
        path.unlink(missing_ok=True)
        writer = Journal(path, "the same command")
        for record in records:
            writer.append(record)
        writer.close()
        raw = path.read_bytes()
        assert raw.count(b"\n") == len(records)
        read = [{k: v for k, v in record.items() if k != "crc32"} for record in read_journal(path)]
        assert read == records
        assert raw == b"".join(encode(record) for record in records)

    check()


def test_a_text_that_utf_8_cannot_hold_is_an_error_and_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    writer = Journal(path, "the same command")
    writer.append({"key": "00", "text": "a"})
    with pytest.raises(TypeError, match="surrogate"):
        writer.append({"key": "01", "text": "lone \ud800"})
    writer.append({"key": "02", "text": "b"})
    writer.close()
    assert [record["key"] for record in read_records(path)] == ["00", "02"]
    assert orjson.loads(path.read_bytes().split(b"\n")[0])["text"] == "a"


words_ = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="⟦⟧"), max_size=20)
braces = st.sampled_from(["{answer}", "{wrong}", "{0}", "{}", "%s", "\\1", "\\g<0>", "{{x}}", "{"])


@st.composite
def items(draw: st.DrawFn) -> Item:
    """Return an item whose texts are unlike each other."""

    def text(mark: str) -> str:
        return f"⟦{mark}{draw(words_)}{draw(braces) if draw(st.booleans()) else ''}⟧"

    others = tuple(text(f"O{k}") for k in range(draw(st.integers(0, 3))))
    original = text("E") if draw(st.booleans()) else ""
    return Item(draw(words_) or "id", text("Q"), text("A"), text("W"), others=others, original=original)


def test_composition_loses_and_repeats_no_text(effort: settings) -> None:
    """In every place of the grid: the question once, the statement once, the claim once, each option once, in order."""

    @effort
    @given(
        item=items(), layout=st.sampled_from(["own", "truthfulqa", "triviaqa", "medqa", "disinfo"]), statement=words_,
        context=st.sampled_from(["unmodified", "emotion:sad", "stake:high"]), belief=st.sampled_from(BELIEFS),
        framing=st.sampled_from(FRAMINGS), composition=st.sampled_from(["clean", "paper"]),
        grading=st.sampled_from(["alias", "options", "likelihood", "judge"]),
    )  # fmt: skip
    def check(
        item: Item, layout: str, statement: str, context: str, belief: str, framing: str, composition: str, grading: Any
    ) -> None:
        task = Task("t", grading, (item,), layout)
        if not fits(composition, task, context, belief, framing) or (composition == "paper" and belief in CONTROLS):
            return
        said = f"⟦S{statement}⟧"
        contexts = {"unmodified": (), context: (said,)} if context != "unmodified" else {"unmodified": ()}
        compose = clean if composition == "clean" else paper
        text = compose(task, item, context, belief, framing, contexts)
        exam = (
            composition == "paper"
            and layout == "medqa"
            and belief == "none"
            and framing == "plain"
            and context != "unmodified"
        )
        question = (item.original or item.question) if exam else item.question
        assert text.count(question) == 1
        told = context != "unmodified" and not (composition == "paper" and framing == "neutral")
        assert text.count(said) == told
        if told:
            assert text.index(said) < text.index(question)
        named = {"{wrong}": item.wrong, "{answer}": item.answer}
        claimed = next((text for form, text in named.items() if form in SENTENCES[belief]), None)
        for answer in (item.answer, item.wrong, *item.others):
            forms = {answer, ended(answer), inside(answer), answer.strip()}
            times = max(text.lower().count(form.lower()) for form in forms)  # options as they are, claims in lower case
            assert times == (grading == "options") + (answer == claimed), (answer, text)

    check()
