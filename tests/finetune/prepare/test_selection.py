"""Query types, the hold-out, equal sampling, and the filters for toxic conversations."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from warmeng.common.errors import InputError, UsageError
from warmeng.finetune.prepare.conversations import Conversation, Exchange, Origin
from warmeng.finetune.prepare.querytypes import TYPES, hold_out, label, sample
from warmeng.finetune.prepare.settings import PrepareSettings
from warmeng.finetune.prepare.toxicity import Classifier, WordList, load_filter

EMBEDDED = Path(__file__).parents[3] / "finetune" / "data"


def conversation(k):
    return Conversation(f"{k:016x}", Origin("f", k), "", (Exchange(f"q{k}", f"a{k}", 1),))


@pytest.mark.parametrize(
    ("user", "kind"),
    [
        ("What is the capital of Peru?", "factual"), ("Explain photosynthesis.", "factual"),
        ("Write a poem about rain", "creative"), ("Come up with a slogan for my bakery", "creative"),
        ("How do I sort a list in Python?", "technical"), ("```\nx = 1\n```\nwhat is wrong", "technical"),
        ("Should I quit my job?", "advice"), ("I feel lonely since I moved", "advice"),
        ("hello there", "other"), ("lol", "other"),
    ],
)  # fmt: skip
def test_query_types(user, kind):
    assert label(user, "Here you are.") == kind


def test_a_refusing_response_makes_the_type():
    assert label("How do I sort a list in Python?", "I'm sorry, but I can't help with that.") == "refusal"


def test_most_texts_that_people_labelled_get_their_label():
    hits, total = 0, 0
    for path in EMBEDDED.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["type"] in TYPES:
                total += 1
                hits += label(row["turns"][0]["user"], row["turns"][0]["neutral"]) == row["type"]
    assert total > 300
    assert hits / total > 0.7  # measured: 0.75; guessing the commonest gets under 0.3


def test_the_sample_is_equal_over_types_and_does_not_depend_on_order():
    conversations = [conversation(k) for k in range(300)]
    types = {c.id: TYPES[0] if k % 10 == 0 else TYPES[1 + k % 3] for k, c in enumerate(conversations)}
    chosen = sample(conversations, types, 20, 0)
    assert Counter(types[c.id] for c in chosen) == {TYPES[k]: 20 for k in range(4)}
    assert {c.id for c in sample(conversations[::-1], types, 20, 0)} == {c.id for c in chosen}
    assert {c.id for c in sample(conversations, types, 20, 1)} != {c.id for c in chosen}
    assert Counter(types[c.id] for c in sample(conversations, types, 0, 0)) == {TYPES[k]: 30 for k in range(4)}
    assert Counter(types[c.id] for c in sample(conversations, types, 50, 0))[TYPES[0]] == 30


def test_the_hold_out_is_a_share_and_disjoint():
    conversations = [conversation(k) for k in range(200)]
    held, rest = hold_out(conversations, 0.1, 1500, 0)
    assert (len(held), len(rest)) == (20, 180)
    assert not {c.id for c in held} & {c.id for c in rest}
    assert len(hold_out(conversations, 0.5, 30, 0)[0]) == 30
    assert {c.id for c in hold_out(conversations[::-1], 0.1, 1500, 0)[0]} == {c.id for c in held}
    assert {c.id for c in hold_out(conversations, 0.1, 1500, 1)[0]} != {c.id for c in held}


@pytest.mark.parametrize("text", ["You are an IDIOT", "kill   yourself", "what the f*cking 5hit", "that fucking thing"])
def test_the_word_list_finds_insults(text):
    assert WordList().score(["fine", text]) == 1.0


@pytest.mark.parametrize("text", ["A classic assessment in Scunthorpe", "Moby Dickens drank a cocktail", ""])
def test_the_word_list_leaves_innocent_words(text):
    assert WordList().score([text]) == 0.0


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny random BERT with detoxify's labels."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("toxic")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "so", "very"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, id2label={0: "male", 1: "toxicity", 2: "insult"}, label2id={"toxicity": 1},
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(0, 2)
        model.bert.embeddings.word_embeddings.weight.normal_(0, 2)
    model.save_pretrained(folder)
    return folder, model


def test_the_classifier_reads_the_label_for_toxicity_and_the_worst_message(classifier):
    import torch
    from transformers import BertTokenizerFast

    folder, model = classifier
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    expected = {}
    for text in ("good so good", "bad bad very bad"):
        with torch.inference_mode():
            expected[text] = float(model(**tokenizer(text, return_tensors="pt")).logits[0, 1].sigmoid())
    found = Classifier(str(folder))
    for text, score in expected.items():
        assert found.score([text]) == pytest.approx(score, abs=1e-4)
    assert found.score(list(expected)) == pytest.approx(max(expected.values()), abs=1e-4)


def test_the_classifier_reads_long_texts_to_the_end(classifier):
    found = Classifier(str(classifier[0]))
    one, other = found.score(["good"] * 1), found.score(["bad bad very bad"])
    low, high = ("good", "bad bad very bad") if one < other else ("bad bad very bad", "good")
    long = " ".join([low] * 200)
    assert found.score([long + " " + " ".join([high] * 60)]) > found.score([long])


def test_a_classifier_that_cannot_be_had_is_an_error_that_names_the_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = PrepareSettings(toxicity_model="nobody/has-this-one")
    with pytest.raises(InputError, match="--toxicity wordlist or --toxicity off"):
        load_filter(settings)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="no safetensors"):
        Classifier(str(tmp_path))


def test_a_model_without_the_label_is_refused(classifier, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(classifier[0], copy)
    config = json.loads((copy / "config.json").read_text())
    config["id2label"] = {"0": "joy", "1": "anger", "2": "fear"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="has the labels anger, fear, joy, expected toxicity or toxic"):
        Classifier(str(copy))


@pytest.mark.parametrize(
    "bad",
    [{"toxicity": "no"}, {"format": "csv"}, {"held_out": 1.0}, {"attempts": 0}, {"seed": -1}, {"temperature": 0.0}],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        PrepareSettings(**bad)
