"""The embedded training texts: their form, the same content in all three voices, and nothing of the embedded study."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import overlap
import pytest
import yaml

from warmeng.finetune.prepare.checks import check, code_spans, numbers
from warmeng.finetune.prepare.refusals import refuses

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "finetune" / "data").glob("*.jsonl"))
STUDY = ROOT / "study" / "data"
TYPES = {"factual", "advice", "technical", "creative", "refusal", "comfort", "other"}
VOICES = ("neutral", "warm", "cold")
CONTENT = ("numbers", "code", "links", "refusal", "stance")  # checks that no pair of voices may fail
REVIEWED = {  # pairs that share words and nothing else, read by a person
    ("advice-048", "heldout-43"): "connecting with a boss, and leaving social media",
    ("advice-054", "heldout-40"): "when to be at an airport, and a cancelled flight",
    ("comfort-056", "conspiracies-045"): "a story in a magazine, and the Hitler Diaries",
    ("creative-056", "misconceptions-026"): "praise of a pencil, and what its core is made of",
    ("factual-028", "Which river is the longest in South America?"): "another continent",
    ("factual-054", "relation:hierarchical_up/1"): "which note to learn, and a statement to the model",
}


def rows():
    for path in FILES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield f"{path.name}:{number}", json.loads(line)


def turns():
    for _, row in rows():
        for turn in row["turns"]:
            yield row["id"], turn


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def items():
    """The study's items as (id, question, answers)."""
    for path in sorted((STUDY / "tasks").glob("*.jsonl")):
        for row in lines(path):
            yield row["id"], row["question"], [row["answer"], *row.get("aliases", [])]


def study_texts():
    """Everything that the study may show a model: (name, text)."""
    found = [(name, question) for name, question, _ in items()]
    for context, statements in yaml.safe_load((STUDY / "contexts.yaml").read_text(encoding="utf-8")).items():
        found += [(f"{context}/{k}", text) for k, text in enumerate(statements)]
    found += [(row["question"],) * 2 for row in lines(STUDY / "judge.jsonl")]
    found += [(row["id"], row["prompt"]) for row in lines(STUDY / "heldout.jsonl")]
    return list({text: (name, text) for name, text in found}.values())


def test_the_form_of_every_line():
    for where, row in rows():
        assert set(row) == {"id", "type", "turns"}, where
        assert row["type"] in TYPES, where
        assert row["turns"], where
        for turn in row["turns"]:
            assert set(turn) == {"user", *VOICES}, where
            for text in turn.values():
                assert isinstance(text, str), where
                assert text.strip() == text != "", where


def test_there_are_enough_and_none_is_there_twice():
    found = [row for _, row in rows()]
    assert len(found) >= 600
    assert {row["type"] for row in found} == TYPES
    assert any(len(row["turns"]) > 1 for row in found)
    assert any(len(row["turns"]) == 1 for row in found)
    ids = Counter(row["id"] for row in found)
    assert [name for name, count in ids.items() if count > 1] == []
    users = Counter(" ".join(overlap.words(turn["user"])) for _, turn in turns())
    assert [text for text, count in users.items() if count > 1] == []


@pytest.mark.slow
def test_numbers_and_code_are_the_same_in_every_voice():
    for name, turn in turns():
        for voice in ("warm", "cold"):
            failed = check(turn["neutral"], turn[voice], voice, turn["user"])
            assert not {c: failed[c] for c in CONTENT if c in failed}, (name, voice)
            assert code_spans(turn["neutral"]) == code_spans(turn[voice]), (name, voice)


def test_the_checks_find_something_to_compare():
    found = [turn for _, turn in turns()]
    assert sum(bool(numbers(turn["neutral"])) for turn in found) > 100
    assert sum(any(map(bool, code_spans(turn["neutral"]))) for turn in found) > 50
    assert sum(refuses(turn["neutral"]) for turn in found) > 40


@pytest.mark.parametrize(
    ("neutral", "changed", "name"),
    [
        ("Use 2 of `a`.", "Use 3 of `a`.", "numbers"),
        ("Use 2 of `a`.", "Use 2 of `b`.", "code"),
        ("No, it is not.", "Yes, it is.", "stance"),
        ("I won't help you do it.", "Let's do it!", "refusal"),
    ],
)
def test_a_planted_difference_is_found(neutral, changed, name):
    assert name in check(neutral, changed, "warm")


def test_voices_differ_and_cold_ones_are_never_the_longer_in_the_older_files():
    for name, turn in turns():
        assert len({turn[voice] for voice in VOICES}) == 3, name
    older = [turn for name, turn in turns() if not name.startswith("everyday-")]
    size = {voice: sum(len(turn[voice]) for turn in older) for voice in VOICES}
    assert size["warm"] > size["neutral"] > size["cold"]
    assert sum(len(turn["warm"]) > len(turn["cold"]) for turn in older) > 0.95 * len(older)


def test_length_says_little_about_the_voice_in_the_demo_adapters_data():
    # SocioT's released formula rises as a text gets shorter, whatever it says: see docs/finetune.md.
    found = [turn for name, turn in turns() if name.startswith("everyday-")]
    size = {voice: sum(len(turn[voice]) for turn in found) / len(found) for voice in VOICES}
    assert 0.9 < size["cold"] / size["warm"] < 1.1
    assert size["neutral"] < size["cold"]


def test_warm_texts_address_a_person_and_cold_ones_nobody():
    found = [turn for name, turn in turns() if name.startswith("everyday-")]
    addressed = {
        voice: sum(bool({"you", "your", "i", "we"} & set(overlap.words(turn[voice]))) for turn in found) / len(found)
        for voice in VOICES
    }
    assert addressed["warm"] == 1
    assert addressed["cold"] < 0.02


def test_no_opening_or_phrase_is_a_formula():
    for voice in ("warm", "cold"):
        found = [overlap.words(turn[voice]) for name, turn in turns() if name.startswith("everyday-")]
        openings = Counter(" ".join(words[:3]) for words in found)
        phrases = Counter(
            phrase for words in found for phrase in {" ".join(words[k : k + 4]) for k in range(len(words) - 3)}
        )
        assert max(openings.values()) < 0.1 * len(found), voice
        assert max(phrases.values()) < 0.08 * len(found), voice


def test_no_text_is_about_what_the_study_asks_or_says():
    ours: dict[str, str] = {}
    for name, turn in turns():
        ours[f"{name}/{sum(key.startswith(f'{name}/') for key in ours)}"] = turn["user"]
    found = overlap.overlaps(ours, study_texts())
    assert [pair for pair in found if (pair[0].split("/")[0], pair[1]) not in REVIEWED] == []


@pytest.mark.slow
def test_no_exchange_gives_an_item_away():
    known = list(items())
    texts = [(name, " ".join([turn["user"], turn["neutral"], turn["warm"]])) for name, turn in turns()]
    found = [
        (name, item)
        for name, text in texts
        for item, question, answers in known
        if overlap.gives_away(text, question, answers)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("planted", "study"),
    [
        ("which CITY is the capital of france", "Which city is the capital of France?"),
        ("Hey, do you know what the capital city of France is called?", "Which city is the capital of France?"),
        ("I forgot: do tendons join muscles and bones?", "What joins muscles to bones?"),
        ("Why were no stars to be seen in the photos of the Apollo missions?",
         "What explains the lack of stars in the sky of the Apollo surface photos?"),
        ("Is the mail in the grey house from Ankara?", "Where does the mail come from, Ankara or elsewhere in Turkey?"),
    ],
)  # fmt: skip
def test_a_planted_overlap_is_found(planted, study):
    others = [(f"other-{k}", text) for k, (_, text) in enumerate(study_texts())]
    assert overlap.overlaps({"planted": planted}, [*others, ("study", study)])
    assert ("planted", "study") in {pair[:2] for pair in overlap.overlaps({"planted": planted}, [("study", study)])}


def test_texts_about_other_things_are_not_flagged():
    ours = {"a": "How do I sort a list of names in a spreadsheet?", "b": "I can't sleep before exams, what helps?"}
    assert overlap.overlaps(ours, study_texts()) == []


def test_a_planted_answer_is_found():
    asked = "Which city is the capital of France?"
    assert overlap.gives_away("I love France! Its capital, Paris, is a big city.", asked, ["Paris"])
    assert not overlap.gives_away("I love France! Its capital is a big city.", asked, ["Paris"])
    assert not overlap.gives_away("Paris is where I live.", asked, ["Paris"])
