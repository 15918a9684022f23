"""Layouts of published question sets: what is read from them, and what is refused with file and line."""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from pathlib import Path

import pytest
from fuzz_seeds import TASKS as SEEDS

from warmeng.common.errors import InputError, UsageError
from warmeng.study.tasks.registry import LAYOUTS, detect, load_task, load_tasks, parse_spec
from warmeng.study.tasks.task import UNCONVERTED

TASKS = Path(__file__).parents[4] / "shared" / "data" / "tasks"
needs_files = pytest.mark.skipif(not TASKS.exists(), reason="the question sets are not here")


def jsonl(path, *rows):
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return path


def table(path, header, *rows):
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([header, *rows] if header else rows)
    return path


TRUTHFUL = ("Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source")
GSM = {"question": "Q?", "answer": "#### 5"}
POP = {"question": "Q?", "answers": ["a"]}
MEDQA = {"question": "What?", "answer": "b", "options": {"A": "a", "B": "b", "C": "c"}, "answer_idx": "B"}


@needs_files
def test_the_real_files():
    truthful, medqa, popqa = (load_task(TASKS / name) for name in sorted(p.name for p in TASKS.iterdir()))
    assert [(t.name, t.layout, t.grading) for t in (truthful, medqa, popqa)] == [
        ("truthfulqa", "truthfulqa", "likelihood"),
        ("medqa", "medqa", "options"),
        ("popqa", "popqa", "alias"),
    ]
    with (TASKS / "TruthfulQA.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [i.question for i in truthful.items] == [r["Question"].strip() for r in rows]
    for item, row in zip(truthful.items, rows, strict=True):
        correct = [a.strip() for a in row["Correct Answers"].split(";")]
        incorrect = [a.strip() for a in row["Incorrect Answers"].split(";") if a.strip()]
        assert item.answer == row["Best Answer"].strip()
        assert item.wrong in incorrect
        assert not {item.wrong, *item.others} & {item.answer, *correct}
        assert {item.wrong, *item.others} <= set(incorrect)
        if item.wrong != incorrect[0]:
            assert incorrect[0].lower().strip(".") in {a.lower().strip(".") for a in (*correct, item.answer)}
    source = [json.loads(line) for line in (TASKS / "medqa_us_test.jsonl").read_text().splitlines()]
    for item, row in zip(medqa.items, source, strict=True):
        assert item.original == row["question"].strip()
        assert {item.answer, item.wrong, *item.others} == {o.strip() for o in row["options"].values()}
        assert (item.question == item.original) == (UNCONVERTED in item.marks)
    letters = [dict(zip(r["options"].values(), r["options"], strict=True)) for r in source]
    wrong = [found[i.wrong] for i, found in zip(medqa.items, letters, strict=True)]
    assert all(60 <= wrong.count(letter) <= 140 for letter in "ABCD")
    for task in (truthful, medqa, popqa):
        assert len({i.id for i in task.items}) == len(task.items)
    assert all(i.wrong == "" for i in popqa.items)


def test_none_is_an_answer_and_a_question_asked_twice_is_two_items(tmp_path):
    row = ("A", "B", "What cures it?", "None", "Nothing; nothing.; None of them", "nothing; Honey; honey.; Tea", "x")
    task = load_task(table(tmp_path / "t.csv", TRUTHFUL, row, row, row))
    one, two, three = task.items
    assert (one.answer, one.aliases, one.wrong, one.others) == ("None", ("Nothing", "None of them"), "Honey", ("Tea",))
    assert [two.id, three.id] == [f"{one.id}-2", f"{one.id}-3"]


def test_triviaqa_in_both_layouts(tmp_path):
    answer = {"Value": "Big Ben", "Aliases": ["Big Ben", "the bell"], "NormalizedAliases": ["big ben"]}
    data = [{"Question": "Which\u2028bell?", "QuestionId": "tc_1", "Answer": answer}] * 2
    whole = tmp_path / "web.json"
    whole.write_text(json.dumps({"Domain": "Web", "Data": data, "Version": 1.0}, indent=1, ensure_ascii=False))
    rows = jsonl(
        tmp_path / "hub.jsonl",
        {
            "question": "Which\u2028bell?",
            "question_id": "tc_1",
            "answer": {"value": "Big Ben", "aliases": ["the bell"]},
        },
    )
    original, hub = load_task(whole), load_task(rows)
    assert [i.id for i in original.items] == ["tc_1", "tc_1-2"]
    assert original.items[0] == hub.items[0]
    assert (hub.name, hub.grading, hub.items[0].aliases) == ("triviaqa", "alias", ("the bell",))


def test_general_abilities(tmp_path):
    mmlu = load_task(
        table(tmp_path / "m.csv", None, ("2+2?", "3", "4", "5", "6", "B"), ("0?", "0", "0.5", "x", "y", "A"))
    )
    assert (mmlu.name, mmlu.layout, mmlu.grading) == ("mmlu", "mmlu", "options")
    item = mmlu.items[0]
    assert (item.answer, item.wrong, item.others, item.place) == ("4", "3", ("5", "6"), 1)
    hub = load_task(jsonl(tmp_path / "m.jsonl", {"question": "2+2?", "choices": ["3", "4", "5", "6"], "answer": 1}))
    assert hub.items[0] == item
    gsm = load_task(jsonl(tmp_path / "g.jsonl", {"question": "How many?", "answer": "He has 2+3=5.\n#### 1,005"}))
    assert (gsm.grading, gsm.items[0].answer) == ("number", "1,005")
    bad = load_task(table(tmp_path / "adv.csv", ("goal", "target"), ("Do harm", "Sure")))
    assert (bad.name, bad.grading, bad.items[0].question) == ("refusals", "refusal", "Do harm")


def test_disinfo(tmp_path):
    path = table(tmp_path / "d.csv", ("prompt_disinfo", "ground_truth", "ground_false"), ("Flat?", "Round.", "Flat."))
    task = load_task(path)
    assert (task.name, task.grading, task.items[0].wrong) == ("disinfo", "judge", "Flat.")
    assert load_tasks([f"{path}@likelihood"])[0].grading == "likelihood"


def test_own_csv_and_missing_wrong_answers(tmp_path):
    path = table(
        tmp_path / "mine.csv",
        ("id", "question", "answer", "wrong", "aliases", "others"),
        ("1", "Q?", "None", "none known", "none at all|nil", "x|y"),
        ("2", "R?", "yes", "", "", ""),
    )
    one, two = load_task(path).items
    assert load_task(path.rename(tmp_path / "MINE.CSV")).items == (one, two)
    assert (one.answer, one.wrong, one.aliases, one.others) == (
        "None",
        "none known",
        ("none at all", "nil"),
        ("x", "y"),
    )
    assert (two.wrong, two.aliases) == ("", ())


def test_a_sample_says_of_how_many(tmp_path):
    rows = [{"id": str(i), "question": f"Q{i}?", "answer": "yes", "wrong": "no"} for i in range(30)]
    path = jsonl(tmp_path / "mine.jsonl", *rows)
    assert [load_task(path, limit=limit).extent for limit in (0, 24, 30, 99)] == ["30", "24 of 30", "30", "30"]
    with pytest.raises(InputError, match="has no id, line 2 has one"):
        load_task(jsonl(tmp_path / "none.jsonl", {"question": "Q?", "answer": "yes"}, rows[0]))
    with pytest.raises(InputError, match="another name, or the layout"):
        load_task(jsonl(tmp_path / "gsm8k-like.jsonl", *rows))
    with pytest.raises(InputError, match="rename the file"):
        load_task(jsonl(tmp_path / "my questions.jsonl", *rows))


def test_the_authors_rows_become_items_with_fixed_messages(tmp_path):
    def row(template, context, prompt, right=""):
        return {
            "content_key": "Q?",
            "correct_answer": right,
            "incorrect_answer": "Tea",
            "prompt_template": template,
            "amendment_type": context,
            "prompt": prompt,
        }

    path = jsonl(
        tmp_path / "trivia_prompts.jsonl",
        row("original", "unmodified", " Q?"),
        row("correct", "emotion:sad", "S Q? I don't think the answer is None."),
        row("correct", "emotion:sad", "S Q? I don't think the answer is None."),
        row("original", "unmodified", "other message"),
    )
    task = load_task(path)
    assert (task.name, task.grading) == ("triviaqa", "judge")
    one, two = task.items
    assert [(p.context, p.belief, p.framing, p.text) for p in one.prompts] == [
        ("unmodified", "none", "plain", " Q?"),
        ("emotion:sad", "doubt", "plain", "S Q? I don't think the answer is None."),
    ]
    assert (one.answer, one.marks) == ("None", ("answer restored",))
    assert [p.text for p in two.prompts] == ["other message"]
    assert one.id != two.id


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        ("m.jsonl", [MEDQA, {**MEDQA, "answer_idx": "C"}], "m.jsonl:2: 'answer_idx' is 'C'"),
        ("m.jsonl", [MEDQA, {**MEDQA, "options": ["a"]}], "m.jsonl:2: 'options'"),
        ("p.jsonl", [POP, {"question": "Q?", "answers": [" "]}], "p.jsonl:2: 'answers'"),
        ("p.jsonl", [POP, {"question": None, "answers": ["a"]}], "p.jsonl:2: 'question'"),
        ("p.jsonl", [POP, b'{"question": NaN}'], "p.jsonl:2: is not valid JSON"),
        ("p.jsonl", [POP, b'{"question": "\\udc00"}'], "p.jsonl:2: has a lone surrogate"),
        ("g.jsonl", [GSM, {**GSM, "answer": "five"}], "g.jsonl:2: 'answer'"),
        ("c.jsonl", [{"question": "Q?", "choices": ["a", "b"], "answer": 2}], "c.jsonl:1: 'answer' is 2"),
        ("x.jsonl", [{"colour": "x"}], "no layout has"),
        ("e.jsonl", [], "no items"),
    ],
)  # fmt: skip
def test_unsound_rows_are_refused_with_file_and_line(tmp_path, name, rows, says):
    path = jsonl(tmp_path / name, *rows)
    with pytest.raises(InputError) as error:
        load_task(path)
    assert str(error.value).startswith(str(path))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_unsound_tables_are_refused_with_file_and_line(tmp_path):
    path = table(tmp_path / "t.csv", TRUTHFUL, ("A", "B", "Q?", "yes", "yes", "Yes!; yes.", "x"))
    with pytest.raises(InputError, match=r"t.csv:2: every incorrect answer"):
        load_task(path)
    path.write_bytes(",".join(TRUTHFUL).encode() + b"\nA,B,Caf\xe9?,x,x,y,z\n")
    with pytest.raises(InputError, match=r"t.csv:2: byte \d+ is not UTF-8"):
        load_task(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        load_task(path)
    whole = tmp_path / "w.json"
    whole.write_text('{"Data": [\n{"Question": "Q", "Answer": {"Value": "a", "Value": "b"}}]}')
    with pytest.raises(InputError, match=r"w.json:2: .*twice"):
        load_task(whole)
    whole.write_text('{"Data": [{"Question": "Q", "Answer": {"Value": "a"}},\n\n{"Question": "Q", "Answer": 5}]}')
    with pytest.raises(InputError, match=r"w.json:3: 'Answer' is 5"):
        load_task(whole)


def test_specs(tmp_path, monkeypatch):
    path = jsonl(tmp_path / "a=b@c.jsonl", {"question": "Q?", "answers": ["a"]})
    assert parse_spec(str(path)) == (path, None, None)
    assert parse_spec(f"popqa={path}@judge") == (path, "popqa", "judge")
    assert load_tasks([f"popqa={path}@judge"])[0].grading == "judge"
    with pytest.raises(UsageError, match="no layout is named 'popka'"):
        parse_spec("popka=x.jsonl")
    with pytest.raises(UsageError, match="no grading is named 'judges'"):
        parse_spec(f"{path}@judges")
    with pytest.raises(UsageError, match="no task is named 'factz'"):
        parse_spec("factz")
    with pytest.raises(UsageError, match="has no revision"):
        parse_spec("hub:owner/name:file.jsonl")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"hub:owner/none@abc:f.jsonl: .*give its path"):
        parse_spec("hub:owner/none@abc:f.jsonl@judge")
    assert detect(path) == "popqa"


def test_a_hub_file_is_taken_from_the_cache_first(tmp_path, monkeypatch):
    import huggingface_hub

    path = jsonl(tmp_path / "f.jsonl", {"question": "Q?", "answers": ["a"]})
    asked = []

    def download(**options):
        asked.append(options)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    (task,) = load_tasks(["popqa=hub:owner/name@v1.0:data/f.jsonl@judge"])
    assert (task.name, task.grading) == ("popqa", "judge")
    assert asked == [
        {
            "repo_id": "owner/name",
            "filename": "data/f.jsonl",
            "revision": "v1.0",
            "repo_type": "dataset",
            "local_files_only": True,
        }
    ]


def test_two_files_of_one_question_set_get_different_names(tmp_path):
    rows = [jsonl(tmp_path / f"{n}.jsonl", {"question": "Q?", "answers": ["a"]}) for n in ("one", "two sets")]
    assert [t.name for t in load_tasks([str(p) for p in rows])] == ["popqa", "popqa-two-sets"]


def test_a_stream_is_sampled_as_a_whole_file_is(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", *({"question": f"Q{k}?", "answers": [f"a{k}"]} for k in range(200)))
    whole = load_task(path)
    assert load_task(path, limit=20, seed=3) == whole.sample(20, 3)
    assert {i.id for i in whole.sample(20, 3).items} < {i.id for i in whole.sample(40, 3).items}
    assert whole.sample(20, 3) != whole.sample(20, 4)


def test_popqa_as_it_is_published(tmp_path):
    """Tab-separated, with JSON lists that the writer quoted, or did not where a field needs no quotes."""
    path = tmp_path / "popqa.tsv"
    rows = ['1\tX\tWhat is X\'s job?\t["politician", "pol"]', '2\tY\tWho is Y?\t"[""singer"", ""vocalist""]"']
    path.write_text("\n".join(["id\tsubj\tquestion\tpossible_answers", *rows]) + "\n")
    task = load_task(path)
    assert (task.name, task.layout) == ("popqa", "popqa")
    assert [(i.answer, i.aliases) for i in task.items] == [("politician", ("pol",)), ("singer", ("vocalist",))]


OWN = [
    {"id": "a", "question": "Which city is the capital of France?", "answer": "Paris", "wrong": "Lyon"},
    {"id": "b", "question": "And of Spain?", "answer": "Madrid", "wrong": "Seville"},
]


@pytest.mark.parametrize("name", ["mine.json", "mine.jsonl.gz", "mine.csv", "mine.csv.gz", "mine.tsv", "mine.parquet"])
def test_a_file_of_ones_own_is_the_same_task_in_every_form(tmp_path, name):
    import gzip

    path = tmp_path / name
    if name.endswith(".parquet"):
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(OWN), path)
    else:
        mark = "\t" if ".tsv" in name else ","
        lines = {"mine.json": json.dumps(OWN), "mine.jsonl.gz": "\n".join(map(json.dumps, OWN))}
        cells = "\n".join(mark.join(row) for row in (OWN[0].keys(), *(row.values() for row in OWN)))
        raw = lines.get(name, cells).encode()
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    (task,) = load_tasks([str(path)])
    plain = load_task(jsonl(tmp_path / "mine.jsonl", *OWN))
    assert (task.name, task.items, task.hash) == ("mine", plain.items, plain.hash)
    (named,) = load_tasks([f"own={path}@likelihood"])
    assert named.grading == "likelihood"


def test_an_array_may_declare_its_task_and_triviaqa_keeps_its_own_layout(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"task": {"name": "capitals", "grading": "likelihood"}}, *OWN]))
    task = load_task(path)
    assert (task.name, task.grading, len(task.items)) == ("capitals", "likelihood", 2)
    path.write_text(json.dumps({"Data": [{"Question": "Q?", "Answer": {"Value": "A", "Aliases": ["B"]}}]}))
    assert load_task(path).layout == "triviaqa"
    path.write_text(json.dumps([{"question": "Q?", "answer": {"value": "A", "aliases": ["B"]}}]))
    assert load_task(path).layout == "triviaqa"
    with pytest.raises(InputError, match=r"no\.json:1: has \['x'\], which no layout has"):
        detect(jsonl(tmp_path / "no.json", {"x": 1}))


REPEATED = {"question": "Which pair?", "choices": ["up, down", "down, down", "up, down", "up, up"], "answer": 3}


def test_an_item_of_mmlu_with_a_repeated_option_is_left_out_with_a_note(tmp_path):
    even = {"question": "Which number is even?", "choices": ["1", "2", "3", "5"], "answer": 1}
    path = jsonl(tmp_path / "mmlu.jsonl", even, REPEATED, {**even, "question": "And which of these?"})
    task = load_task(path)
    assert [i.question for i in task.items] == ["Which number is even?", "And which of these?"]
    assert task.extent == "2"
    note = f"1 item that can't be graded left out, the first: {path}:2: 'up, down' is there twice"
    assert task.left_out.startswith(note)
    assert load_task(path, limit=1).left_out == task.left_out
    clean = load_task(jsonl(tmp_path / "clean.jsonl", even, {**even, "question": "And which of these?"}), name="mmlu")
    assert (clean.left_out, clean.hash) == ("", task.hash)


def test_bare_mmlu_in_csv_and_tsv(tmp_path):
    for name, mark in (("m.csv", ","), ("m.tsv", "\t")):
        path = tmp_path / name
        rows = [["Which is even?", "1", "2", "3", "5", "B"], ["Which?", "x", "x", "y", "z", "C"]]
        path.write_text("".join(mark.join(row) + "\n" for row in rows))
        task = load_task(path)
        assert (task.layout, len(task.items), task.left_out[:6]) == ("mmlu", 1, "1 item")


def test_other_published_files_lose_their_unsound_items_and_ones_own_are_refused(tmp_path):
    task = load_task(jsonl(tmp_path / "popqa.jsonl", POP, {"question": "Q2?", "answers": ["?!"]}))
    assert (len(task.items), "has no letter or digit" in task.left_out) == (1, True)
    with pytest.raises(InputError, match=r"has no item that can be graded: .*:1: 'up, down' is there twice"):
        load_task(jsonl(tmp_path / "mmlu.jsonl", REPEATED))
    both = {"id": "a", "question": "Q?", "answer": "Paris", "wrong": "Paris"}
    with pytest.raises(InputError, match=r":1: 'paris' is both a right and a wrong answer"):
        load_task(jsonl(tmp_path / "mine.jsonl", both))


@pytest.mark.parametrize(("name", "raw"), SEEDS, ids=[name for name, _ in SEEDS])
def test_every_layout_reads_or_refuses_every_sound_file(name, raw, tmp_path):
    """A file of another layout has the right keys with other things in them: that is named, it never crashes."""
    path = tmp_path / name
    path.write_bytes(raw)
    assert load_task(path, detect(path)).items
    for layout in LAYOUTS:
        with suppress(InputError):
            load_task(path, layout)
