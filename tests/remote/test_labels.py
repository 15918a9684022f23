"""Which label a token begins, and labels' probabilities from the likeliest tokens."""

import math

import pytest

from warmeng.remote.labels import label_logprobs, label_of
from warmeng.study.grading.letters import letter_place

GRADES = ("correct", "incorrect", "refusal", "unclear")


@pytest.mark.parametrize(
    ("labels", "token", "place"),
    [
        (("A", "B"), "B", 1),
        (("A", "B"), " B", 1),
        (("A", "B"), "B)", 1),
        (("A", "B"), "b", None),
        (("A", "B"), "Both", None),
        (("A", "B"), "", None),
        (("A", "B"), " \n", None),
        (("A", "B"), "C", None),
        (GRADES, "correct", 0),
        (GRADES, " Correct", 0),
        (GRADES, "in", 1),
        (GRADES, "In", 1),
        (GRADES, "incorrect.", 1),
        (GRADES, "in.", None),
        (GRADES, "incorrectly", None),
        (GRADES, "un", 3),
        (("right", "rightly"), "right", None),
        (("right", "rightly"), "rightl", 1),
    ],
)
def test_a_token_counts_for_the_one_label_that_it_begins(labels, token, place):
    assert label_of(labels, token) == place


def test_probabilities_of_one_labels_tokens_are_added_and_others_left_out():
    top = [("B", math.log(0.5)), (" B", math.log(0.2)), ("A", math.log(0.1)), ("The", math.log(0.15))]
    (a, b, c), mass = label_logprobs(("A", "B", "C"), top)
    assert a == pytest.approx(math.log(0.1))
    assert b == pytest.approx(math.log(0.7))
    assert c is None
    assert mass == pytest.approx(0.8)
    assert label_logprobs(("A",), []) == ((None,), 0.0)
    assert label_logprobs(("A",), [("A", -math.inf)]) == ((None,), 0.0)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("B", 1),
        (" B.", 1),
        ("B) Sydney", 1),
        ("**B**", 1),
        ("(B)", 1),
        ("The answer is B.", 1),
        ("The correct answer is B", 1),
        ("Answer: B", 1),
        ("Option B is right.", 1),
        ("A is right", 0),
        ("A", 0),
        ("A lot of people think so", None),
        ("I think it is hard", None),
        ("B) Sydney, not A) Canberra", None),
        ("D", None),
        ("Sydney", None),
        ("Both", None),
        ("", None),
        ("b", None),
    ],
)
def test_the_letter_that_a_text_chooses(text, place):
    assert letter_place(text, 3) == place
