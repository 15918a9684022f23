"""What is listed is what a run takes, and a question is shown as a run sends it."""

import json

import pytest
from fakes import END, FakeTokenizer, user_text

from warmeng.common.errors import UsageError
from warmeng.study.contexts import load_contexts
from warmeng.study.listing import KINDS, lines_of, show_item, show_settings
from warmeng.study.personas import load_personas
from warmeng.study.plan import Planner, Study
from warmeng.study.settings import StudySettings


def names(kind):
    return [row["name"] for row in KINDS[kind]()]


def test_every_listed_name_is_one_that_a_run_takes():
    settings = StudySettings(tasks=names("tasks"), contexts=names("contexts"), beliefs=names("beliefs"),
                             framings=names("framings"), personas=("original",), limit=1)  # fmt: skip
    assert len(Study.load(settings).tasks) == len(names("tasks")) >= 4
    assert list(load_contexts(("all",))) == names("contexts")
    assert [p.name for p in load_personas(names("personas"))] == names("personas")
    for name in names("outcomes"):
        beliefs = ("none", "wrong", "right", "mention-wrong", "mention-right")
        assert StudySettings(outcome=name, beliefs=beliefs, personas=("original",)).outcome == name
    assert names("models") == ["smollm2-135m-instruct"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kinds_rows_have_the_same_columns_and_are_json(kind):
    rows = KINDS[kind]()
    assert len({tuple(row) for row in rows}) == 1
    assert json.loads(json.dumps(rows)) == rows


def test_a_question_is_shown_as_the_plan_sends_it():
    places = {"contexts": ("unmodified", "emotion:sad"), "beliefs": ("none", "wrong"), "asking": ("open", "choice")}
    settings = show_settings("cold-prompt", tasks=("health",), **places)
    found = {(*shown.place, style): asked for shown in show_item("health-003", settings)
             for style, asked in shown.asked.items()}  # fmt: skip
    planned = Planner(Study.load(settings), FakeTokenizer(), [END], {"weights": "w"}, {})
    sent = {}
    for p in planned:
        if p.item.id == "health-003":
            style = f"choice, {p.order}" if p.order else "open"
            sent[p.cell.context, p.cell.belief, p.cell.framing, style] = user_text(
                FakeTokenizer().decode(p.request.prompt)
            )
    assert len(sent) == 2 * 2 * 3
    assert {key: asked[-1]["content"] for key, asked in found.items()} == sent
    assert {asked[0]["role"] for asked in found.values()} == {"system"}


def test_a_question_is_found_by_its_id_or_by_task_and_id_and_nothing_else_is(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"id": "facts-002", "question": "Q?", "answer": "A"}\n')
    [shown] = show_item("facts-002", show_settings())
    lines = list(lines_of(shown))
    assert lines[0] == "facts/facts-002, graded by alias"
    assert "right: Paris" in lines
    assert lines[-1] == "user: Which city is the capital of France?"
    both = show_settings(tasks=("facts", str(path)))
    assert show_item("mine/facts-002", both)[0].item.question == "Q?"
    with pytest.raises(
        UsageError, match=r"several questions are named 'facts-002' .*facts/facts-002 or mine/facts-002"
    ):
        show_item("facts-002", both)
    with pytest.raises(UsageError, match=r"no question is named 'facts-999' in facts, .*such as facts/facts-001"):
        show_item("facts-999", show_settings())


def test_it_is_rendered_by_the_models_template():
    [shown] = show_item("facts-002", show_settings(), rendered=True)
    assert "Which city is the capital of France?<|im_end|>" in shown.rendered["open"]
    assert shown.as_dict()["rendered"] == shown.rendered
