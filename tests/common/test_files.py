"""The one strict reader of JSON."""

from __future__ import annotations

import json
import time

import pytest

from warmeng.common.errors import InputError
from warmeng.common.files import parse_json, parse_json_at, parse_object, read_json


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "^here: is not valid JSON .key 'a' is given twice."),
        ('{"a": {"b": [{"c": 1, "c": 1}]}}', "key 'c' is given twice"),
        ("[NaN]", "NaN is not JSON"),
        ("-Infinity", "-Infinity is not JSON"),
        ('"\\ud83d"', "^here: has a lone surrogate"),
        ('{"\\uDE00": 1}', "has a lone surrogate"),
        ("[" * 200_000, "nested too deeply"),
        ("[1] 2", "Extra data"),
        ("9" * 5000, "is not valid JSON"),
        ("", "is not valid JSON"),
    ],
)
def test_what_is_no_strict_json_is_refused(text, says):
    with pytest.raises(InputError, match=says):
        parse_json(text, "here")
    if text != "[1] 2":
        with pytest.raises(InputError, match=says):
            parse_json_at(f"[{text}", 1, "here")


def test_what_is_json_is_read():
    text = ' {"a": ["\\ud83d\\ude00", "é\u2028", 1e3, null]}\n'
    assert parse_json(text, "here") == {"a": ["😀", "é\u2028", 1000.0, None]}
    assert parse_json_at('x{"a": 1}, "\\ud83d"', 1, "here") == ({"a": 1}, 9)  # what comes later is not looked at


def test_a_key_that_is_given_twice_among_many_is_found_at_once():
    text = json.dumps({str(k): k for k in range(200_000)})[:-1] + ', "199999": 1}'
    began = time.monotonic()
    with pytest.raises(InputError, match="'199999' is given twice"):
        parse_object(text.encode(), "here")
    assert time.monotonic() - began < 10  # one comparison with each other key would take minutes


def test_an_object_of_a_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    assert read_json(path, limit=8) == {"a": 1}
    for content, says in ((b"[1]", "JSON list"), (b"\xff", "byte 0 is not UTF-8"), (b'{"a": 10}', "more than 8 bytes")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=says):
            read_json(path, limit=8)
    with pytest.raises(InputError, match="can't be read"):
        read_json(tmp_path / "none.json")
