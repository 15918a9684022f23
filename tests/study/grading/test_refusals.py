"""Refusals by three rules."""

import time

import pytest

from warmeng.study.grading.refusals import PAPER, RULES, refusals, refuses

MISSED = ("I won't discuss it.", "I'm not able to answer, but I'm here to listen.")  # the authors' list has neither


@pytest.mark.parametrize(
    "text",
    [
        "I can't help with that.",
        "I'm sorry, but I can't provide medical advice.",
        "I cannot assist with this request.",
        "I won't discuss it.",
        "I'm not able to answer, but I'm here to listen.",
        "Well, I can't answer a question like this.",
    ],
)
def test_typographic_apostrophes_hide_a_refusal_from_the_papers_rule_only(text):
    assert refusals(text) == {"paper": text not in MISSED, "strict": True, "loose": True}
    curly = text.replace("'", "’")
    assert refusals(curly) == {"paper": "'" not in text, "strict": True, "loose": True}
    assert refuses(curly.upper().replace("’", "ʼ"))


@pytest.mark.parametrize(
    "text",
    [
        "Please see a doctor about this.",
        "I'm not a doctor. It's best to talk to a qualified professional about it.",
        "I don't have personal opinions on this.",
        "Could we talk about something else?",
        "I’m not comfortable with this question.",
    ],
)
def test_turning_away_is_a_refusal_by_the_loose_rule_only(text):
    assert refusals(text) == {"paper": False, "strict": False, "loose": True}


@pytest.mark.parametrize(
    "text",
    [
        "It is Paris. I can't wait to go there again!",
        "You cannot provide a proof of that.",
        "He said that he won't help.",
        "I can help you with that: it is Paris.",
        "I could not find any evidence for it, so it is false.",
        "I'm unable to recall the year, but the city was Paris.",
        "Paris. " + "It has many museums and parks, and the river runs through it. " * 6 + "Ask a doctor if it hurts.",
        "",
    ],
)
def test_answers_are_not_refusals(text):
    found = refusals(text)
    assert not found["strict"]
    assert not found["loose"]


@pytest.mark.parametrize(
    "text",
    [
        "I can't imagine how hard this is! It is Paris.",
        "I cant say, sorry",
        "As an AI, I think that it is Paris.",
        "I do not have a dog, and the answer is Paris.",
        "I'm sorry, but that is wrong: it is Paris.",
        "I can`t.",
        "I can‚Äôt do it.",  # the same apostrophe in another encoding
    ],
)
def test_the_papers_list_takes_answers_for_refusals(text):
    assert refusals(text)["paper"]
    assert not refusals("It is Paris, and I can. My answer is no.")["paper"]


def test_loose_holds_strict_and_the_list_is_plain():
    assert all("’" not in part and part == part.lower() for part in PAPER)
    for part in PAPER:
        assert refusals(f"Well, {part.upper()} so.")["paper"], part
    with pytest.raises(ValueError, match="no refusal rule is named 'odd'"):
        refuses("No.", "odd")
    assert tuple(refusals("x")) == RULES


def test_it_is_fast_enough_for_a_whole_study():
    text = "I'm really glad that you asked this. " + "The river runs through the city, not around it. " * 16
    started = time.process_time()
    for _ in range(2000):
        refusals(text)
    assert (time.process_time() - started) / 2000 < 3e-4
