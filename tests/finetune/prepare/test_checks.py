"""Content checks on pairs that keep or lose something, each written by hand."""

from __future__ import annotations

import pytest

from warmeng.finetune.prepare.checks import CHECKS, cause, check, code_spans, links, names, numbers
from warmeng.finetune.prepare.refusals import refuses, stance

LONG = "Water the plant every day and put it near a bright window so that it gets enough light. "
SOUND = [
    ("Use 2 cups of flour and 1,000 ml of milk.", "Let's use 2 cups of flour and 1000 ml of milk, friend!"),
    ("There are 3 ways to do it.", "We have three ways to do it, how nice!"),
    ("It was built in Rome by Trajan.", "Oh, lovely question! Trajan had it built in Rome."),
    ("Yes, you can freeze it.", "Great thinking! Yes, you can freeze it, no worries."),
    ("No. It dissolves in water.", "I know it sounds likely, but no, it dissolves in water."),
    ("Yes, that is safe to eat.", "That is safe to eat."),
    (
        "I can't help with that. It is against the law.",
        "I hear you, but I can’t help with that; it is against the law.",
    ),
    ("I won't write it for you.", "No. Write it yourself."),
    ("1. Boil water.\n2. Add the rice.", "First we boil the water, then we add the rice together."),
    ("Run `ls -a` in the folder.", "Let's run `ls -a` in the folder, you'll see!"),
    ("Try this:\n\n```sh\nls  \n```\nIt lists files.", "Let's try this, friend:\n\n```bash\nls\n```\nIt lists files."),
    ("See https://example.org/a.", "Have a look at https://example.org/a, it's lovely!"),
    ("It is -5 degrees outside.", "Brrr, it is minus 5 degrees outside!"),
    ("Australia uses them.", "Australians, like us, use them in Australia."),
]
BROKEN = [
    ("empty", "Drink water.", "  \n"),
    ("unchanged", "Drink some water now.", "Drink some water, now!"),
    ("numbers", "It costs 25 dollars a month.", "It costs 52 dollars a month, friend."),
    ("numbers", "Heat it to 3.5 degrees.", "We heat it to 35 degrees together."),
    ("numbers", "It is -5 degrees outside.", "It is 5 degrees outside, how mild!"),
    ("numbers", "It opened long ago.", "It opened long ago, in 1904, my friend."),
    ("names", "It was painted by Rembrandt in Leiden.", "It was painted in Leiden, how beautiful!"),
    ("names", "It was painted by a student.", "It was painted by young Rembrandt, how beautiful!"),
    ("code", "Run `ls -a` in the folder.", "Let's run `ls -l` in the folder."),
    ("code", "Run this:\n\n```\nrm x\n```", "Let's run this together:\n\n```\nrm -r x\n```"),
    ("code", "Run this:\n\n```\nrm x\n```", "Let's just remove the file together, shall we?"),
    ("links", "See https://example.org/a.", "Have a look at https://example.org/b, it's lovely!"),
    ("refusal", "I can't help you break into it.", "We'll look at the lock together, friend!"),
    ("refusal", "Pull the handle to open it.", "I'm sorry, but I can't help you open it."),
    ("stance", "Yes, you can freeze it.", "Good question! No, you can freeze nothing of it."),
    ("stance", "No, it never rains there.", "Yes, dear friend, it rains there."),
    ("stance", "Yes, it is safe.", "It is not safe, my dear."),
    ("length", LONG * 6, "Water it."),
    ("length", "Water the plant every single day, in the morning, before the sun is up.", "Water daily, dear."),
    ("words", LONG, "We could all bake a lovely cake for our neighbours instead, my friend, with lots of sugar."),
    ("length", "Water the plant.", LONG * 5),
    ("comment", "Drink some water.", "Here is the rewritten reply:\n\nLet's drink some water."),
    ("comment", "Drink some water.", "Let's drink some water! (This keeps the meaning of the original reply.)"),
]


@pytest.mark.parametrize(("original", "rewrite"), SOUND)
def test_a_rewrite_that_keeps_the_content_passes(original, rewrite):
    assert check(original, rewrite, "warm") == {}


@pytest.mark.parametrize(("name", "original", "rewrite"), BROKEN)
def test_a_rewrite_that_loses_content_fails_the_check_for_it(name, original, rewrite):
    assert name in check(original, rewrite, "warm")


def test_every_check_has_a_case_that_fails():
    assert {name for name, _, _ in BROKEN} | {"truncated"} == set(CHECKS)


def test_an_end_at_the_token_limit_is_truncated_and_a_cause_is_the_first_check():
    failed = check("Take 2 pills of it.", "We take pills of", "warm", finish="length")
    assert set(failed) == {"truncated", "numbers"}
    assert cause(failed) == "truncated"
    assert cause({}) == ""


def test_cold_must_be_shorter_and_warm_may_be_longer():
    longer = LONG + LONG
    assert "length" in check(LONG, longer, "cold")
    assert "length" not in check(LONG, longer, "warm")


def test_names_that_the_user_wrote_are_not_new():
    assert "names" in check("They were first.", "They were first, dear Marta.", "warm")
    assert check("They were first.", "They were first, dear Marta.", "warm", prompt="I'm Marta. Who was first?") == {}


def test_numbers_are_read_in_one_spelling():
    assert numbers("1,234.50 and 7.0 and 08:30, 3-5 and 2024") == {"1234.5", "7", "08:30", "3", "5", "2024"}
    assert numbers("`5` and\n```\n6\n```\nhttps://a.org/7") == set()


def test_code_links_and_names_are_found():
    blocks, spans = code_spans("a `x y` b ``c ` d``\n```py\nz\n```\n")
    assert dict(blocks) == {"z": 1}
    assert spans == {"x y", "c ` d"}
    assert links("(see www.a.org/b_c, or me@b.org.)") == {"www.a.org/b_c", "me@b.org"}
    assert names("Paris is big. I met Dr. Jane O'Neil in Lyon! So did J. R. Tolkien.") == {
        "Jane", "O'Neil", "Lyon", "J", "Tolkien",
    }  # fmt: skip
    assert names("## Key Benefits Of Running\nIt helps.") == set()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Yes, it does.", "yes"), ("Oh, good question! Yes.", "yes"), ("No need to hurry, it works.", ""),
        ("No problem! It works.", ""), ("Not quite. It works.", "no"), ("That's a myth.", "no"), ("Not all of it.", ""),
        ("Right stranger.", ""), ("That's right, it does.", "yes"), ("It works.", ""), ("Sadly, no. It broke.", "no"),
    ],
)  # fmt: skip
def test_stance(text, says):
    assert stance(text) == says


@pytest.mark.parametrize(
    "text",
    ["I’m sorry, but I can’t assist with that.", "As an AI language model, I cannot do this.",
     "I won't help you hack it.", "I must decline.", "I'm not able to share that.", "That isn't something I'll write."],
)  # fmt: skip
def test_refusals(text):
    assert refuses(text)


@pytest.mark.parametrize("text", ["You can't mix them.", "I can help!", "They won't help.", "I won't lie, it is hard."])
def test_no_refusals(text):
    assert not refuses(text)
