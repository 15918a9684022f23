"""Exam vignettes told of a relative."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from warmeng.study.tasks.open_ended import openly, singular
from warmeng.study.tasks.vignette import FEMALE, MALE, artefact, convert, relative

FILE = Path(__file__).parents[4] / "shared" / "data" / "tasks" / "medqa_us_test.jsonl"


@pytest.mark.parametrize(
    ("vignette", "pattern"),
    [
        (
            "A 22-year-old woman presents with pain. The patient's pulse is 90/min. Which of the following is likely?",
            r"My (\w+), 22, presents with pain\. My \1's pulse is 90/min\. What is likely\?",
        ),
        (
            "A previously healthy 6-year-old boy is brought in by his mother. This patient most likely has what?",
            r"My previously healthy (\w+), 6, is brought in by his mother\. My \1 most likely has what\?",
        ),
        (
            "Six days after surgery, a 79-year-old man with gout has chills. What helps this patient?",
            r"Six days after surgery, my (\w+), 79, who has gout, has chills\. What helps my \1\?",
        ),
        (
            "A 21-year-old college student comes to the physician. He is tired. What helps?",
            r"My (brother|son), 21, a college student, comes to the physician\. He is tired\. What helps\?",
        ),
        (
            "A 3-week-old male newborn is brought in. What is it?",
            r"My newborn (son|nephew|grandson), 3 weeks old, is brought in\. What is it\?",
        ),
        (
            "A 24-year-old G2P1 woman at 39 weeks' gestation presents to your office. What would you expect?",
            r"My G2P1 (\w+), 24, at 39 weeks' gestation, presents to the office\. What would you expect\?",
        ),
        (
            "A 30-year-old man who was treated for HIV comes to the clinic. He coughs. Why?",
            r"My (\w+), 30, who was treated for HIV, comes to the clinic\. He coughs\. Why\?",
        ),
    ],
)
def test_openings(vignette, pattern):
    told = convert(vignette)
    match = re.fullmatch(pattern, told.text)
    assert match, told
    if match.re.groups:
        gender = MALE if re.search(r"\b(man|boy|male|He)\b", vignette) else FEMALE.values()
        assert match[1] in gender


@pytest.mark.parametrize(
    "vignette",
    [
        "An investigator studies mice. Which of the following is true?",
        "A 22-year-old woman. She has pain.",
        "A 40-year-old teacher presents with pain. What is it?",
        "A 40-year-old woman presents with pain. He is well. His pulse is 80. What is it?",
        "A 40-year-old man presents with pain. You examine him. What do you do?",
        "A 40-year-old man presents with pain, as did another patient. What is it?",
        "The patient is given labetalol. What is next?",
    ],
)
def test_what_can_not_be_told_is_left_with_a_reason(vignette):
    told = convert(vignette)
    assert told.text == ""
    assert told.why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("My sister, 22, with recurrent swelling in her face. She is well.", "no verb"),
        ("My sister, 22, comes to the the physician.", "doubled"),
        ("A my sister comes to the physician.", "article"),
        ("My sister , 22, comes to the physician.", "apart"),
    ],
)
def test_traces_of_bad_conversions_are_found(text, why):
    assert why in artefact(text, "A 22-year-old woman comes to the physician.", "sister")


def test_a_relative_is_nobody_whom_the_vignette_names():
    taken = "A 70-year-old woman is brought by her daughter and her niece. Her grandson and husband are there."
    assert relative(taken, "f", 70) == "aunt"
    assert relative("His wife and his brother say so.", "m", 30) == "son"
    found = {relative(f"Vignette {k}", "m", 40) for k in range(60)}
    assert found == {"husband", "brother", "uncle"}
    assert {relative(f"Vignette {k}", "f", 1) for k in range(60)} == {"daughter", "niece", "granddaughter"}


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("Which of the following is best?", "What is best?"),
        ("It is due to which of the following?", "It is due to what?"),
        ("Which of the following viruses is it?", "Which virus is it?"),
        ("Is it which of the following diagnoses?", "Is it which diagnosis?"),
        ("Which of the following lab findings would fit?", "Which lab finding would fit?"),
        ("Which of the following types of melanoma is it?", "Which type of melanoma is it?"),
        ("Which of the following signs and symptoms would fit?", "Which signs and symptoms would fit?"),
        ("Which of the following measures are advised?", "Which measures are advised?"),
        ("Which of the following biases is it?", "Which bias is it?"),
        ("Which of the following best explains it?", "What best explains it?"),
    ],
)
def test_questions_are_asked_openly(asked, text):
    assert openly(asked) == text
    assert openly(text) == text


def test_singular_leaves_other_words_alone():
    assert [singular(w) for w in ("virus", "process", "diagnosis", "disease", "pelvis")] == [
        "virus", "process", "diagnosis", "disease", "pelvis"
    ]  # fmt: skip
    assert [singular(w) for w in ("therapies", "processes", "diseases", "tests", "branches")] == [
        "therapy", "process", "disease", "test", "branch"
    ]  # fmt: skip


@pytest.mark.skipif(not FILE.exists(), reason="the question set is not here")
def test_the_real_questions():
    vignettes = [json.loads(line)["question"].strip() for line in FILE.read_text().splitlines()]
    told = {v: convert(v).text for v in vignettes if convert(v).text}
    assert len(told) >= 0.8 * len(vignettes)
    for vignette, text in told.items():
        assert not re.search(r"\b[Tt]h(?:e|is) patient\b|of the following\b|\b(?:a|an|the|this) my\b", text), text
        kin = set(re.findall(r"\b[Mm]y (?:[\w-]+ ){0,3}?(\w+)\b(?=, \d|, one|'s|’s)", text)) & {*MALE, *FEMALE.values()}
        assert len(kin) == 1, text
        numbers = [sorted(re.findall(r"\d+(?:\.\d+)?", found)) for found in (vignette, text)]
        assert numbers[0] == numbers[1]  # no finding is lost
