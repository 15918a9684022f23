"""One changed thing among many records: always found where all is compared, else as often as the sample promises."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine, number

from warmeng.common.errors import InputError
from warmeng.common.journal import encode
from warmeng.common.progress import Silent
from warmeng.engine.request import GenerateRequest, Result
from warmeng.study.results.records import FILE, read_records
from warmeng.study.run import audit as module
from warmeng.study.run.audit import SAMPLE, audit
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings
from warmeng.study.stats.analyze import analyze_run

# Of 139 questions, 10,008 answers and scores.
CELLS = {
    "contexts": ("unmodified", "emotion:sad", "emotion:happy"),
    "beliefs": ("none", "wrong", "right"),
    "asking": ("open", "choice"),
    "warmth_prompts": 0,
}
AUDIT = "warmeng.study.run.audit"
HEADER = "question,answer,wrong"
TURNED = {"correct": "incorrect", "incorrect": "correct"}


@dataclass
class QuickEngine(FakeEngine):
    """Answers in the order asked; right or wrong ones, so that grades matter."""

    def results(self, *_: object) -> Iterator[Result]:
        queue, self.queue = self.queue, []
        yield from map(self._result, queue)


def answer(prompt: str, request: GenerateRequest) -> str:
    return f"The answer is {'alpha' if number(prompt, request.noise_key) < 0.6 else 'omega'}."


@dataclass(frozen=True)
class Case:
    folder: Path
    engine: QuickEngine
    questions: Path
    weights: Path


@pytest.fixture
def case(fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., int]) -> Case:
    """A finished run with its analysis: an adapter beside the base, questions of a file."""
    weights = tmp_path / "warm" / "adapter_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(random.Random(1).randbytes(4096))
    questions = tmp_path / "letters.csv"
    # Short texts, so that a trial takes little.
    lines = [f"Which letter is in place {k} of the list?,alpha,omega" for k in range(count(20, 139))]
    questions.write_text("\n".join([HEADER, *lines]))
    engine = QuickEngine(answer=answer)
    for place in ("warmeng.study.run.run", AUDIT):
        monkeypatch.setattr(f"{place}.load_engine", lambda settings: engine)
    settings = StudySettings(
        personas=("original", f"warm={weights.parent}"), tasks=(str(questions),), limit=len(lines), **CELLS
    )
    run_study(settings, tmp_path / "run", Silent())
    analyze_run(tmp_path / "run", bootstrap=0)
    return Case(tmp_path / "run", engine, questions, weights)


def other_letter(rng: random.Random, text: str, at: int) -> str:
    """Return a text with another letter at a place."""
    letter = rng.choice([c for c in "abcdef" if c != text[at]])
    return text[:at] + letter + text[at + 1 :]


@contextmanager
def written(file: Path, content: bytes) -> Iterator[None]:
    """Give a file other content for a while."""
    was = file.read_bytes()
    file.write_bytes(content)
    yield
    file.write_bytes(was)


def other_byte(rng: random.Random, content: bytes) -> bytes:
    """Return a file's content with another byte, below its header and not one that parts its fields."""
    at = rng.choice([k for k, byte in enumerate(content) if byte not in b',\n"\r' and k > len(HEADER)])
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def other_grade(rng: random.Random, content: bytes) -> bytes:
    """Return records with the grade of one answer turned around."""
    lines = content.splitlines(keepends=True)
    record = json.loads(rng.choice([line for line in lines if json.loads(line).get("grade") in TURNED]))
    at = next(k for k, line in enumerate(lines) if json.loads(line)["key"] == record["key"])
    record.pop("crc32")
    lines[at] = encode(record | {"grade": TURNED[record["grade"]]})
    return b"".join(lines)


def other_cell(rng: random.Random, content: bytes) -> bytes:
    """Return tables with the last bit of one number changed, or a count by one."""
    whole = json.loads(content)
    rows = [row for table in whole["tables"].values() for row in table["rows"]]
    row, key = rng.choice([(row, key) for row in rows for key, v in row.items() if isinstance(v, (int, float))])
    row[key] = row[key] + 1 if isinstance(row[key], int) else math.nextafter(row[key], math.inf)
    return json.dumps(whole).encode()


def is_found(folder: Path, sample: int) -> bool:
    try:
        return bool(audit(folder, sample, Silent()).differences)
    except InputError:
        return True


@pytest.mark.slow
def test_one_changed_thing_is_found_wherever_it_is(case: Case, count: Callable[..., int]) -> None:
    """A byte of the weights or of the questions, a digit of the template's hash, a grade, the last bit of a cell."""
    rng, trials = random.Random(3), count(3, 40)
    found: dict[str, int] = {}
    assert not is_found(case.folder, 5)
    tokenizer = case.engine.tokenizer

    @contextmanager
    def other_template() -> Iterator[None]:
        was = tokenizer.template_hash
        tokenizer.template_hash = other_letter(rng, was, rng.randrange(len(was)))
        yield
        tokenizer.template_hash = was

    def change(file: Path, how: Callable[[random.Random, bytes], bytes]) -> AbstractContextManager[None]:
        return written(file, how(rng, file.read_bytes()))

    tables = [case.folder / name for name in ("results.json", "analysis.json")]
    # With the number of answers that are made again: grades and cells need no model.
    kinds: dict[str, tuple[Callable[[], AbstractContextManager[None]], int]] = {
        "weight": (lambda: change(case.weights, other_byte), 1),
        "template": (other_template, 1),
        "prompt": (lambda: change(case.questions, other_byte), 1),
        "grade": (lambda: change(case.folder / FILE, other_grade), 0),
        "cell": (lambda: change(rng.choice(tables), other_cell), 0),
    }
    for kind, (changed, sample) in kinds.items():
        found[kind] = 0
        for _ in range(trials):
            with changed():
                found[kind] += is_found(case.folder, sample)
    print(f"of {trials} each, among {len(list(read_records(case.folder / FILE)))} records: {found}")
    assert not is_found(case.folder, 5)
    assert found == dict.fromkeys(kinds, trials)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.01], ids=["one", "one percent"])
def test_changed_answers_are_found_as_often_as_promised(
    case: Case, monkeypatch: pytest.MonkeyPatch, count: Callable[..., int], share: float
) -> None:
    """One changed token or grade, or 1 % of all, whose tables and hashes were made anew: the sample alone finds them.

    One of n is in a sample of 459 in 459 / n of audits; 1 % are met in 99 %. The plan is made once for all audits.
    """
    rng, trials = random.Random(4), count(50, 300 if share else 1000)
    records = list(read_records(case.folder / FILE))
    n, changed = len(records), max(1, round(share * len(records)))
    forged: dict[int, dict[str, Any]] = {}

    def read(_: Path) -> Iterator[dict[str, Any]]:
        return (forged.get(k, record) for k, record in enumerate(records))

    kept: list[Any] = []
    prepare = module.prepare

    def prepared(*given: Any) -> Any:
        if not kept:
            kept.append(prepare(*given))
        return kept[0]

    monkeypatch.setattr(f"{AUDIT}.read_records", read)
    monkeypatch.setattr(f"{AUDIT}.prepare", prepared)
    monkeypatch.setattr(f"{AUDIT}.tables_again", lambda *given: [])
    monkeypatch.setattr(f"{AUDIT}.refuse_untied", lambda *given: None)
    assert not audit(case.folder, n, Silent()).differences
    hits, named = 0, 0
    for seed in range(trials):
        forged.clear()
        for k in rng.sample(range(n), changed):
            forged[k] = forge(rng, records[k])
        found = audit(case.folder, SAMPLE, Silent(), seed)
        hits += bool(found.differences)
        named += any(str(one["key"])[:12] in line for one in forged.values() for line in found.differences)
    unmet = 1.0
    for k in range(changed):
        unmet *= (n - min(SAMPLE, n) - k) / (n - k)
    promised = 1 - unmet
    print(f"{changed} changed of {n}: {hits} of {trials} found, promised {promised:.4f}")
    assert named == hits
    assert abs(hits - trials * promised) <= 4 * (trials * promised * (1 - promised)) ** 0.5 + 1
    if share >= 0.01:
        assert promised > 0.99


def forge(rng: random.Random, record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with one token of its text or the last bit of a score changed, or with another grade."""
    other = json.loads(json.dumps(record))
    if other["kind"] != "answer":
        other["margin"]["right"]["own"] = math.nextafter(other["margin"]["right"]["own"], 0.0)
    elif rng.random() < 0.5 and other.get("grade") in TURNED:
        other["grade"] = TURNED[other["grade"]]
    else:
        other["text"] = other_letter(rng, other["text"], rng.randrange(len(other["text"])))
    return other
