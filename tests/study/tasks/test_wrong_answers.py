"""Wrong answers that are written or borrowed."""

from __future__ import annotations

import re

import pytest
from fakes import FakeEngine

from warmeng.common.errors import InputError
from warmeng.study.tasks.task import WRONG_BORROWED, WRONG_GENERATED, Item, Task
from warmeng.study.tasks.wrong_answers import LINE, TRIES, borrowed, fill_wrong, missing, overlaps


def task_of(*items):
    return Task("t", "alias", tuple(items))


TASK = task_of(
    Item("1", "What sport does Ann play?", "football", aliases=("soccer",)),
    Item("2", "What sport does Bob play?", "tennis"),
    Item("3", "Who was the king?", "Louis"),
    Item("4", "In which year?", "1984"),
    Item("5", "When was it?", "1999", "2001"),
)


def test_wrong_answers_are_written_once_for_each_question():
    engine = FakeEngine(answer=lambda prompt, request: " Ping pong,")
    done = fill_wrong(TASK, engine)
    assert [i.wrong for i in done.items] == ["Ping pong"] * 4 + ["2001"]
    assert [i.marks for i in done.items] == [(WRONG_GENERATED,)] * 4 + [()]
    assert len(engine.asked) == 4
    assert all(r.constraint == LINE and r.adapter is None for r in engine.asked)


def test_a_right_answer_is_asked_again_with_another_seed_and_then_borrowed():
    def answer(prompt, request):
        prompt = prompt.rpartition("<user>")[2]
        if "Ann" in prompt:
            return " Soccer" if request.sampling.seed < TRIES - 1 else " Golf"
        return " year 1984" if "which year" in prompt else " Rugby"

    engine = FakeEngine(answer=answer)
    done = fill_wrong(TASK, engine)
    assert [i.wrong for i in done.items] == ["Golf", "Rugby", "Rugby", "1999", "2001"]
    assert done.items[3].marks == (WRONG_BORROWED,)
    assert len(engine.asked) == 4 + 2 + 2
    asked = [r for r in engine.asked if r.id == engine.asked[0].id]
    assert [r.sampling.seed for r in asked] == list(range(TRIES))


def test_tasks_and_copies_of_a_question_do_not_lend_each_other_answers():
    engine = FakeEngine(answer=lambda prompt, request: " Rugby" if "/two/" in request.noise_key[0] else " tennis")
    items = (Item("a", "Which sport?", "Tennis", ""), Item("a-2", "Which sport?", "Tennis", ""))
    items += (Item("b", "Which other sport?", "Golf", ""),)
    one = fill_wrong(Task("one", "alias", items), engine)
    two = fill_wrong(Task("two", "alias", items), engine)
    assert [i.wrong for i in two.items] == ["Rugby"] * 3  # the copy too
    assert [i.marks for i in two.items] == [(WRONG_GENERATED,)] * 3
    assert [i.wrong for i in one.items] == ["Golf", "Golf", "tennis"]


def test_borrowed_answers_are_of_the_same_kind():
    done = borrowed(TASK)
    assert [i.wrong for i in done.items] == ["tennis", "football", done.items[2].wrong, "1999", "2001"]
    assert done.items[2].wrong in ("football", "tennis")  # one word, as "Louis" is
    assert borrowed(TASK) == done
    assert missing(done) == ()


def test_what_can_not_be_filled_is_refused():
    with pytest.raises(InputError, match="item '1' has no wrong answer"):
        borrowed(task_of(Item("1", "Q?", "yes"), Item("2", "Q?", "Yes!", "no")))


def test_overlap_is_by_whole_words_both_ways():
    item = Item("1", "Q?", "The Outer Limits", aliases=("Limits",))
    assert overlaps("outer limits!", item)
    assert overlaps("the limits of it", item)
    assert overlaps("Outer", Item("1", "Q?", "The Outer Limits"))
    assert overlaps("?!", item)
    assert not overlaps("The Twilight Zone", item)
    assert not overlaps("limit", item)


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("Paris", True),
        ("West Asia", True),
        ("The director of Left Behind", False),
        ("The right answer", False),
        ("One of many people who made it", False),
        ("Marie-Catherine Le", False),
        ("Charles Le Brun", True),
    ],
)
def test_what_does_not_look_like_an_answer_is_asked_again(text, fine):
    item = Item("1", "Who was the director of Left Behind?", "Marie-Catherine Le Jumel")
    other = Item("2", "Who was the king?", "Louis", "Karl")
    done = fill_wrong(task_of(item, other), FakeEngine(answer=lambda *_: f" {text}"))
    assert (done.items[0].wrong == text) == fine


def test_the_constraint_is_one_short_line():
    assert re.fullmatch(LINE.value, " War correspondent")
    assert re.fullmatch(LINE.value, " Gdańsk")
    for text in (" a\nb", " .", " " + "a" * 60, "x", " so it is. And", " a b c d e f g"):
        assert not re.fullmatch(LINE.value, text)
