"""Hours on a card that is not here: what moves them, and how near a part of the requests comes to all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

from warmeng.common.errors import UsageError
from warmeng.engine.plan import KINDS, matrix_bytes
from warmeng.engine.prediction.card import CARDS, KERNELS, Timings
from warmeng.engine.prediction.clock import Precision, step_seconds
from warmeng.engine.prediction.predict import alike, predict, simulated_seconds
from warmeng.engine.request import Request, ScoreRequest
from warmeng.engine.shapes import shape_config

SMALL, LARGE = shape_config("llama-3.1-8b"), shape_config("llama-3.1-70b")
H100 = CARDS["h100"]
PLAIN = Precision()


def seconds(precision: Precision, prompt: int, answer: int, count: int) -> float:
    return predict(SMALL, H100, precision, alike(SMALL, prompt, answer), count, answer).seconds


def test_few_requests_take_what_all_of_them_do() -> None:
    some = alike(SMALL, 40, 12)
    assert seconds(PLAIN, 40, 12, 300) == simulated_seconds(SMALL, H100, PLAIN, some(300))


def test_the_pace_of_some_is_near_that_of_all() -> None:
    """Of two and a half times as many as are simulated; five waves of sequences."""
    found = predict(SMALL, H100, PLAIN, alike(SMALL, 30, 6), 5120, 6)
    assert found.simulated == 2048
    assert found.seconds == pytest.approx(simulated_seconds(SMALL, H100, PLAIN, alike(SMALL, 30, 6)(5120)), rel=0.03)
    assert found.hours == found.seconds / 3600


def test_twice_the_requests_take_twice_the_time() -> None:
    assert seconds(PLAIN, 30, 6, 2000) / seconds(PLAIN, 30, 6, 1000) == pytest.approx(2, rel=0.1)
    assert seconds(PLAIN, 30, 6, 8192) == pytest.approx(2 * seconds(PLAIN, 30, 6, 4096))


def test_precision_moves_the_time_by_what_bounds_it() -> None:
    # Eight sequences: each step reads all weights.
    few = {kind: seconds(Precision(kind), 20, 40, 8) for kind in KINDS}
    assert few["int4"] < 0.75 * few["int8"]
    assert few["int8"] == few["fp8"] < 0.75 * few["bfloat16"]
    # Long prompts: arithmetic, which has twice the rate in 8 bits, and that of bfloat16 in 4.
    many = {kind: seconds(Precision(kind), 2000, 1, 64) for kind in KINDS}
    assert many["fp8"] < 0.7 * many["bfloat16"]
    assert many["int4"] == pytest.approx(many["bfloat16"], rel=0.02)
    # Long contexts are read at each step.
    assert seconds(Precision("int4", 1), 2000, 200, 16) < 0.98 * seconds(Precision("int4"), 2000, 200, 16)


def test_a_quantised_product_by_hand() -> None:
    """One row, whose arithmetic is free: the bytes of the packed weight and of the row."""
    config = replace(SMALL, num_layers=1)
    bytes_alone = Timings(1e9, 1e30, 1e12, dict.fromkeys(KERNELS, 1.0))
    arithmetic = replace(bytes_alone, bytes_per_second=1e30, operations_per_second=1e9)
    shapes = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)]
    for kind in KINDS:
        found, _, _ = step_seconds(config, bytes_alone, Precision(kind), [(5, 6)], 1, 0, 0)
        moved = sum(matrix_bytes(out, width, kind) + 2 * (out + width) for out, width in shapes)
        assert found["products"] == pytest.approx(moved / 1e9)
        found, _, _ = step_seconds(config, arithmetic, Precision(kind), [(5, 6)], 1, 0, 0)
        faster = 2 if kind in ("int8", "fp8") else 1
        assert found["products"] == pytest.approx(2 * sum(out * width for out, width in shapes) / 1e9 / faster)
    half, _, _ = step_seconds(config, bytes_alone, Precision("int8", 1), [(999, 1000)], 1, 0, 0)
    whole, _, _ = step_seconds(config, bytes_alone, Precision("int8"), [(999, 1000)], 1, 0, 0)
    assert half["attention"] == pytest.approx(whole["attention"] / 2)


def test_scores_take_time_and_shared_prompts_less() -> None:
    def scores(prompts: Sequence[tuple[int, ...]]) -> list[Request]:
        return [ScoreRequest(str(k), prompt, ((7,), (8, 9, 10))) for k, prompt in enumerate(prompts)]

    own = scores([tuple(range(1000 * k, 1000 * k + 800)) for k in range(24)])
    shared = scores([(*range(784), *range(1000 * k, 1000 * k + 16)) for k in range(24)])
    apart, together = (simulated_seconds(SMALL, H100, PLAIN, part) for part in (own, shared))
    assert 0 < together < 0.4 * apart
    assert simulated_seconds(SMALL, H100, PLAIN, own[:12]) < 0.6 * apart


def test_what_leaves_no_cache_is_refused() -> None:
    with pytest.raises(UsageError, match=r"weights of 131\.4 GiB leave no cache in 79\.6 GiB"):
        predict(LARGE, H100, PLAIN, alike(LARGE, 30, 6), 10, 6)
    assert predict(LARGE, H100, Precision("int4"), alike(LARGE, 30, 6), 10, 6).seconds > 0


def test_it_needs_no_kernels() -> None:
    code = "import sys; sys.modules['triton'] = None; import warmeng.engine.prediction.predict"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
