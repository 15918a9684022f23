"""What a claim adds, over all questions: by hand, and where the paper's measure selects by the outcome."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import frame_of, frame_of_errors
from tiers import full

from warmeng.study.stats.sycophancy import rises, sycophancy

BELIEFS = ("none", "wrong", "right")


def rec(persona, item, belief, grade, which=""):
    place = {"persona": persona, "belief": belief, "item": item, "task": "t", "framing": "plain"}
    return place | {"grade": grade, "which": which}


# By question: without a claim, a wrong one, a right one.
TABLE = {
    "original": [("correct", "user", "correct"), ("user", "user", "correct"), ("unclear", "refusal", "user")],
    "warm": [("correct", "correct", "correct"), ("other", "user", "correct"), ("unclear", "user", "unscored")],
}


def records():
    for persona, questions in TABLE.items():
        for k, answers in enumerate(questions):
            for belief, said in zip(BELIEFS, answers, strict=True):
                wrong = said in ("user", "other")
                yield rec(persona, str(k), belief, "incorrect" if wrong else said, said if wrong else "")


def pooled(rows):
    return {(r["persona"], r.get("against"), r["belief"]): r for r in rows if r["task"] == r["context"] == "all"}


def test_rises_by_hand():
    rows = pooled(rises(frame_of(list(records())), "original", ("warm",)))
    told = {key: (r["n"], r.get("unasked"), r.get("claimed"), r["value"]) for key, r in rows.items()}
    third = pytest.approx(1 / 3), pytest.approx(2 / 3), pytest.approx(100 / 3)
    assert told["original", None, "wrong"] == (3, *third)
    assert told["warm", None, "wrong"] == (3, 0.0, pytest.approx(2 / 3), pytest.approx(200 / 3))
    assert told["original", None, "right"] == (3, *third)
    assert told["warm", None, "right"] == (2, 0.5, 1.0, 50.0)
    assert told["warm", "original", "wrong"] == (3, None, None, pytest.approx(100 / 3))
    assert told["warm", "original", "right"] == (2, None, None, pytest.approx(0.0))
    for row in rows.values():
        assert row["low"] < row["value"] < row["high"]
        assert 0 < row["p"] <= 1


def test_where_answers_do_not_tell_whose_they_are_there_is_no_rise_but_its_mirror():
    frame = frame_of(list(records()))
    rows = pooled(rises(replace(frame, which=np.zeros_like(frame.which)), "original", ("warm",)))
    assert {key[2]: row["value"] is None for key, row in rows.items()} == {"wrong": True, "right": False}


def study(rng, n, knows, noise, moved):
    """Two answers: right if knowledge (of each persona, on average) and noise say so; ``moved`` by a claim."""
    margin = rng.normal(0.5, 1.0, (1, n, 1)) + np.array(knows)[:, None, None]
    claim = np.array([0.0, -moved, moved])
    wrong = margin + claim + noise * rng.normal(size=(len(knows), n, 3)) < 0
    return frame_of_errors(wrong[:, :, :, None, None].astype(np.int8), ("original", "warm"), beliefs=BELIEFS)


# Noise of single answers; what a claim does to the margin; what the variant knows more.
CASES = [(0.8, 0.0, 0.0), *full((1.2, 0.0, 0.0), (0.8, 1.0, 0.7), (0.8, 1.0, -0.5))]


@pytest.mark.parametrize(("noise", "moved", "more"), CASES)
def test_a_claim_that_does_nothing_adds_nothing_and_equal_caving_is_equal(noise, moved, more, count):
    """The paper's measure finds sycophancy where the claim does nothing, and more of it in who knows less."""
    rng, studies, n = np.random.default_rng(7), count(300, 2000, quick=120), 120
    # The truth, from a study so large that its error is 0.2 points.
    truth = pooled(rises(study(rng, 200_000 if moved else 200, (0.0, more), noise, moved), "original", ("warm",)))
    true = {key: row["value"] if moved else 0.0 for key, row in truth.items()}
    hits, told = dict.fromkeys(true, 0), []
    for _ in range(studies):
        frame = study(rng, n, (0.0, more), noise, moved)
        for key, row in pooled(rises(frame, "original", ("warm",))).items():
            hits[key] += row["low"] <= true[key] <= row["high"]
        told.append([r["value"] for r in sycophancy(frame) if r["task"] == r["context"] == "all"])
    paper = 100 * np.mean(told, axis=0)
    print(noise, moved, more, "the paper's", paper.round(1), {key: round(value, 1) for key, value in true.items()})
    print({key: hit / studies for key, hit in hits.items()})
    slack = 3 * np.sqrt(0.95 * 0.05 / studies)
    assert all(hit / studies >= 0.95 - slack for hit in hits.values())
    if not moved:
        assert paper.min() > 12
    else:
        # Equal caving: the paper's measures differ by more than twice what the rises do.
        assert abs(paper[1] - paper[0]) > 2 * abs(true["warm", "original", "wrong"])
