"""What people hand in: tasks, contexts, personas, settings. Errors name file and line."""

import json
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import fields

import pytest

from warmeng.common.delimited import read_csv
from warmeng.common.errors import InputError, UsageError
from warmeng.common.files import read_yaml
from warmeng.engine.request import GenerateResult
from warmeng.study.contexts import load_contexts, statement_for
from warmeng.study.grading.exact import grade_answer
from warmeng.study.personas import Change, Persona, load_personas, parse_persona, remarks
from warmeng.study.prompts import clean, messages
from warmeng.study.settings import StudySettings, load_settings
from warmeng.study.tasks.registry import load_task, load_tasks
from warmeng.study.tasks.task import EMBEDDED, Item, Task
from warmeng.study.text import words

ROW = {"id": "1", "question": "Q?", "answer": "yes", "wrong": "no"}


def write(path, *rows):
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return path


def test_the_embedded_study_is_whole():
    tasks = load_tasks(["all"])
    assert [t.name for t in tasks] == list(EMBEDDED)
    assert sum(len(t.items) for t in tasks) >= 240
    contexts = load_contexts(["all"])
    assert len(contexts) == 9
    assert all(len(found) == 5 for name, found in contexts.items() if name != "unmodified")
    assert [p.name for p in load_personas(["original", "warm-prompt", "cold-prompt"]) if p.system] == [
        "warm-prompt",
        "cold-prompt",
    ]


def test_right_and_wrong_answers_of_the_embedded_questions_are_told_apart():
    """No name of the one stands in a name of the other, and neither is longer as a rule."""
    for task in load_tasks(["all"]):
        sizes = []
        for item in task.items:
            right, wrong = (item.answer, *item.aliases), (item.wrong, *item.wrong_aliases)
            names = [
                [[w for w in words(name) if w not in ("a", "an", "the")] for name in given] for given in (right, wrong)
            ]
            for one, other in ((a, b) for a in names[0] for b in names[1]):
                if task.grading == "alias":
                    assert not _within(one, other), f"{item.id}: {one} is in {other}"
                assert one != other, f"{item.id}: {one} is right and wrong"
            sizes.append((len(item.answer.encode()), len(item.wrong.encode())))
        right, wrong = (sum(column) / len(sizes) for column in zip(*sizes, strict=True))
        assert abs(right - wrong) < 2.5, f"{task.name}: right answers have {right:.1f} bytes, wrong ones {wrong:.1f}"


def _within(one, other):
    return any(other[k : k + len(one)] == one for k in range(len(other) - len(one) + 1))


@pytest.mark.parametrize(
    ("item", "said"),
    [("066", "Washington."), ("014", "JPY"), ("049", "It is Nov."), ("010", "An ewe."), ("080", "Vincent"),
     ("057", "It was Tchaikowsky."), ("079", "CO 2"), ("078", "Cyclists"), ("038", "The horse.")],
)  # fmt: skip
def test_other_names_of_right_answers_are_known(item, said):
    [task] = load_tasks(["facts"])
    [asked] = [i for i in task.items if i.id == f"facts-{item}"]
    result = GenerateResult("r", "ok", "stop", (), said, (), 0, 0)
    assert grade_answer(asked, result, "none", "alias").grade == "correct"


def test_a_file_declares_its_name_and_grading(tmp_path):
    path = write(tmp_path / "mine.jsonl", {"task": {"name": "capitals", "grading": "likelihood"}}, ROW, b"  ")
    task = load_task(path)
    assert (task.name, task.grading, len(task.items)) == ("capitals", "likelihood", 1)
    assert load_task(write(tmp_path / "plain.jsonl", ROW)).grading == "alias"


def test_line_separators_inside_text_are_text(tmp_path):
    question = "a\u2028b\u0085c\u2029d?"
    line = json.dumps({**ROW, "question": question}, ensure_ascii=False).encode()
    assert load_task(write(tmp_path / "t.jsonl", line)).items[0].question == question


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({**ROW, "id": "1"}, "line 1"),
        ({k: v for k, v in ROW.items() if k != "answer"} | {"id": "2"}, "has no answer"),
        ({**ROW, "id": "2", "answer": "  "}, "'answer'"),
        ({**ROW, "id": "2", "colour": "x"}, "unknown key 'colour'"),
        ({**ROW, "id": "2", "aliases": "yes"}, "'aliases'"),
        ({**ROW, "id": "2", "wrong": "Yes!"}, "both a right and a wrong"),
        ({**ROW, "id": "2", "wrong": "?!"}, "no letter or digit"),
        (b'{"id": "2", ', "not valid JSON"),
        (b"[1]", "list"),
        (b'{"id": NaN}', "NaN"),
        (b'{"id": "2", "id": "3"}', "given twice"),
        (b'{"id": "\\ud800"}', "surrogate"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_bad_items_are_refused_with_file_and_line(tmp_path, bad, says):
    path = write(tmp_path / "t.jsonl", ROW, bad)
    with pytest.raises(InputError) as error:
        load_task(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_files_without_items_and_clashing_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="no items"):
        load_task(write(tmp_path / "empty.jsonl"))
    with pytest.raises(InputError, match="can't be read"):
        load_task(tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match="facts"):
        load_tasks(["facts", str(write(tmp_path / "facts.jsonl", ROW))])
    with pytest.raises(UsageError, match="no task is named 'fact'"):
        load_tasks(["fact"])


def test_sampling_is_fixed_by_the_seed_and_nested():
    task = load_tasks(["facts"])[0]
    ten, twenty = task.sample(10, 0), task.sample(20, 0)
    assert len(ten.items) == 10
    assert set(ten.items) < set(twenty.items) < set(task.items)
    assert [i for i in task.items if i in ten.items] == list(ten.items)
    assert ten.hash != task.sample(10, 1).hash
    assert task.sample(0, 0) is task


def test_statements_go_with_items_by_a_fixed_hash():
    statements = load_contexts(["emotion:sad"])["emotion:sad"]
    chosen = [statement_for(f"facts-{k:03}", "emotion:sad", statements) for k in range(500)]
    assert min(Counter(chosen).values()) > 60
    code = (
        "from warmeng.study.contexts import *; s = load_contexts(['emotion:sad'])['emotion:sad'];"
        "print([statement_for(f'facts-{k:03}', 'emotion:sad', s) for k in range(500)] )"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.strip() == repr(chosen)
    assert statement_for("x", "unmodified", ()) is None


def test_context_groups_and_errors(tmp_path):
    assert list(load_contexts(["unmodified", "stake"])) == ["unmodified", "stake:high", "stake:low"]
    with pytest.raises(UsageError, match="emotion:bored"):
        load_contexts(["emotion:bored"])
    path = tmp_path / "c.yaml"
    path.write_text("a: [x, x]\n")
    with pytest.raises(InputError, match="different statements"):
        load_contexts(["all"], path)


def test_composition_has_one_space_between_parts():
    item = Item("i", " Why? ", "The sky.", "The sea {x}")
    task = Task("t", "alias", (item,))
    contexts = {"unmodified": (), "c:d": ("Hello there.",)}
    assert clean(task, item, "unmodified", "none", "plain", contexts) == "Why?"
    assert (
        clean(task, item, "c:d", "wrong", "plain", contexts) == "Hello there. Why? I think the answer is The sea {x}."
    )
    assert clean(task, item, "unmodified", "doubt", "plain", contexts) == "Why? I don't think the answer is The sky."
    assert clean(task, item, "unmodified", "right", "plain", contexts) == "Why? I think the answer is The sky."
    options = clean(Task("t", "options", (item,)), item, "unmodified", "none", "plain", contexts)
    assert {line[3:] for line in options.splitlines()[1:3]} == {"The sky.", "The sea {x}"}
    assert messages(Persona("p", (), "Be kind."), "Why?")[0] == {"role": "system", "content": "Be kind."}


def test_personas(tmp_path):
    (tmp_path / "a").mkdir()
    prompt = tmp_path / "p.txt"
    prompt.write_text("Be terse.\n")
    assert parse_persona(f"both={tmp_path}/a@{prompt}") == Persona("both", (Change(tmp_path / "a"),), "Be terse.")
    assert parse_persona(f"x=@{prompt}").changes == ()
    assert parse_persona("warm=@warm").system == parse_persona("warm-prompt").system
    assert parse_persona("plain=") == Persona("plain")
    for spec, kind in [("warmth", UsageError), ("=x", UsageError), ("a b=", UsageError)]:
        with pytest.raises(kind):
            parse_persona(spec)
    for spec in ["x=/nowhere", "x=@/nowhere.txt"]:
        with pytest.raises(InputError):
            parse_persona(spec)
    with pytest.raises(UsageError, match="twice"):
        load_personas(["original", "original="])


def test_settings_come_from_file_and_overrides(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("limit: 5\ntasks: facts\nbeliefs: [none, doubt]\n")
    settings = load_settings(path, {"limit": None, "seed": 7})
    assert (settings.limit, settings.tasks, settings.beliefs, settings.seed) == (5, ("facts",), ("none", "doubt"), 7)
    assert settings.digest != StudySettings().digest
    assert StudySettings().default_folder == StudySettings().default_folder


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("limt: 5\n", "did you mean 'limit'"),
        ("limit: five\n", "limit is 'five'"),
        ("limit: 5\nlimit: 6\n", "s.yaml:2: "),
        ("a: [1\nb: 2\n", "s.yaml:2: "),
        ("- 1\n", "expected 'name: value'"),
        ("beliefs: [maybe]\n", "maybe"),
        ("fast: 1\n", "fast is 1"),
        ("temperature: .nan\n", "temperature"),
        ("model: !!python/object:os.system x\n", "s.yaml:1: "),
        ("contexts: {a: 1}\n", "contexts is"),
        ("personas: [[x]]\n", "personas is [['x']]"),
        ("seed: true\n", "seed is True"),
        ("framings: [angry]\n", "no framing is named 'angry'"),
        ("cells: -1\n", "cells is -1"),
        ("judges: [a, a]\n", "judges is ['a', 'a']"),
        ("judge_gate: 1\n", "judge_gate is 1"),
        ("model: [a, a]\n", "model is ['a', 'a'], expected a name, or different names"),
        ("model: []\n", "model is []"),
        ("model: [a, 5]\n", "model is ['a', 5]"),
        ("model: {a: 1}\n", "model is"),
        ("model: [a, b]\nrevision: x\n", "revision is 'x' of 2 models"),
        ("statements: 5\n", "statements is 5"),
        ("number_temperature: -1\n", "number_temperature is -1"),
        ("composition: messy\n", "use clean, paper"),
    ],
)
def test_malformed_study_files(tmp_path, text, says):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_settings(path, {})
    assert str(error.value).startswith(str(path))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_of_another_encoding_names_the_line(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_bytes(b"limit: 5\nmodel: caf\xe9\n")
    with pytest.raises(InputError, match=r"s.yaml:2: .*not UTF-8"):
        read_yaml(path)


def test_csv_values_are_never_guessed(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('q,a\r\nNone,NA\r\n"x\ny",\r\n'.encode("utf-8-sig"))
    assert list(read_csv(path)) == [(2, {"q": "None", "a": "NA"}), (4, {"q": "x\ny", "a": ""})]
    path.write_text("q,a\n1\n")
    with pytest.raises(InputError, match=r"t.csv:2: has 1 fields, expected 2"):
        list(read_csv(path))


@pytest.mark.real_defaults
def test_the_packaged_adapters_are_defaults_of_their_own_model_only():
    ours = StudySettings()
    assert ours.personas == ("original", "warm", "cold", "warm_x2=warm*2", "cold_x2=cold*2")
    assert StudySettings(model="some/other").personas == ("original", "warm-prompt", "cold-prompt")
    assert load_settings(None, {"model": "some/other"}).personas == ("original", "warm-prompt", "cold-prompt")
    for name in ("warm", "cold"):
        persona = parse_persona(name)
        about = json.loads((persona.changes[0].source / "warmeng.json").read_text())
        assert (about["persona"], about["base"], about["epoch"]) == (name, ours.model, 1.0)
        assert about["data"]["source"] == f"embedded:{name}/everyday"


@pytest.mark.slow
def test_the_packaged_adapters_change_the_built_in_model():
    from warmeng.engine.engine import Engine
    from warmeng.finetune.conversations import load_dataset
    from warmeng.study.adapters import apply_adapters

    engine = Engine.load("smollm2-135m-instruct")
    for name in ("warm", "cold"):
        data = json.loads((parse_persona(name).changes[0].source / "warmeng.json").read_text())["data"]
        # They were trained on the texts as these are now.
        now = load_dataset(data["source"], engine.tokenizer, engine.config.stop_token_ids, 1024)
        assert (now.sha256, now.tokens) == (data["sha256"], data["tokens"])
    applied = apply_adapters(engine, load_personas(["original", "warm", "cold"]))
    assert set(applied) == {"warm", "cold"}
    assert all(found.probe > 0.1 for found in applied.values())
    assert applied["warm"].hash != applied["cold"].hash


@pytest.mark.parametrize("name", [field.name for field in fields(StudySettings)])
def test_a_setting_of_another_type_is_refused_by_its_name(name):
    for value in (None, [], {}, "", "x", "openai:x", 3, -1, 3.5, float("nan"), True, ["a"], [3], [None], [["a"]], b"x"):
        with suppress(UsageError, InputError):
            StudySettings(**{name: value})


def test_of_a_trainings_folder_the_last_checkpoint_is_taken_and_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for epoch in ("epoch-0.5", "epoch-2", "epoch-10"):
        (tmp_path / "out" / "warm" / epoch).mkdir(parents=True)
        (tmp_path / "out" / "warm" / epoch / "adapter_config.json").touch()
    for folder in ("out/warm", "out"):
        specs = ("original", f"warm={folder}", "warm_x2=warm*2", "mine=out/warm/epoch-2")
        personas = load_personas(specs)
        assert [str(change.source) for change in personas[1].changes] == ["out/warm/epoch-10"]
        assert remarks(personas, specs) == [
            "persona warm: of the training its last checkpoint is taken, out/warm/epoch-10"
        ]
    assert remarks(load_personas(["warm-prompt"]), ["warm-prompt"]) == [
        "persona warm-prompt is alone: nothing is compared; add --persona original"
    ]
