"""Question files as spreadsheets, pandas and R write them: each is read, or refused by one line with a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warmeng.common.errors import InputError
from warmeng.study.tasks.registry import load_task
from warmeng.study.tasks.task import Item

ROWS: list[dict[str, Any]] = [
    {"id": "a", "question": "Which city is France's capital; or seat?", "answer": "Paris", "wrong": "Lyon",
     "aliases": ["Paris, France", "the \"City\" of Paris"]},
    {"id": "b", "question": "Wo wird\n\"Züri\" geschrieben?", "answer": "Zürich", "wrong": None, "aliases": []},
]  # fmt: skip
MEANT = [
    Item("a", ROWS[0]["question"], "Paris", "Lyon", tuple(ROWS[0]["aliases"])),
    Item("b", ROWS[1]["question"], "Zürich", "", ()),
]


@pytest.fixture(scope="module")
def frame() -> Any:
    return pytest.importorskip("pandas").DataFrame(ROWS)


def joined(frame: Any) -> Any:
    """The lists as the documents have them."""
    return frame.assign(aliases=frame.aliases.map("|".join))


WRITERS: dict[str, Callable[[Any, Path], Any]] = {
    "with its index": lambda frame, path: joined(frame).to_csv(path),
    "an index twice": lambda frame, path: (
        joined(frame).rename(columns={"x": ""}).to_csv(path, index_label="Unnamed: 0")
    ),
    "a shuffled index": lambda frame, path: joined(frame).set_axis([7, 3]).to_csv(path),
    "lists as Python writes them": lambda frame, path: frame.to_csv(path, index=False),
    "lists as JSON": lambda frame, path: frame.assign(aliases=frame.aliases.map(json.dumps)).to_csv(path, index=False),
    "semicolons": lambda frame, path: joined(frame).to_csv(path, index=False, sep=";"),
    "tabs": lambda frame, path: joined(frame).to_csv(path, index=False, sep="\t"),
    "Excel's Unicode text": lambda frame, path: joined(frame).to_csv(path, index=False, sep="\t", encoding="utf-16"),
    "a byte order mark": lambda frame, path: joined(frame).to_csv(path, index=False, encoding="utf-8-sig"),
    "R's row names": lambda frame, path: joined(frame).set_axis([1, 2]).to_csv(path, quoting=2),
    "Excel's separator line": lambda frame, path: path.write_text(
        "sep=;\n" + joined(frame).to_csv(index=False, sep=";")
    ),
}
JSON: dict[str, Callable[[Any, Path], Any]] = {
    "lines": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "an array": lambda frame, path: frame.to_json(path, orient="records"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_means_what_its_writer_meant(frame: Any, tmp_path: Path, name: str) -> None:
    WRITERS[name](frame, tmp_path / "capitals.csv")
    task = load_task(tmp_path / "capitals.csv")
    assert (task.layout, sorted(task.items, key=lambda item: item.id)) == ("own", MEANT)


@pytest.mark.parametrize("name", JSON)
def test_nulls_of_json_are_not_there(frame: Any, tmp_path: Path, name: str) -> None:
    JSON[name](frame, tmp_path / "capitals.json")
    assert sorted(load_task(tmp_path / "capitals.json").items, key=lambda item: item.id) == MEANT


def test_parquet_with_nulls_and_lists(frame: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame.set_index("id").to_parquet(tmp_path / "capitals.parquet")
    assert sorted(load_task(tmp_path / "capitals.parquet").items, key=lambda item: item.id) == MEANT


def test_ids_are_made_of_the_content_and_numbers_are_ids(tmp_path: Path) -> None:
    lines = [
        {"question": "Q?", "answer": "yes"},
        {"question": "Q?", "answer": "no"},
        {"question": "Q?", "answer": "yes"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[1:]))
    ids = {item.answer + item.id[12:]: item.id for item in load_task(tmp_path / "a.jsonl").items}
    assert len(set(ids.values())) == 3
    assert ids["yes-2"] == f"{ids['yes']}-2"
    # The other items of a file have no part in an item's id.
    assert {item.id for item in load_task(tmp_path / "b.jsonl").items} == {ids["yes"], ids["no"]}
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": 7, **lines[0]}))
    assert load_task(tmp_path / "c.jsonl").items[0].id == "7"


REFUSED = {
    "caps.csv": (b"Question,Answer\nQ?,yes\n", "rename 'Answer' to answer, 'Question' to question"),
    "columns.json": (b'{"question":{"0":"Q?","1":"P?"},"answer":{"0":"a","1":"b"}}', "orient='records'"),
    "split.json": (b'{"columns":["question"],"index":[0],"data":[["Q?"]]}', "orient='records'"),
    "wrapped.json": (b'{"rows":[{"question":"Q?","answer":"a"}]}', "write the list in 'rows' alone"),
    "numpy.csv": (
        b"question,answer,aliases\nQ?,yes,['a' 'b']\n",
        r":2: 'aliases' is .* expected texts with \| between",
    ),
    "missing.csv": (b"question,answer,wrong\nQ?,yes,NA\n", ":2: 'wrong' is 'NA', .* leave the cell empty"),
    "some.csv": (b"question,answer\nQ?,yes\nP?,nan\n", ":3: 'answer' is 'nan'"),
    "comma.csv": (b"question,answer\nWho, and when?,yes\n", ":2: has 3 fields, expected 2: quote a cell"),
    "names.csv": (b",question,answer\nrow one,Q?,yes\n", ":2: the first column has no name and holds 'row one'"),
    "twice.csv": (b"question,answer,answer\nQ?,yes,no\n", ":1: the column 'answer' is there twice"),
    "latin.csv": ("question,answer\nQ?,Zürich\n".encode("cp1252"), ":2: byte 20 is not UTF-8: save the file as UTF-8"),
    "book.xlsx": (b"PK\x03\x04\x14\x00\x06\x00\xff\xfe\x99\n", "Excel's workbooks are: save it as CSV"),
    "book.csv": (b"PK\x03\x04\x14\x00\x06\x00\xff\xfe\x99\n", "Excel's workbooks are: save it as CSV"),
    "lines.jsonl": ('{"question":"Q?","answer":"a"}'.encode("utf-16"), "is UTF-16: save the file as UTF-8"),
    "torn.csv": ("question,answer\nQ?,a".encode("utf-16")[:-1], "is not UTF-16"),
    "half.jsonl": (
        b'{"id":"x","question":"Q?","answer":"a"}\n{"question":"P?","answer":"a"}',
        ":2: has no id, line 1 has",
    ),
    "other.csv": (b"text,label\nQ?,yes\n", r":1: has \['label', 'text'\], which no layout has: name them question"),
    "extra.csv": (b"question,answer,note\nQ?,yes,x\n", ":2: unknown key 'note', .* rename it or leave it out"),
    "float.jsonl": (b'{"id":1.0,"question":"Q?","answer":"a"}', ":1: 'id' is 1.0, expected text"),
    "null.jsonl": (b'{"question":"Q?","answer":null}', ":1: has no answer, expected text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    content, words = REFUSED[name]
    Path(name).write_bytes(content)
    with pytest.raises(InputError, match=words) as refused:
        load_task(Path(name))
    message = str(refused.value)
    assert message.startswith(name)
    assert "\n" not in message
    assert len(message) <= 200
