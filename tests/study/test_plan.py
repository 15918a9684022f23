"""From settings to requests."""

import dataclasses
from collections import Counter

import pytest
from fakes import END, FakeEngine, FakeTokenizer

from warmeng.engine.errors import InputError
from warmeng.engine.request import GenerateRequest, ScoreRequest
from warmeng.study.plan import Planner, Study, end_token, estimate
from warmeng.study.settings import StudySettings

SMALL = StudySettings(limit=3, beliefs=("none", "wrong"))


def plan(settings=SMALL, identity=None, adapters=None, tokenizer=None):
    study = Study.load(settings)
    planner = Planner(study, tokenizer or FakeTokenizer(), [END], identity or {"weights": "w"}, adapters or {})
    return study, list(planner)


def test_the_plan_is_the_full_product():
    study, planned = plan()
    assert len(planned) == study.size == 3 * 4 * 3 * 2 * 2
    assert Counter(p.cell.persona for p in planned) == dict.fromkeys(SMALL.personas, study.per_persona())
    assert len({p.key for p in planned}) == len(planned)
    assert set(Counter(p.cell for p in planned).values()) == {3}
    kinds = {p.task.name: type(p.request) for p in planned}
    assert kinds["facts"] is GenerateRequest
    assert kinds["health"] is ScoreRequest


def test_all_personas_get_the_same_user_message_and_noise():
    _, planned = plan()
    by_place = {}
    for p in planned:
        user = FakeTokenizer().decode(p.request.prompt).rpartition("<user>")[2]
        by_place.setdefault((p.cell.task, p.cell.context, p.cell.belief, p.item.id), set()).add(user)
        if isinstance(p.request, GenerateRequest):
            assert p.request.noise_key == (f"{p.cell.task}/{p.item.id}", 0)
            assert p.request.sampling.temperature == 0.8
    assert all(len(users) == 1 for users in by_place.values())


def test_samples_multiply_generated_answers_only():
    study, planned = plan(dataclasses.replace(SMALL, samples=4))
    assert len(planned) == study.size
    counts = Counter(p.task.name for p in planned)
    assert counts["facts"] == 4 * counts["health"]


def test_likelihood_labels_end_with_the_end_token_and_the_prompt_with_the_prefix():
    _, planned = plan()
    p = next(p for p in planned if p.task.name == "health")
    right, wrong = (FakeTokenizer().decode(label) for label in p.request.labels)
    assert (right, wrong) == (f" {p.item.answer}.", f" {p.item.wrong}.")
    assert all(label[-1] == END for label in p.request.labels)
    assert FakeTokenizer().decode(p.request.prompt).endswith("<assistant>The answer is:")


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1, "limit": 0},
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"max_new_tokens": 49},
    ],
)
def test_a_key_changes_with_what_determines_an_answer(changed):
    base = dataclasses.replace(SMALL, limit=0, tasks=("facts",))
    one = {p.key for p in plan(base)[1]}
    assert one == {p.key for p in plan(base)[1]}
    assert not one & {p.key for p in plan(dataclasses.replace(base, **changed))[1]}


def test_a_key_changes_with_model_adapter_and_template():
    one = {p.key for p in plan()[1]}
    other = FakeTokenizer()
    other.template_hash = "u" * 64
    assert not one & {p.key for p in plan(identity={"weights": "x"})[1]}
    assert not one & {p.key for p in plan(tokenizer=other)[1]}
    changed = {p.key for p in plan(adapters={"original": "a"})[1]}
    assert len(one & changed) == len(one) * 2 // 3


def test_a_smaller_study_shares_its_keys_with_a_larger_one():
    one = {p.key for p in plan()[1]}
    larger = dataclasses.replace(SMALL, limit=5, beliefs=("none", "wrong", "doubt"), contexts=("all",))
    assert one < {p.key for p in plan(larger)[1]}


def test_the_estimate_counts_shared_prefixes_once():
    study = Study.load(dataclasses.replace(SMALL, samples=2))
    planner = Planner(study, FakeTokenizer(), [END], {}, {})
    found = estimate(planner)
    assert (found.cells, found.generations + found.scores) == (48, study.size)
    assert found.output_tokens == found.generations * 48
    texts = {p.request.prompt for p in planner}
    assert found.new_prompt_tokens < found.prompt_tokens
    assert found.new_prompt_tokens < sum(map(len, texts))  # the system prompt is shared
    assert found.longest >= max(map(len, texts))


def test_the_end_token_is_what_the_template_writes_after_an_answer():
    tokenizer = FakeTokenizer()
    assert end_token(tokenizer, [END, ord("z")]) == END
    with pytest.raises(InputError, match="eos_token_id"):
        end_token(tokenizer, [])
    assert FakeEngine().config.stop_token_ids == (END,)
