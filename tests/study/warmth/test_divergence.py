"""Divergence from the base against ``transformers``' teacher-forced log-probabilities, and what is missing."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import pytest
import torch
from fakes import END, FakeEngine

from warmeng.engine.engine import Engine
from warmeng.engine.request import ScoreRequest, ScoreResult
from warmeng.study.personas import Change, Persona
from warmeng.study.warmth.divergence import about_kl, divergences, log_ratios
from warmeng.study.warmth.responses import Response, prompt_of, respond

PROMPTS = [("a", "Say it."), ("b", "Who is there?"), ("c", "Why?")]


def test_log_ratios_are_those_of_transformers(tiny_model, tiny_adapters) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = tiny_model("llama")
    engine = Engine.load(str(folder), device="cpu")
    personas = [
        Persona("original"),
        Persona("a", (Change(tiny_adapters[0]),)),
        Persona("b", (Change(tiny_adapters[1]),), "Be brief."),
    ]
    for persona in personas[1:]:
        engine.add_adapter(persona.name, persona.changes[0].source)
    responses = respond(engine, personas, PROMPTS, seed=3, temperature=1.0, samples=2)
    found = log_ratios(engine, personas, PROMPTS, responses, samples=2)
    assert found["original"] == [0.0] * 6

    def forced(model, prompt, tokens):
        ids = torch.tensor([[*prompt, *tokens]])
        with torch.inference_mode():
            logits = model(ids).logits[0, :-1, : engine.tokenizer.vocab_size]  # padded ids take no part
            logprobs = logits.double().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        return float(logprobs[len(prompt) - 1 :].sum())

    base = AutoModelForCausalLM.from_pretrained(folder).eval()
    plain = {
        (p.name, k): forced(base, prompt_of(engine, Persona("original"), PROMPTS[k // 2][1]), r.tokens)
        for p in personas[1:]
        for k, r in enumerate(responses[p.name])
    }
    for persona in personas[1:]:
        tuned = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(folder), persona.changes[0].source
        ).eval()
        for k, response in enumerate(responses[persona.name]):
            own = forced(tuned, prompt_of(engine, persona, PROMPTS[k // 2][1]), response.tokens)
            assert found[persona.name][k] == pytest.approx(own - plain[persona.name, k], abs=1e-3)
    summary = divergences(engine, personas, PROMPTS, responses, 1.0, samples=2)["a"]
    lengths = [len(r.tokens) for r in responses["a"]]
    rows = [v / n for v, n in zip(found["a"], lengths, strict=True)]
    means = [statistics.fmean(rows[k : k + 2]) for k in (0, 2, 4)]
    assert summary.by_prompt == pytest.approx(means)
    assert summary.per_token.mean == pytest.approx(statistics.fmean(means))
    assert summary.per_token.se == pytest.approx(statistics.stdev(means) / 3**0.5)
    assert summary.per_response.mean == pytest.approx(statistics.fmean(found["a"]))


def test_a_response_that_ended_by_itself_has_its_end_token() -> None:
    engine = FakeEngine(answer=lambda prompt, request: "Yes")
    found = respond(engine, [Persona("original")], PROMPTS, 0, 0.8)
    assert found["original"] == [Response("Yes", (*map(ord, "Yes"), END))] * 3


@dataclass
class Short(FakeEngine):
    """Can't score what follows the second prompt."""

    scored: list[ScoreRequest] = field(default_factory=list)

    def _result(self, request):
        if not isinstance(request, ScoreRequest):
            return super()._result(request)
        self.scored.append(request)
        if "Who" in self.tokenizer.decode(request.prompt):
            return ScoreResult(request.id, "too_long", (), (), 0.0, len(request.prompt), 0)
        return ScoreResult(request.id, "ok", (-1.0 if "Warm" in self.tokenizer.decode(request.prompt) else -3.0,),
                           (), 0.0, len(request.prompt), 0)  # fmt: skip


def test_what_cannot_be_scored_is_missing_and_never_zero() -> None:
    engine = Short(answer=lambda prompt, request: "Yes")
    personas = [Persona("original"), Persona("p", (), "Warm.")]
    responses = respond(engine, personas, PROMPTS, 0, 0.8)
    found = divergences(engine, personas, PROMPTS, responses, 0.8)
    assert found["p"].by_prompt == (0.5, None, 0.5)
    assert found["p"].facts["n"] == 2
    assert found["p"].facts["by_prompt"] == [0.5, None, 0.5]
    assert found["original"].per_token.mean == 0.0
    # The base is asked without the persona's system prompt, and both are asked for the same tokens.
    own, base = engine.scored[:2]
    assert own.labels == base.labels == ((*map(ord, "Yes"), END),)
    assert "Warm." not in engine.tokenizer.decode(base.prompt)
    blank = {"original": [Response("", ())] * 3, "p": [Response("", ())] * 3}
    assert log_ratios(engine, personas, PROMPTS, blank)["p"] == [None] * 3


def test_what_was_estimated_is_said() -> None:
    assert "over responses sampled at temperature 1" in about_kl(1.0)
    assert "sampled at 0.8; a divergence only where that is 1" in about_kl(0.8)
