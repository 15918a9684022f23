"""From settings to requests."""

import dataclasses
import json
from collections import Counter

import pytest
from fakes import END, FakeEngine, FakeTokenizer

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.request import GenerateRequest, ScoreRequest
from warmeng.study.estimate import estimate
from warmeng.study.plan import BASE, Place, Planner, Study, end_token
from warmeng.study.settings import StudySettings
from warmeng.study.tasks.wrong_answers import borrowed

SMALL = StudySettings(personas=("original", "warm-prompt", "cold-prompt"), limit=3, beliefs=("none", "wrong"))


def whole_plan(settings=SMALL, identity=None, adapters=None, tokenizer=None):
    study = Study.load(settings)
    planner = Planner(study, tokenizer or FakeTokenizer(), [END], identity or {"weights": "w"}, adapters or {})
    planned = list(planner)
    assert sum(p.margin for p in planned) == study.scores_beside
    return study, planned


def plan(*given, **named):
    """A study and its requests for answers."""
    study, planned = whole_plan(*given, **named)
    return study, [p for p in planned if not p.margin]


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
    assert (found.cells, found.generations + found.scores) == (48, study.size + study.scores_beside)
    assert (found.margins, found.choices) == (study.scores_beside, 0) == (3 * 3 * 4, 0)
    assert found.output_tokens == found.generations * SMALL.max_new_tokens
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


ALL = dataclasses.replace(
    SMALL, contexts=("all",), beliefs=("none", "wrong", "doubt", "right"), framings=("plain", "neutral"), limit=12
)


def places_by_item(planned):
    found = {}
    for p in planned:
        place = Place(p.cell.context, p.cell.belief, p.cell.framing)
        found.setdefault((p.cell.persona, p.cell.task, p.item.id), []).append(place)
    return found


def test_the_whole_grid_has_every_place_once():
    study, planned = plan(dataclasses.replace(ALL, limit=1))
    for places in places_by_item(planned).values():
        assert len(places) == len(set(places)) == 9 * 4 + 9  # and the neutral sentence only without a belief
        assert all(p.belief == "none" for p in places if p.framing == "neutral")
    paper = dataclasses.replace(ALL, limit=1, composition="paper")
    for places in places_by_item(plan(paper)[1]).values():
        assert [p for p in places if p.framing == "neutral"] == [Place("unmodified", "none", "neutral")]
    assert len(planned) == study.size


@pytest.mark.parametrize("cells", [1, 2, 3, 4, 7, 20, 44, 45, 99])
def test_cells_bound_each_item_and_keep_pairs(cells):
    study, planned = plan(dataclasses.replace(ALL, cells=cells))
    assert len(planned) == study.size == study.per_persona() * 3
    found = places_by_item(planned)
    chosen = set()
    for (_, task, item), places in found.items():
        assert len(places) == len(set(places)) == min(cells, 45)
        assert BASE in places
        assert all(Place(p.context, "none", "plain") in places for p in places if p.belief != "none")
        assert found["original", task, item] == places
        chosen |= set(places)
    assert cells < 7 or len(chosen) == 45  # over the items, the whole grid is sampled


def test_cells_without_partners_still_fill_up():
    for beliefs in (("wrong",), ("wrong", "doubt")):
        settings = dataclasses.replace(ALL, beliefs=beliefs, cells=3, framings=("plain",))
        study, planned = plan(settings)
        assert len(planned) == study.size
        assert {len(found) for found in places_by_item(planned).values()} == {3}


def test_cells_are_chosen_by_the_seed():
    one = dataclasses.replace(ALL, cells=5, limit=0)
    items = {k: v for k, v in places_by_item(plan(one)[1]).items() if k[0] == "original"}
    other = places_by_item(plan(dataclasses.replace(one, seed=1))[1])
    assert sum(items[k] != other[k] for k in items) > 0.9 * len(items)


def write_tasks(tmp_path, **files):
    paths = []
    for name, rows in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths.append(str(path))
    return tuple(paths)


def authors_row(template, context, prompt):
    return {
        "content_key": "Q?",
        "correct_answer": "yes",
        "incorrect_answer": "no",
        "prompt_template": template,
        "amendment_type": context,
        "prompt": prompt,
    }


def test_fixed_messages_are_asked_as_they_are_and_where_they_are(tmp_path):
    rows = [
        authors_row("original", "unmodified", "  Q?"),
        authors_row("incorrect", "stake:low", " S.. Q?"),
        authors_row("correct", "stake:high", "not asked for"),
    ]
    settings = dataclasses.replace(
        SMALL, tasks=write_tasks(tmp_path, trivia=rows), contexts=("unmodified", "stake"), beliefs=("none", "wrong")
    )
    study, planned = plan(settings)
    assert len(planned) == study.size == 2 * 3
    assert study.left_out == 1
    users = {FakeTokenizer().decode(p.request.prompt).rpartition("<user>")[2] for p in planned}
    assert users == {"  Q?<assistant>", " S.. Q?<assistant>"}
    assert all(isinstance(p.request, GenerateRequest) for p in planned)
    fewer = {p.key for p in plan(dataclasses.replace(settings, contexts=("unmodified",)))[1]}
    assert fewer < {p.key for p in planned}
    with pytest.raises(UsageError, match="asked nowhere"):
        Study.load(dataclasses.replace(settings, contexts=("emotion:sad",)))


def test_general_abilities_are_asked_once_and_numbers_at_their_own_temperature(tmp_path):
    paths = write_tasks(
        tmp_path,
        gsm=[{"question": "How many?", "answer": "#### 5"}],
        mmlu=[{"question": "2+2?", "choices": ["3", "4", "5", "6"], "answer": 1}],
        harm=[{"goal": "Do harm", "target": "Sure"}],
    )
    study, planned = plan(dataclasses.replace(ALL, tasks=paths, samples=2))
    assert len(planned) == study.size == 3 * (2 + 1 + 2)
    assert {(p.cell.context, p.cell.belief, p.cell.framing) for p in planned} == {tuple(BASE)}
    by_task = {p.task.name: p.request for p in planned}
    assert by_task["gsm8k"].sampling.temperature == 0.2
    assert by_task["gsm8k"].sampling.max_new_tokens >= 300
    assert by_task["refusals"].sampling.temperature == 0.8
    assert [FakeTokenizer().decode(label) for label in by_task["mmlu"].labels] == [" A", " B", " C", " D"]
    text = FakeTokenizer().decode(by_task["mmlu"].prompt)
    assert "A) 3\nB) 4\nC) 5\nD) 6" in text


def test_missing_wrong_answers_are_needed_only_where_claimed(tmp_path):
    paths = write_tasks(tmp_path, pop=[{"question": f"Q{k}?", "answers": [f"a{k}"]} for k in range(3)])
    settings = dataclasses.replace(SMALL, tasks=paths, beliefs=("none", "doubt"))
    study, planned = plan(settings)
    assert not study.lacks_wrong(study.tasks[0])
    assert len(planned) == study.size
    for named in ({"beliefs": ("none", "mention-wrong")}, {"asking": ("open", "choice")}):
        study = Study.load(dataclasses.replace(settings, **named))
        assert study.lacks_wrong(study.tasks[0])
    claimed = Study.load(dataclasses.replace(settings, beliefs=("none", "wrong")))
    assert claimed.lacks_wrong(claimed.tasks[0])
    with pytest.raises(AssertionError, match="filled"):
        list(Planner(claimed, FakeTokenizer(), [END], {}, {}))
    full = dataclasses.replace(claimed, tasks=(borrowed(claimed.tasks[0]),))
    assert full.inputs() == claimed.inputs()  # written answers are no changed input
    assert len(list(Planner(full, FakeTokenizer(), [END], {}, {}))) == full.size + full.scores_beside


def test_inputs_tell_everything_that_determines_the_plan(tmp_path):
    statements = tmp_path / "s.yaml"
    statements.write_text('"emotion:sad": ["Alas."]\n')
    base = Study.load(SMALL).inputs()
    changes = [
        {"framings": ("plain", "neutral")},
        {"cells": 2},
        {"statements": str(statements)},
        {"composition": "paper"},
        {"number_temperature": 0.3},
        {"judges": ("m",)},
        {"limit": 4},
    ]
    for change in changes:
        assert Study.load(dataclasses.replace(SMALL, **change)).inputs() != base
    one = Study.load(dataclasses.replace(SMALL, statements=str(statements))).inputs()
    statements.write_text('"emotion:sad": ["Alas!"]\n')
    assert Study.load(dataclasses.replace(SMALL, statements=str(statements))).inputs() != one


def test_framing_is_part_of_the_key(tmp_path):
    rows = [authors_row(t, "unmodified", "same text") for t in ("original", "original_neutral")]
    settings = dataclasses.replace(SMALL, tasks=write_tasks(tmp_path, trivia=rows), framings=("plain", "neutral"))
    planned = plan(settings)[1]
    assert len({p.key for p in planned}) == len(planned) == 6
    assert len({p.request.noise_key for p in planned}) == 1
