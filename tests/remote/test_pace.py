"""Hints to wait, and how the number of requests at once follows what the server takes."""

import asyncio

import pytest

from warmeng.remote.pace import Limiter, Patience, hint


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 60.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-3"}, None),
        ({"x-ratelimit-reset-requests": "1m2.5s", "x-ratelimit-remaining-requests": "0"}, 62.5),
        ({"x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-reset-requests": "8h", "x-ratelimit-remaining-requests": "12"}, None),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "3s"}, 3.0),
        ({"x-ratelimit-reset-requests": "1 second"}, None),
        ({}, None),
    ],
)
def test_what_a_server_asks_to_wait(headers, seconds):
    assert hint(headers, now=40.0) == seconds


def test_waits_double_up_to_the_longest():
    patience = Patience(first=1.0, longest=10.0)
    for failures, whole in ((1, 1), (2, 2), (3, 4), (5, 10), (500, 10)):
        assert all(whole / 2 <= patience.wait(failures) <= whole for _ in range(20))


def test_the_limit_rises_by_one_a_round_and_halves_once_for_all_that_were_under_way():
    async def work():
        limiter = Limiter(most=32)
        starts = [await limiter.enter() for _ in range(4)]
        assert limiter.limit == 4
        late = asyncio.ensure_future(limiter.enter())
        await asyncio.sleep(0)
        assert not late.done(), "all places are taken"
        for _ in range(4):
            limiter.answered()
        assert limiter.limit == pytest.approx(5, abs=0.1)
        assert limiter.active == 4
        for _ in range(4):
            limiter.leave()
        began = await late
        whole = limiter.limit
        limiter.busy(starts[0], 0.05)
        limiter.busy(starts[1], None)
        assert limiter.limit == whole / 2, "both were under way when it was too much"
        limiter.busy(began, None)
        assert limiter.limit == whole / 2
        limiter.leave()
        before = asyncio.get_running_loop().time()
        await limiter.enter()
        assert asyncio.get_running_loop().time() - before >= 0.04, "the hint holds all back"
        # Few requests under way say nothing about more.
        limiter.answered()
        assert limiter.limit == whole / 2

    asyncio.run(work())


def test_the_limit_stays_within_its_bounds():
    async def work():
        limiter = Limiter(most=2)
        for _ in range(50):
            await limiter.enter()
            limiter._waiting = 1
            limiter.answered()
            limiter.leave()
        assert limiter.limit == 2
        for _ in range(20):
            limiter.busy(float("inf"), None)
        assert limiter.limit == 1

    asyncio.run(work())
