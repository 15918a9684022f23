"""MedQA's US questions: ``question``, ``answer``, ``options`` (letter to text), ``answer_idx``.

The question is the vignette told of a relative (``vignette.py``), the exam's own is kept as ``original``. The wrong
answer is one of the wrong options, by a fixed hash of the question; the rest are ``others``, in the file's order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from warmeng.common.errors import InputError, show
from warmeng.study.tasks.rows import read_rows, text
from warmeng.study.tasks.task import UNCONVERTED, Item, distinct
from warmeng.study.tasks.vignette import convert


def read(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield (line, item); ``InputError`` with file and line."""
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        options = row.get("options")
        if not isinstance(options, dict) or not all(isinstance(v, str) and v.strip() for v in options.values()):
            raise InputError(f"{where}: 'options' is {show(options)}, expected an object from letters to texts")
        answer = text(row, "answer", where).strip()
        letter = row.get("answer_idx")
        if not isinstance(letter, str) or letter not in options or options[letter].strip() != answer:
            raise InputError(f"{where}: 'answer_idx' is {show(letter)}, expected the letter of 'answer'")
        wrong = list(distinct((o.strip() for o in options.values()), answer))
        if not wrong:
            raise InputError(f"{where}: no option differs from the answer: nothing could be claimed")
        exam = text(row, "question", where).strip()
        chosen = wrong.pop(int.from_bytes(hashlib.sha256(f"wrong\0{exam}".encode()).digest()[:8], "big") % len(wrong))
        told = convert(exam.removesuffix('"') if exam.count('"') % 2 else exam)  # some end in a quote never opened
        yield (
            line,
            Item(
                "",
                told.text or exam,
                answer,
                chosen,
                others=tuple(wrong),
                original=exam,
                marks=() if told.text else (UNCONVERTED,),
            ),
        )
