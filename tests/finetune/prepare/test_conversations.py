"""Reading of conversations: what is taken, what is left out and counted, and what is an error with file and line."""

from __future__ import annotations

import json

import pytest

from warmeng.common.errors import InputError
from warmeng.finetune.prepare.conversations import read_conversations


def talk(*texts, first="human"):
    """A ShareGPT conversation that begins with ``first``."""
    roles = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [{"from": roles[k % 2], "value": text} for k, text in enumerate(texts)]


def chat(*texts):
    roles = ["user", "assistant"]
    return {"messages": [{"role": roles[k % 2], "content": text} for k, text in enumerate(texts)]}


def write(path, rows, array=False):
    lines = [json.dumps(row) for row in rows]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n" if array else "\n".join(lines) + "\n")
    return path


def read(*paths, form="auto", prompt="prompt", response="response", turns=20):
    return read_conversations(paths, form, prompt, response, turns)


def test_sharegpt_keeps_file_line_identifier_and_turn(tmp_path):
    rows = [
        {"id": "a_1", "conversations": talk("hi", "hello", "how?", "so")},
        {"id": 7, "conversations": talk("x", "y")},
    ]
    found = read(write(tmp_path / "s.json", rows, array=True)).conversations
    assert [(c.origin.file, c.origin.line, c.origin.name) for c in found] == [("s.json", 2, "a_1"), ("s.json", 3, "7")]
    assert [(e.user, e.response, e.turn) for e in found[0].exchanges] == [("hi", "hello", 1), ("how?", "so", 3)]


def test_an_indented_array_has_the_lines_of_its_conversations(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps([{"conversations": talk("a", "b")}, {"conversations": talk("c", "d")}], indent=1))
    lines = path.read_text().split("\n")
    assert [lines[c.origin.line - 1].strip() for c in read(path).conversations] == ["{", "{"]
    assert len({c.origin.line for c in read(path).conversations}) == 2


def test_openai_chats_keep_their_system_message_and_text_parts(tmp_path):
    row = chat("a", "b")
    row["messages"].insert(0, {"role": "system", "content": "Be brief."})
    row["messages"][1]["content"] = [{"type": "text", "text": "a"}, {"type": "text", "text": "!"}]
    (found,) = read(write(tmp_path / "c.jsonl", [row])).conversations
    assert (found.system, found.exchanges[0].user, found.exchanges[0].turn) == ("Be brief.", "a!", 2)


def test_pairs_have_their_columns_chosen(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": "good", "rejected": "bad"}])
    assert read(path, response="rejected").conversations[0].exchanges[0].response == "bad"
    with pytest.raises(InputError, match=r"p.jsonl:1: has chosen, prompt, rejected, expected the column 'response'"):
        read(path)


def test_the_rest_after_the_last_turn_is_cut(tmp_path):
    path = write(tmp_path / "c.jsonl", [chat(*map(str, range(23))), chat("a", "b")])
    found = read(path)
    assert [len(c.exchanges) for c in found.conversations] == [10, 1]
    assert found.shortened == 1


def test_a_conversation_from_the_middle_begins_at_the_first_question(tmp_path):
    (found,) = read(write(tmp_path / "s.jsonl", [{"conversations": talk("x", "q", "a", first="gpt")}])).conversations
    assert [(e.user, e.turn) for e in found.exchanges] == [("q", 2)]


def test_what_follows_an_empty_message_is_left_out(tmp_path):
    (found,) = read(write(tmp_path / "s.jsonl", [{"conversations": talk("q", "a", "r", " ", "s", "b")}])).conversations
    assert [e.user for e in found.exchanges] == ["q"]


def test_unusable_conversations_are_counted_by_cause_with_the_first_named(tmp_path):
    rows = [
        chat("q", "a"), chat("only a question"), {"id": "e", "messages": []}, chat(" Q ", "b"),
        {"messages": [{"role": "tool", "content": "x"}]}, {"messages": [{"role": "user", "content": None}]},
    ]  # fmt: skip
    found = read(write(tmp_path / "c.jsonl", rows))
    assert found.total == 6
    assert len(found.conversations) == 1
    assert found.dropped == {"no response": 2, "duplicate prompt": 1, "other roles": 1, "not text": 1}
    assert found.first["no response"] == "c.jsonl:2"


def test_nothing_usable_is_an_error_that_says_why(tmp_path):
    with pytest.raises(InputError, match=r"no usable conversation.*1 no response \(first: c.jsonl:1\)"):
        read(write(tmp_path / "c.jsonl", [chat("q")]))
    (tmp_path / "e.jsonl").write_text("")
    with pytest.raises(InputError, match="there are none at all"):
        read(tmp_path / "e.jsonl")


GOOD = json.dumps(chat("q", "a"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{GOOD}\n\n{{broken\n", r"f:3: is not valid JSON"),
        (f"{GOOD}\n{GOOD[:-5]}", r"f:2: is not valid JSON"),
        (f"{GOOD} {GOOD}\n", r"f:1: has more than one object on the line"),
        (f"{GOOD}\n[1]\n", r"f:2: is a JSON list"),
        (f"[{GOOD},\n{GOOD}", r"f:2: .*is it cut off"),
        (f"[{GOOD}] {GOOD}", r"f:1: expected the list's '\]'"),
        (f"[{GOOD}\n{GOOD}]", r"f:2: the list goes on without a comma"),
        (f"[\n{GOOD},\n7]", r"f:3: is a JSON int"),
        ('{"text": "a"}', r"f:1: has text, expected conversations \(ShareGPT\)"),
        ('{"messages": {"a": 1}}', r"f:1: messages is .*expected a list"),
        ('\n{"messages": [{"role": "user"}]}', r"f:2: message 0 is .*expected an object with role and content"),
        ('{"conversations": ["a"]}', r"f:1: message 0 is 'a'"),
        ('{"messages": [], "messages": []}', r"f:1: .*given twice"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', r"f:1: has a lone surrogate"),
        ("[" * 100000, r"f:1: is nested too deeply"),
    ],
)
def test_bad_files_are_errors_with_file_and_line(tmp_path, text, message):
    (tmp_path / "f").write_text(text)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "f")


def test_missing_and_misencoded_files_are_errors(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        read(tmp_path / "none.json")
    (tmp_path / "f").write_bytes(b'{"messages": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8"):
        read(tmp_path / "f")


def test_the_identity_is_the_content(tmp_path):
    one, two = (read(write(tmp_path / n, rows)).conversations for n, rows in (
        ("a", [chat("q", "a"), chat("r", "b")]), ("b", [chat("r", "b"), chat("q", "c")]),
    ))  # fmt: skip
    assert one[1].id == two[0].id
    assert one[0].id != two[1].id
