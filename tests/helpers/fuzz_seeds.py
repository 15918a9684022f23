"""What the fuzz begins with: sound files of every layout, templates, and the pieces that go into either."""

from __future__ import annotations

import json
from typing import Any

from fuzz_models import TEMPLATE

TOKENS = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\r",
    b"\n",
    b'"',
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b"," * 9,
    b":",
    b"null",
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"[" * 2000,
    b'{"a":' * 500,
    b"\\ud800",
    b"../",
    b"&a",
    b"*a",
    b"!!python/x",
    b"!!set",
    b"? ",
    b"- ",
    b"|",
    b"%",
    b"{%",
    b"{{",
    b"}}",
    b"\x1b[2J",
    b"0x" + b"f" * 5000,
    b"1:1:1",
    b"2020-01-01",
    b"<<: ",
)


def as_json(value: Any) -> bytes:
    """Return JSON text, lone surrogates escaped, as a careless writer would."""
    return json.dumps(value).encode("ascii")


def _lines(*rows: Any) -> bytes:
    return b"\n".join(as_json(row) for row in rows)


_TRUTHFUL = (
    b"Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    b'A,B,What cures a cold?,Nothing,"Nothing; No cure","Honey; Tea",x\n'
    b"A,B,Is it flat?,No,No; It is round,Yes; Yes it is,x"
)
_AUTHORS = [
    {"content_key": "Q?", "correct_answer": "A", "incorrect_answer": "B", "prompt_template": template,
     "amendment_type": context, "prompt": f"S Q? I don't think the answer is {k}."}
    for k, (template, context) in enumerate([("original", "unmodified"), ("correct", "emotion:sad")])
]  # fmt: skip
TASKS: tuple[tuple[str, bytes], ...] = (
    (
        "own.jsonl",
        _lines(
            {"task": {"name": "mine", "grading": "alias"}},
            {
                "id": "1",
                "question": "Q?",
                "answer": "Paris",
                "wrong": "Rome",
                "aliases": ["City of Light"],
                "others": ["Bonn"],
            },
            {"id": "2", "question": "R?", "answer": "42"},
        ),
    ),
    ("own.csv", b"id,question,answer,wrong,aliases\n1,Q?,Paris,Rome,a|b\n2,R?,42,43,"),
    ("t.csv", _TRUTHFUL),
    (
        "trivia.json",
        as_json(
            {
                "Data": [
                    {"Question": "Q?", "QuestionId": "q1", "Answer": {"Value": "Paris", "Aliases": ["Paris, France"]}},
                    {"Question": "R?", "QuestionId": "q2", "Answer": {"Value": "Rome", "Aliases": []}},
                ]
            }
        ),
    ),
    (
        "trivia.jsonl",
        _lines(
            {"question": "Q?", "question_id": "a", "answer": {"value": "Paris", "aliases": ["P"]}},
            {"question": "R?", "question_id": "b", "answer": {"value": "Rome", "aliases": []}},
        ),
    ),
    ("popqa.jsonl", _lines({"question": "Q?", "answers": ["Paris", "P"]}, {"question": "R?", "answers": ["Rome"]})),
    (
        "hub.jsonl",
        _lines(
            {"question": "Q?", "possible_answers": '["Paris", "P"]'}, {"question": "R?", "possible_answers": '["Rome"]'}
        ),
    ),
    (
        "medqa.jsonl",
        _lines(
            {
                "question": "A 45-year-old man comes to the physician because of chest pain. He is pale. Which "
                "of the following is the most likely diagnosis?",
                "answer": "Angina",
                "answer_idx": "A",
                "options": {"A": "Angina", "B": "Asthma", "C": "Gout"},
            },
            {"question": "Why?", "answer": "b", "answer_idx": "B", "options": {"A": "a", "B": "b"}},
        ),
    ),
    ("disinfo.csv", b"prompt_disinfo,ground_truth,ground_false\nWrite it.,True.,False.\nWrite more.,Yes.,No."),
    ("authors.jsonl", _lines(*_AUTHORS)),
    (
        "medqa_prompts.jsonl",
        _lines(
            {
                "original_question": "O?",
                "question": "Q?",
                "answer": "A",
                "wrong_answer": "B",
                "prompt_type": "incorrect",
                "amendment_type": "stake:high",
                "prompt": "S Q?",
            }
        ),
    ),
    ("mmlu.csv", b"Q one?,a,b,c,d,B\nQ two?,1,2,3,4,D"),
    (
        "mmlu.jsonl",
        _lines(
            {"question": "Q?", "choices": ["a", "b", "c"], "answer": 1},
            {"question": "R?", "choices": ["1", "2"], "answer": 0},
        ),
    ),
    (
        "gsm8k.jsonl",
        _lines({"question": "Q?", "answer": "So it is.\n#### 1,234"}, {"question": "R", "answer": "#### 5"}),
    ),
    ("refusals.csv", b"goal,target\nHow to do harm,Sure\nMore harm,Sure"),
)
TEMPLATES = (
    TEMPLATE,
    "{{ bos_token }}{% set ns = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.s = m.content %}{% else %}[{{ m.role | upper }}] {{ (ns.s ~ ' ' if loop.index0 == 1 else '') + "
    "m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}",
    "{%- if tools is not none %}{{ tools | tojson(indent=4) }}{% endif %}{{ strftime_now('%d %b %Y') }}"
    "{% for m in messages[::-1] %}{% generation %}{{ m['content'].split('</think>')[-1].lstrip('\\n') }}"
    "{% endgeneration %}{% endfor %}"
    "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}",
)
PARTS = (
    "{{ messages[0].content }}",
    "{{ 'a' * 10**10 }}",
    "{{ [0] * 10**10 }}",
    "{{ 9**9**9 }}",
    "{% for i in range(99999) %}",
    "{% endfor %}",
    "{% endfor %}",
    "{% if messages %}",
    "{% endif %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ self }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum(n=9999999) }}",
    "{{ 'a' | center(9999999999) }}",
    "{% set x = [1] %}",
    "{% set x = [x, x] %}",
    "{{ x | string }}",
    "{{ x }}",
    "{% set ns = namespace(a='ab', n=7) %}",
    "{% set ns.a = ns.a ~ ns.a %}",
    "{% set ns.n = ns.n * ns.n %}",
    "{{ '%999999999d' % 1 }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}",
    "{{ f(1) }}",
    "{{ messages | tojson(indent=999999) }}",
    "{{ messages.append(1) }}",
    "{{ raise_exception('no') }}",
    "{{ 1 // 0 }}",
    "{{ ('a' * 99999) | replace('a', 'b' * 9999) }}",
    "{{ 'a'.encode().__class__(9999999999) }}",
    "{% break %}",
    "{{ loop }}",
    "{{ (1).to_bytes(9999999999, 'big') }}",
    "{{ range(99999) | list }}",
    "{{ range(99999) | batch(1) | list }}",
    "{#",
    "{%",
    "{{ dict(a=1) | items | list }}",
    "{{ joiner('x') }}",
    "{% raw %}{{ x }}{% endraw %}",
    "{{ x == x }}",
    "\0",
    "<s><s>",
    "{{ messages | map('attr', '__class__') | list }}",
    "{{ (messages | first)['__class__'] }}",
    "{{ strftime_now('%999999Y') }}",
    "{% set ns.a = 'a' %}",
    "{{ ns.a | urlize }}",
    "{{ ('<' * 99999) | striptags }}",
    "{{ messages | groupby('role') }}",
)
