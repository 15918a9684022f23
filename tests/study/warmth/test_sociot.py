"""SocioT against the formula written another way, on a scorer whose probabilities are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from fakes import FakeEngine
from scipy import stats

from warmeng.common.errors import InputError
from warmeng.engine.request import GenerateResult
from warmeng.study.personas import load_personas
from warmeng.study.stats.intervals import summarise
from warmeng.study.warmth.responses import load_prompts, respond, texts_of
from warmeng.study.warmth.sociot import (
    SPEAKERS,
    EngineScorer,
    by_prompt,
    manipulation_check,
    measure,
)


class Letters:
    """One token a character; its log-probability depends on the character and on the speaker."""

    name, comparable, pad = "letters", False, 0

    def __init__(self, liking: dict[str, float]) -> None:
        self.liking = liking

    def encode(self, text: str, inside: bool = False) -> list[int]:
        return [ord(c) for c in text]

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        found = []
        for ids in sequences:
            speaker = "".join(map(chr, ids)).split()[1]
            found.append([-2.0 - (i % 7) / 10 + self.liking.get(speaker, 0.0) for i in ids[1:]])
        return found


LIKING = {"friend": 0.5, "lover": 0.3, "enemy": -0.2, "dictator": 0.1}


def test_both_formulas() -> None:
    texts = ["You are doing well, my dear.", "No.", "a" * 400]
    for text, found in zip(texts, measure(Letters(LIKING), texts), strict=True):
        cut = text[:300]
        rows = {s: ("My " if s == "friend" else "The ") + f'{s} said, "{cut}"' for s in SPEAKERS}
        width = max(map(len, rows.values()))
        means = {}
        for speaker, row in rows.items():
            ids = np.array([ord(c) for c in row.ljust(width, "\0")][1:])
            means[speaker] = (-2 - (ids % 7) / 10 + LIKING.get(speaker, 0)).mean()
        warm, cold = ([means[s] for s in SPEAKERS if SPEAKERS[s] is side] for side in (True, False))
        assert found is not None
        assert found.sociot == pytest.approx(np.log(np.exp(warm).sum()) - np.log(np.exp(cold).sum()), abs=1e-12)
        assert found.text_only == pytest.approx((0.5 + 0.3) / 4 - (-0.2 + 0.1) / 4, abs=1e-12)
        assert found.tokens == len(cut)


def test_a_speaker_that_says_it_likelier_moves_its_own_side() -> None:
    text = ["Take care of yourself today."]
    plain, friend, enemy = (measure(Letters(liking), text)[0] for liking in ({}, {"friend": 1.0}, {"enemy": 1.0}))
    assert plain is not None
    assert friend is not None
    assert enemy is not None
    assert friend.sociot > plain.sociot > enemy.sociot
    assert plain.text_only == pytest.approx(0.0)


def test_blank_texts_are_missing_and_not_zero() -> None:
    assert measure(Letters({}), ["", "  \n"]) == [None, None]
    found = measure(Letters({}), ["", "Yes"])
    assert found[0] is None
    assert found[1] is not None


def test_summaries_are_students() -> None:
    values = [0.1, 0.4, -0.2, 0.3, 0.0]
    found = summarise(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.n, found.mean, found.se) == (5, pytest.approx(0.12), pytest.approx(stats.sem(values)))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert summarise([]).mean is None
    assert summarise([1.0]).se is None


def test_prompts_are_read_strictly(tmp_path) -> None:
    assert len(load_prompts()) == 48
    assert len({p for _, p in load_prompts()}) == 48
    assert [name for name, _ in load_prompts(limit=2)] == ["heldout-01", "heldout-02"]
    (tmp_path / "p.jsonl").write_text('{"prompt": "Hello?"}\n{"prompt": " "}\n')
    with pytest.raises(InputError, match=r"p\.jsonl:2"):
        load_prompts(tmp_path / "p.jsonl")


class Warming(FakeEngine):
    """Answers by system prompt, and scores characters: 'w' is likelier from a warm speaker."""

    def _result(self, request):
        found = super()._result(request)
        if not request.prompt_logprobs:
            return found
        text = self.tokenizer.decode(request.prompt)
        warm = SPEAKERS[text.split()[1]]
        logprobs = tuple(-1.0 + (0.5 if warm and chr(i) == "w" else 0.0) for i in request.prompt[1:])
        return GenerateResult(request.id, "ok", "length", (), "", (), len(request.prompt), 0, logprobs)


def test_the_check_tells_a_warm_persona_from_the_original() -> None:
    engine = Warming(answer=lambda prompt, request: "wow www" if "warm" in prompt.lower() else "plain text")
    personas = load_personas(["original", "warm-prompt"])
    responses = respond(engine, personas, load_prompts(limit=6), seed=0, temperature=0.8)
    found = manipulation_check(EngineScorer(engine, "fake"), texts_of(responses))
    assert set(found) == {"original", "warm-prompt"}
    assert found["warm-prompt"]["warmth"] > found["original"]["warmth"]
    assert found["warm-prompt"]["difference"]["mean"] > 0
    assert found["original"]["n"] == 6
    assert found["original"]["scorer"] == "fake (the base itself)"
    assert "difference" not in found["original"]


def test_personas_answer_the_same_prompts_with_the_same_noise() -> None:
    engine = FakeEngine()
    personas = load_personas(["original", "cold-prompt"])
    respond(engine, personas, load_prompts(limit=3), seed=5, temperature=0.8)
    keys = [(r.id.split("/")[1], r.noise_key, r.sampling.seed) for r in engine.asked]
    assert keys[:3] == keys[3:]
    engine.asked.clear()
    respond(engine, personas[:1], load_prompts(limit=2), seed=5, temperature=0.8, samples=2)
    assert [r.noise_key for r in engine.asked] == [(f"heldout/heldout-0{k}", s) for k in (1, 2) for s in (0, 1)]
    assert by_prompt([1.0, 3.0, None, 4.0, None, None], 2) == [2.0, 4.0, None]
    assert EngineScorer(engine, "m").pad == 0
    assert math.isfinite(engine.stats.output_tokens)


def test_what_stands_in_the_quotes_is_encoded_as_it_stands_there() -> None:
    """A tokenizer may put a blank before a text that begins: none stands between a quotation mark and its text."""

    class Blanks(Letters):
        def encode(self, text: str, inside: bool = False) -> list[int]:
            return super().encode(text if inside else f" {text}")

        def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
            self.seen = {"".join(map(chr, ids)).rstrip("\0") for ids in sequences}
            return super().logprobs(sequences)

    scorer = Blanks({})
    measure(scorer, ["Dear you"])
    assert ' My friend said, "Dear you"' in scorer.seen
    assert all(text.endswith('said, "Dear you"') for text in scorer.seen)
