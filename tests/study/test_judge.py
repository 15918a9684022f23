"""The judge: label probabilities, agreement, and who is refused."""

import json
from collections import Counter

import numpy as np
import pytest
from fakes import FakeEngine
from statsmodels.stats.inter_rater import cohens_kappa

from warmeng.engine.errors import InputError
from warmeng.study.grade_file import grade_file
from warmeng.study.judge import CALIBRATION, LABELS, Judged, Row, agreement, judge_rows, read_rows, require_trust
from warmeng.study.settings import StudySettings

SETTINGS = StudySettings(model="small-judge")


def truth():
    return {row.answer: row.label for row in read_rows(CALIBRATION, "label")}


def knowing(share=1.0):
    """Return an engine whose judge knows the labels of that share of the embedded examples."""
    labels = dict(list(truth().items())[: round(48 * share)])

    def prefers(prompt, label):
        answer = prompt.partition("Answer to grade: ")[2].partition("\n\nReply")[0]
        return -0.1 if labels.get(answer, "correct") == label.strip() else -4.0

    return FakeEngine(prefers=prefers)


def judged(*pairs):
    return [Judged(Row("w", "q", "a", "r", label), grade, {}, 1.0) for label, grade in pairs]


def test_the_embedded_examples_cover_all_labels():
    counts = Counter(truth().values())
    assert set(counts) == set(LABELS)
    assert counts.total() >= 24
    assert min(counts.values()) >= 6


def test_probabilities_are_shares_of_the_labels_mass():
    rows = [Row("1", "Q", "A", "R")]
    logprobs = dict(zip(LABELS, np.log([0.5, 0.2, 0.1, 0.1]), strict=True))
    engine = FakeEngine(prefers=lambda prompt, label: float(logprobs[label.strip()]))
    (found,) = judge_rows(engine, rows)
    assert found.grade == "correct"
    assert found.mass == pytest.approx(0.9)
    assert found.shares["incorrect"] == pytest.approx(0.2 / 0.9)


def test_little_mass_is_unscored():
    engine = FakeEngine(prefers=lambda prompt, label: -8.0)
    (found,) = judge_rows(engine, [Row("1", "Q", "A", "R")])
    assert found.grade == "unscored"
    assert "mass" in found.reason


def test_kappa_and_its_interval_are_those_of_statsmodels():
    rng = np.random.default_rng(0)
    table = rng.integers(0, 9, size=(4, 4)) + np.diag([20, 15, 5, 9])
    pairs = [(LABELS[i], LABELS[j]) for i in range(4) for j in range(4) for _ in range(table[i, j])]
    found, expected = agreement(judged(*pairs)), cohens_kappa(table)
    assert found.n == table.sum()
    assert found.kappa == pytest.approx(expected.kappa, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.kappa_low, expected.kappa_upp), abs=1e-9)


def test_kappa_where_it_says_nothing():
    assert agreement([]).low == -1.0
    assert agreement(judged(*[("correct", "correct")] * 50)).low == -1.0
    always = agreement(judged(*[(label, "correct") for label in LABELS for _ in range(9)]))
    assert always.kappa == pytest.approx(0.0)
    with pytest.raises(InputError, match=r"small is refused as a judge for tables: kappa 0\.00"):
        require_trust("small", always)
    unscored = agreement(judged(*[("correct", "unscored")] * 5, *[("refusal", "refusal")] * 5))
    assert unscored.kappa < 1


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_csv_and_jsonl_give_the_same_rows_and_none_is_text(tmp_path):
    (tmp_path / "a.csv").write_text("question,output,correct_answer,mine\nQ,None,NA,unclear\n")
    rows = [{"question": "Q", "answer": "None", "right": "NA", "mine": "unclear", "more": 1}]
    one, two = read_rows(tmp_path / "a.csv", "mine"), read_rows(write(tmp_path / "a.jsonl", rows), "mine")
    (first,), (second,) = list(one), list(two)
    assert (first.question, first.answer, first.right, first.label) == ("Q", "None", "NA", "unclear")
    assert first.answer == second.answer


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "Q", "right": "R"}, "no column answer or output"),
        ({"question": "Q", "right": "R", "answer": 4}, "expected text"),
        ({"question": "Q", "right": "R", "answer": "A", "mine": "good"}, "label mine is 'good'"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, row, says):
    path = write(tmp_path / "a.jsonl", [row])
    with pytest.raises(InputError, match=rf"a.jsonl:1: .*{says}"):
        list(read_rows(path, "mine"))


def examples(tmp_path):
    return write(tmp_path / "a.jsonl", [json.loads(line) for line in CALIBRATION.read_text().splitlines()])


def test_a_good_judge_earns_a_summary(tmp_path, monkeypatch):
    monkeypatch.setattr("warmeng.study.grade_file.load_engine", lambda settings: knowing())
    lines = list(grade_file(SETTINGS, examples(tmp_path), None, True, "text"))
    assert len(lines) == 1 + 48 + 1 + 5
    assert "kappa 1.00" in lines[49]
    assert any(line.startswith("incorrect") and "n = 16 of 48" in line for line in lines)


def test_a_poor_judge_prints_rows_but_no_summary(tmp_path, monkeypatch):
    monkeypatch.setattr("warmeng.study.grade_file.load_engine", lambda settings: knowing(0.4))
    lines = grade_file(SETTINGS, examples(tmp_path), "label", True, "jsonl")
    printed = [json.loads(next(lines)) for _ in range(48)]
    with pytest.raises(InputError, match="small-judge is refused as a judge for tables"):
        next(lines)
    assert abs(sum(printed[0]["probabilities"].values()) - 1) < 1e-9


def test_without_table_a_poor_judge_is_only_described(tmp_path, monkeypatch):
    monkeypatch.setattr("warmeng.study.grade_file.load_engine", lambda settings: knowing(0.4))
    lines = list(grade_file(SETTINGS, examples(tmp_path), "label", False, "text"))
    assert "kappa" in lines[-1]
