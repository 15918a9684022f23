"""Rows from every kind of file that people publish, and what a damaged one says."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from warmeng.common import files
from warmeng.common.errors import InputError
from warmeng.engine.tables import kind_of, read_rows, stem

ROWS = [{"id": "a", "question": 'Who said "no", and when?\tThen?'}, {"id": "b", "question": "Wer? Åse\nLind"}]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as the name of the file says, as the usual libraries do."""
    import csv
    import io

    name = path.name.removesuffix(".gz")
    text = io.StringIO(newline="")
    if name.endswith(".parquet"):
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), path)
        return path
    if name.endswith((".csv", ".tsv", ".tab")):
        writer = csv.DictWriter(text, list(rows[0]), delimiter="," if name.endswith(".csv") else "\t")
        writer.writeheader()
        writer.writerows(rows)
    elif name.startswith("array"):
        text.write(json.dumps(rows, indent=1))
    else:
        text.write("".join(json.dumps(row) + "\n" for row in rows))
    raw = text.getvalue().encode()
    path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    return path


NAMES = ["a.csv", "a.tsv", "a.tab", "a.jsonl", "a.ndjson", "a.json", "array.json", "array.jsonl", "a.parquet", "a.txt"]


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}.gz" for name in NAMES if name != "a.parquet")])
def test_the_same_rows_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    assert [row for _, row in read_rows(write(tmp_path / name, ROWS))] == ROWS


@pytest.mark.parametrize(
    ("name", "kind", "short"),
    [
        ("x.CSV", "csv", "x"), ("a.b.tsv.gz", "tsv", "a.b"), ("q.jsonl.gz", "json", "q"), ("q", "json", "q"),
        ("test-00000-of-00001.parquet", "parquet", "test-00000-of-00001"), (".csv", "csv", ".csv"),
    ],
)  # fmt: skip
def test_a_name_tells_the_kind(name: str, kind: str, short: str) -> None:
    assert (kind_of(Path(name)), stem(Path(name))) == (kind, short)


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\n[\n {"a": 1},\n\n {"a":\n  2}\n]\n')
    assert list(read_rows(path)) == [(3, {"a": 1}), (5, {"a": 2})]
    assert [number for number, _ in read_rows(write(tmp_path / "p.parquet", ROWS))] == [1, 2]


def test_lists_and_nulls_of_parquet(tmp_path: Path) -> None:
    rows = [{"a": ["x", "y"], "b": None, "c": {"d": "e"}}, {"a": [], "b": "NA", "c": None}]
    found = [row for _, row in read_rows(write(tmp_path / "a.parquet", rows))]
    assert found == [{"a": ["x", "y"], "c": {"d": "e"}}, {"a": [], "b": "NA"}]


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("a.json", b'[{"a": 1}', "at the end of the file|without a comma"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "without a comma"),
        ("a.json", b"[1]", ":1: is a JSON int, expected an object"),
        ("a.json", b'[{"a": 1, "a": 2}]', "is given twice"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz: can't be read .*take .gz off its name"),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], r"a\.csv\.gz: can't be read .*cut off"),
        ("a.jsonl", gzip.compress(b'{"a": 1}\n', mtime=0), r"compressed by gzip: add \.gz"),
        ("a.csv", gzip.compress(b"a,b\n1,2\n", mtime=0), r"compressed by gzip: add \.gz"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:30], r"a\.jsonl\.gz: can't be read"),
        ("a.tsv", b"a\tb\n1\n", ":2: has 1 fields, expected 2"),
        ("a.parquet", b"PAR1 and nothing else", r"a\.parquet"),
        ("a.parquet", b"", r"a\.parquet"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, raw: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=words) as error:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_small_file_that_unpacks_to_anything_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_UNPACKED", 1000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a\n" + b"1\n" * 10_000))
    with pytest.raises(InputError, match="holds more than 1000 bytes"):
        list(read_rows(tmp_path / "a.csv.gz"))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": "' + b"x" * 10_000 + b'"}'))
    with pytest.raises(InputError, match="not valid JSON"):
        list(read_rows(tmp_path / "a.jsonl.gz"))
