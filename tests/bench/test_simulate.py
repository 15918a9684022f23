"""A run by prediction: the time of a tiny one, by hand, and what bounds it."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("triton")

from warmeng.bench.card import read_timings
from warmeng.bench.host import measure_host
from warmeng.bench.lengths import Lengths, read_lengths
from warmeng.bench.simulate import Simulated, simulate
from warmeng.bench.tables import host_lines, simulated_lines
from warmeng.cli.bench.group import bench
from warmeng.common.errors import UsageError
from warmeng.engine.plan import plans
from warmeng.engine.prediction.card import CARDS, KERNELS, USUAL_HOST, HostCost, Timings
from warmeng.engine.prediction.clock import Precision, cache_slots
from warmeng.engine.prediction.predict import alike, predict
from warmeng.engine.shapes import shape_config

ALL = dict.fromkeys(KERNELS, 1.0)
BY_OPERATIONS = Timings(1e30, 1e9, 1e12, ALL, gap=0.0, launch=0.0)
FREE = HostCost(0.0, 0.0, 0.0)
# A layer has 2048 + 1024 + 3072 + 1536 = 7680 weights, the head 300 x 32, a pair of tokens takes 4 * 2 * 4 * 8.
# Prompt: 16 rows with padding, six pairs, one row of logits. Then one row that sees four slots, its own included.
PROMPT = (2 * 2 * 16 * 7680 + 6 * 256 + 2 * 9600) / 1e9
DECODE = (2 * 2 * 1 * 7680 + 4 * 256 + 2 * 9600) / 1e9


def run(shape: str, timings: Timings, host: HostCost, lengths: list[Lengths] | None = None) -> Simulated:
    one = [Lengths(3, 2)]
    return simulate(shape, timings, host, personas=1, slots=1600, lengths=one if lengths is None else lengths)


def test_a_run_of_two_steps_by_hand(shape: str) -> None:
    found = run(shape, BY_OPERATIONS, FREE)
    assert (found.steps, found.mixed_steps, found.rows, found.output_tokens) == (2, 1, 4, 2)
    assert found.seconds == pytest.approx(PROMPT + DECODE, rel=1e-12)
    assert found.kernels["products"] == pytest.approx(2 * 2 * 17 * 7680 / 1e9)
    assert found.kernels["attention"] == pytest.approx(10 * 256 / 1e9)
    assert found.kernels["head"] == pytest.approx(4 * 9600 / 1e9)
    assert found.rate == pytest.approx(2 / (PROMPT + DECODE))


def test_bytes_shares_and_gaps_count(shape: str) -> None:
    """Of a step whose arithmetic is free: the bytes of weights, rows, keys and logits, by hand."""
    timings = replace(BY_OPERATIONS, bytes_per_second=1e6, operations_per_second=1e30, gap=1.0)
    found = run(shape, timings, FREE)
    rows = 16 + 1
    products = 2 * (2 * 2 * 7680 + rows * 2 * (32 + 64 + 32 + 32 + 32 + 96 + 48 + 32)) / 1e6
    assert found.kernels["products"] == pytest.approx(products)
    assert found.kernels["attention"] == pytest.approx((3 + 4) * (2 * 2 * 2 * 8 * 2) / 1e6)
    assert found.kernels["head"] == pytest.approx(2 * ((32 + 9600) * 2 + 1200) / 1e6)
    assert found.kernels["choice"] == pytest.approx(2 * 1200 / 1e6)
    assert found.kernels["small"] == pytest.approx(2 * rows * 2 * (2 * 8 * 8 + 8 * 32 + 3 * 48) / 1e6)
    assert found.kernels["gaps"] == 2 * 9 + 3  # of the step that is replayed
    slower = replace(timings, shares={**ALL, "products": ((1.0, 0.25), (16.0, 0.5))})
    weights, row = 2 * 2 * 7680 / 1e6, 2 * 2 * 368 / 1e6
    assert run(shape, slower, FREE).kernels["products"] == pytest.approx((weights + row) * 4 + (weights + 16 * row) * 2)


def test_what_bounds_a_run_is_told(shape: str) -> None:
    device = run(shape, BY_OPERATIONS, HostCost(1e-6, 0.0, 0.0))
    assert device.bound == "device"
    assert device.idle == 0.0
    assert device.seconds == pytest.approx(1e-6 + PROMPT + DECODE)  # only the first step's preparation is seen
    host = run(shape, BY_OPERATIONS, HostCost(1.0, 0.0, 0.0))
    assert host.bound == "host"
    assert host.seconds == pytest.approx(2.0 + DECODE)
    assert host.idle == pytest.approx(1.0 - PROMPT)
    assert host.host == pytest.approx(2.0)
    by_size = run(shape, BY_OPERATIONS, HostCost(0.0, 10.0, 1.0))
    assert by_size.seconds == pytest.approx(10 + 3 + 10 + 1 + DECODE)
    launched = run(shape, replace(BY_OPERATIONS, launch=1.0), FREE)
    assert launched.seconds == pytest.approx((2 * 9 + 3) + DECODE)  # the prompt's step ends with its last launch
    assert launched.bound == "host"


def test_a_small_cache_costs_rows(shape: str) -> None:
    lengths = [Lengths(20, 60)] * 12
    needed = 12 * (20 + 60 - 1)
    wide = simulate(shape, BY_OPERATIONS, FREE, personas=1, slots=2000, lengths=lengths)
    tight = simulate(shape, BY_OPERATIONS, FREE, personas=1, slots=200, lengths=lengths)
    assert (wide.rows, wide.preemptions) == (needed, 0)
    assert tight.rows >= needed
    assert tight.steps > wide.steps
    assert tight.mean_sequences < wide.mean_sequences


def test_adapters_cost_arithmetic(shape: str) -> None:
    """Two of rank 8, padded to 16: A of both for every row, B of the row's own."""
    found = simulate(shape, BY_OPERATIONS, FREE, personas=3, slots=1600, lengths=[Lengths(3, 2)])
    a = 16 * 2 * (3 * 32 + 32 + 2 * 32 + 48)
    b = 16 * (64 + 32 + 96 + 32)
    assert found.kernels["products"] == pytest.approx(2 * 2 * 17 * (7680 + a + b) / 1e9)


def test_cards_hold_what_they_can() -> None:
    plain, memory = Precision(), CARDS["h100"].memory
    small, large = shape_config("llama-3.1-8b"), shape_config("qwen2.5-32b")
    assert 470_000 < cache_slots(small, memory, plain) < 500_000
    assert 60_000 < cache_slots(large, memory, plain) < 68_000
    (planned,) = (plan for plan in plans(large, int(memory), 1) if plan.kind == "int4")
    assert cache_slots(large, memory, Precision("int4")) == planned.sequences
    assert cache_slots(large, memory, Precision("int4", 1)) == planned.fp8_sequences
    with pytest.raises(UsageError, match="leave no cache"):
        cache_slots(large, 62 * 2**30, plain)


def test_what_is_predicted_for_a_study_is_what_is_simulated_here() -> None:
    config = shape_config("llama-3.1-8b")
    found = simulate("llama-3.1-8b", CARDS["h100"], USUAL_HOST, personas=1, lengths=[Lengths(50, 20)] * 100)
    assert predict(config, CARDS["h100"], Precision(), alike(config, 50, 20), 100, 20).seconds == found.seconds


def test_timings_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"

    def read(content: object) -> Timings:
        path.write_text(json.dumps(content))
        return read_timings(path, CARDS["h100"])

    host = {"step": 0, "sequence": 5e-6, "row": 1e-7}
    found = read({"gap": 2e-6, "shares": {"products": [[512, 0.7], [64, 0.5]], "choice": 0.9}, "host": host})
    assert (found.gap, found.launch) == (2e-6, CARDS["h100"].launch)
    assert found.share("products", 288) == pytest.approx(0.6)
    assert (found.share("products", 4), found.share("choice", 7)) == (0.5, 0.9)
    assert found.share("head", 1) == CARDS["h100"].share("head", 1)
    assert found.host == HostCost(0.0, 5e-6, 1e-7)
    for bad, said in (
        ({"gaps": 1}, "gaps"),
        ({"gap": "1"}, "gap is '1'"),
        ({"gap": True}, "gap is True"),
        ({"shares": {"product": 1}}, "product"),
        ({"shares": {"products": 0}}, "products is 0"),
        ({"shares": {"products": [[1, 2, 3]]}}, "pairs"),
        ({"shares": 3}, "shares has 3"),
        ({"host": {"step": 1}}, "host has step"),
        ([], "the file has"),
    ):
        with pytest.raises(UsageError, match=said):
            read(bad)
    path.write_text("{")
    with pytest.raises(UsageError, match="can't be read as JSON"):
        read_timings(path, CARDS["h100"])


def test_tables_say_what_was_found(shape: str) -> None:
    lines = "\n".join(simulated_lines([run(shape, BY_OPERATIONS, FREE)], "h100"))
    assert "device" in lines
    assert f"{2 / (PROMPT + DECODE):,.0f}" in lines


@pytest.mark.slow
def test_the_host_stays_ahead_of_the_device() -> None:
    """A step of 256 decoding sequences, beside a fixed loop timed between the steps; the best of three runs.

    It was 0.37 to 0.51 of the loop when this was written, and 1.3 to 1.6 while each sequence took a hash and
    lists of its own: 0.8 is between them, far from both.
    """
    found = []
    for _ in range(3):
        found.append(measure_host(256, adapters=2, temperature=0.8))
        if found[-1].ratio < 0.8:
            break
    assert min(r.ratio for r in found) < 0.8
    best = found[-1]
    assert best.mixed_rows > 2048
    assert best.cost.seconds(256, 256) == pytest.approx(best.decode, rel=0.5)
    assert f"{best.ratio:.2f}" in "\n".join(host_lines([best]))
    assert len(read_lengths(512)) == 512


def test_the_commands_print_tables_and_a_line(shape: str, tmp_path: Path) -> None:
    timed = tmp_path / "timings.json"
    timed.write_text(json.dumps({"host": {"step": 1e-4, "sequence": 1e-6, "row": 0}, "gap": 0.001}))
    told = ["simulate", "--shape", shape, "--requests", "6", "--cache-slots", "4096", "--timings", str(timed)]
    done = CliRunner().invoke(bench, told)
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["bench"] == "simulate"
    assert (record["timings"]["gap"], record["results"][0]["requests"]) == (0.001, 6)
    assert "predicted for h100, not measured; the host: 0.10 ms a step" in done.stdout
    done = CliRunner().invoke(bench, ["host", "--sequences", "4", "--adapters", "0"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["results"][0]["sequences"] == 4
    done = CliRunner().invoke(bench, ["host", "--sequences", "none"])
    assert isinstance(done.exception, UsageError)
    assert "--sequences is 'none'" in str(done.exception)


def test_the_measured_timings_of_a_card_are_read() -> None:
    """The committed shares, each of a kernel measured alone; none is above its ceiling."""
    path = Path(inspect.getfile(read_timings)).parent / "data/timings-h200.json"
    timings = read_timings(path, CARDS["h200"])
    for kernel in KERNELS:
        assert all(0 < timings.share(kernel, rows) <= 1 for rows in (1, 64, 512, 1024, 4096))
    assert timings.share("products", 1024) > CARDS["h200"].share("products", 1024)
