"""``kill -9`` at random times, in runs and in what continues them."""

from __future__ import annotations

import random
import time

import pytest
from injecting import Plan
from studies import acknowledged, fresh, keys, lines, study, widened, write_quiz


def kill_at_random(launcher, command, whole, root, wanted, longest, tally, seed, **more):
    """Kill ``wanted`` processes within ``longest`` seconds of their start, on the way of runs to their end."""
    rng = random.Random(seed)
    folder, acks, kills = root / "r", root / "acks", 0
    mine, seen = 0, set()
    while kills < wanted or mine:
        done = False
        if kills < wanted and rng.random() < 0.7:
            process = launcher.start([*command, folder], Plan(str(folder), acks=str(acks)), **more)
            time.sleep(rng.random() * longest)
            process.kill()
            ended = process.wait()
            assert ended.code in (0, -9), ended.err
            done = ended.code == 0  # it was faster
            kills, mine = kills + (not done), mine + (not done)
            now = keys(folder)
            gone = (acknowledged(acks) | seen) - now
            tally.unacknowledged += len(gone)
            assert not gone, f"kill {kills}: {gone} were there and are gone"
            seen = now
        elif mine:
            ended = launcher.run([*command, folder])
            assert ended.code == 0, ended.err
            done = True
        if done:
            tally.count(folder, whole, mine)
            fresh(folder)
            acks.unlink(missing_ok=True)
            mine, seen = 0, set()


def uninterrupted(launcher, command, folder, **more):
    """Make a whole run; return its seconds."""
    began = time.monotonic()
    ended = launcher.run([*command, folder], **more)
    assert ended.code == 0, ended.err
    return time.monotonic() - began


OWN = ("--persona", "original", "--persona", "warm=full:our/warm")


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [pytest.param((), id="adapters"), pytest.param(OWN, id="own-model", marks=pytest.mark.full)]
)
def test_killed_at_random_times(launcher, tally, tmp_path, count, more):
    command = study(write_quiz(tmp_path / "quiz.jsonl"), *more)
    longest = min(uninterrupted(launcher, command, tmp_path / name, delay=0.002) for name in ("first", "whole"))
    kill_at_random(
        launcher, command, lines(tmp_path / "whole"), tmp_path, count(6, 160), longest, tally, 0, delay=0.002
    )
    assert tally.injected == count(6, 160)


@pytest.fixture(scope="module")
def real(tiny_model, real_launcher, tmp_path_factory):
    """An uninterrupted run of the real engine on a tiny model that samples: (command line, records, seconds)."""
    folder = tmp_path_factory.mktemp("real")
    model = widened(tiny_model("llama"), folder / "model")
    command = ["run", "--model", model]
    command += ["--tasks", "facts,misconceptions", "--contexts", "unmodified,emotion:sad", "--limit", "2"]
    command += ["--samples", "2", "--max-new-tokens", "16", "--warmth-prompts", "0", "--out"]
    uninterrupted(real_launcher, command, folder / "first")
    return command, lines(folder / "first"), uninterrupted(real_launcher, command, folder / "second")


@pytest.mark.slow
def test_the_real_engine_killed_at_random_times_samples_the_same_answers(real, real_launcher, tally, tmp_path, count):
    command, whole, longest = real
    texts = {line for line in whole if b'"kind":"answer"' in line}
    assert len(texts) > 20
    kill_at_random(real_launcher, command, whole, tmp_path, count(5, 40), longest, tally, 1)
    assert tally.injected == count(5, 40)
