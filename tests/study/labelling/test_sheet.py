"""Drawing answers for people to label, the sheet, and the labels' way back into a run's tables."""

from __future__ import annotations

import csv
import json
import math
import random
from collections import Counter

import numpy as np
import orjson
import pytest
from records_folder import answer, judged, run_folder

from warmeng.cli.labels import labels as command
from warmeng.common.errors import InputError, UsageError
from warmeng.study.claim import Claim
from warmeng.study.labelling.draw import OPEN_DOUBT, RULES_DOUBT, Candidate, chances, doubt, draw, scaled
from warmeng.study.labelling.sheet import describe, make_sheet, read_sheet, take_labels
from warmeng.study.results.answers import Answer, read_answers
from warmeng.study.results.labels import Drawn, Labels, read_labels
from warmeng.study.results.read import read_run
from warmeng.study.results.tied import mismatches
from warmeng.study.results.trust import Verdict
from warmeng.study.stats.analyze import analyze_run
from warmeng.study.stats.labelled import labelled_differences

N = 120
PERSONAS = ("original", "warm")
EVIL = "</script><script>alert(1)</script>"


def make_run(folder, judge=True):
    """A run of two personas whose warm errors the rules miss: 120 questions, a blank answer, and a claim now and then.

    Returns the folder and what each answer is to a person, by key.
    """
    rng = random.Random(0)
    records, truth, key = [], {}, 0
    for item in range(N):
        for persona in PERSONAS:
            wrong = rng.random() < (0.4 if persona == "warm" else 0.2)
            found = not wrong or rng.random() < (0.5 if persona == "warm" else 0.95)
            grade = "incorrect" if wrong and found else "correct"
            text = "" if item == 7 else f"Answer {item} {'no' if wrong else 'yes'} {EVIL if item == 3 else ''}"
            told = "unclear" if item == 7 else grade
            records.append(
                answer(key, persona, f"i{item}", told, text=text, which="user" if told == "incorrect" else None)
            )
            truth[f"{key:032x}"] = "unclear" if item == 7 else "incorrect" if wrong else "correct"
            if judge:
                shares = {"correct": 0.1, "incorrect": 0.1, "refusal": 0.0, "unclear": 0.0, told: 0.8}
                records.append(judged(100_000 + key, key, "j", told, shares, persona=persona, item=f"i{item}"))
            key += 1
    judges = {"j": {"trusted": True}} if judge else {}
    run_folder(folder, records, planned=2 * N, judges=judges)
    items = [
        {
            "task": "facts", "grading": "alias", "layout": "own", "id": f"i{k}", "question": f"=Question {k}?",
            "answer": f"yes {k}", "wrong": f"no {k}", "aliases": ["aye"], "statements": {},
        }
        for k in range(N)
    ]  # fmt: skip
    (folder / "items.jsonl").write_bytes(b"".join(orjson.dumps(i) + b"\n" for i in items))
    return folder, truth


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def by_person(truth, drawn, wrong=()):
    """What a person who is right says of each row of the sheet; of some rows the opposite."""
    other = {"correct": "incorrect", "incorrect": "correct", "unclear": "correct"}
    said = {}
    for key, (row, _) in drawn.answers.items():
        said[row] = other[truth[key]] if row in wrong else truth[key]
    return said


def save(path, said):
    path.write_text("".join(json.dumps({"id": row, "label": label}) + "\n" for row, label in said.items()))
    return path


def test_probabilities_sum_to_the_budget_and_are_none_above_one() -> None:
    assert scaled([5, 3, 1, 1, 0.2], 2.5) == pytest.approx([1.0, 1.5 * 3 / 5.2, 1.5 / 5.2, 1.5 / 5.2, 0.3 / 5.2])
    assert scaled([1, 2], 5) == [1.0, 1.0]
    rng = random.Random(1)
    weights = [rng.expovariate(1) + 0.01 for _ in range(500)]
    found = scaled(weights, 300)
    assert math.fsum(found) == pytest.approx(300)
    assert max(found) == 1.0
    order = np.argsort(weights)
    assert np.all(np.diff(np.array(found)[order]) >= 0)


def test_a_label_is_worth_more_where_the_grade_is_in_doubt_and_few_others_stand() -> None:
    plain = [Candidate(f"a{k}", "original", "unmodified", "none", 0.05) for k in range(100)]
    few = [Candidate(f"b{k}", "warm", "emotion:sad", "none", 0.05) for k in range(20)]
    open_ones = [Candidate(f"c{k}", "original", "unmodified", "none", 0.5) for k in range(10)]
    found = chances([*plain, *few, *open_ones], 40)
    assert found[0] < found[100]
    assert found[0] < found[120]
    named = chances([*plain, *few, *open_ones], 40, Claim("error rates", "warm", "original"))
    # Plain answers of the claim's personas.
    assert named[0] / named[100] > found[0] / found[100]
    assert chances([], 10) == []


def test_doubt_is_what_the_judge_that_counts_leaves(tmp_path) -> None:
    def of(grade, verdicts=(), disputed=False):
        given = dict.fromkeys(Answer.__dataclass_fields__, "")
        given |= {"grade": grade, "verdicts": verdicts, "disputed": disputed, "text": "x"}
        return doubt(Answer(**given), "j")

    assert of("correct") == RULES_DOUBT
    assert of("unclear") == OPEN_DOUBT
    assert of("correct", (Verdict("j", "correct", shares={"correct": 0.7}),)) == pytest.approx(0.3)
    assert of("correct", (Verdict("other", "correct", shares={"correct": 0.7}),)) == RULES_DOUBT
    assert of("correct", (Verdict("j", "correct", shares={"correct": 0.7}),), disputed=True) == OPEN_DOUBT


def test_answers_are_drawn_as_often_as_their_probability_says() -> None:
    found = [Candidate(f"{k}", "original", "unmodified", "none", 0.05 if k % 4 else 0.5) for k in range(400)]
    chance = chances(found, 100)
    counts = Counter(key for seed in range(200) for key in draw(found, chance, seed))
    for part in (0, 1):
        mine = [k for k in range(400) if bool(k % 4) == bool(part)]
        share = sum(counts[str(k)] for k in mine) / (200 * len(mine))
        assert share == pytest.approx(chance[mine[0]], rel=0.06)


def test_the_sheet_is_blind_random_and_inert(run, tmp_path) -> None:
    folder, _ = run
    drawn, paths = make_sheet(folder, tmp_path / "sheet", budget=80)
    assert 55 < len(drawn.answers) < 105
    assert [p.name for p in paths] == ["labels.csv", "labels.html", "labels.json"]
    page = (tmp_path / "sheet" / "labels.html").read_text()
    table = list(csv.DictReader((tmp_path / "sheet" / "labels.csv").open(newline="")))
    assert {row["id"] for row in table} == {row for row, _ in drawn.answers.values()}
    for text in (page, (tmp_path / "sheet" / "labels.csv").read_text()):
        assert "original" not in text
        assert "warm" not in text
    assert "<script>alert" not in page
    assert all(row["question"].startswith("'=Question") for row in table)
    assert table[0]["right"].endswith("(also: aye)")
    order = [int(row["question"].split()[1].rstrip("?")) for row in table]
    assert order != sorted(order)
    assert [row["id"] for row in table] == sorted(row["id"] for row in table)
    # The same draw again, and no other over it.
    assert make_sheet(folder, tmp_path / "again", budget=80)[0] == drawn
    with pytest.raises(UsageError, match=r"labels\.json: is there already"):
        make_sheet(folder, tmp_path / "other", budget=81)


def test_labels_come_back_into_the_tables(run, tmp_path) -> None:
    folder, truth = run
    drawn, _ = make_sheet(folder, tmp_path / "sheet", budget=120)
    rows = sorted({row for row, _ in drawn.answers.values()})
    anna = save(tmp_path / "anna.jsonl", by_person(truth, drawn))
    with (tmp_path / "ben.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label"])
        said = by_person(truth, drawn, wrong=rows[:4])
        writer.writerows((row, said[row].upper()) for row in rows[:60])
        writer.writerows((row, "") for row in rows[60:])
    lines = list(describe(take_labels(folder, [anna, tmp_path / "ben.csv"])))
    assert lines[0].startswith(f"labelled         {len(rows)} of {len(rows)} rows")
    assert lines[-1].startswith("kappa            anna and ben: kappa 0.")
    assert lines[-1].endswith("n = 60)")
    analysis = analyze_run(folder, bootstrap=200)
    tables = analysis["tables"]
    rates = {(r["grader"], r["persona"]): r for r in tables["labelled_rates"]["rows"] if r["group"] == "all"}
    assert {grader for grader, _ in rates} == {"all rules", "j"}
    by_truth = {p: [k for k in range(2 * N) if k % 2 == i] for i, p in enumerate(PERSONAS)}
    for persona, keys in by_truth.items():
        known = [truth[f"{k:032x}"] for k in keys]
        rate = known.count("incorrect") / (N - 1)
        row = rates["all rules", persona]
        assert row["powered_low"] <= rate <= row["powered_high"]
        assert row["n"] == N
    # The rules miss half of the warm persona's errors.
    warm = rates["all rules", "warm"]
    assert warm["raw"] < 0.28 < warm["powered"]
    [difference] = [
        r for r in tables["labelled_differences"]["rows"] if (r["grader"], r["group"]) == ("all rules", "all")
    ]
    assert difference["labels"] == len(drawn.answers)
    assert difference["powered_low"] < 20 < difference["powered_high"]
    assert any(f"by people's labels of {len(drawn.answers)} answers: +" in note for note in analysis["notes"])
    errors = {r["persona"]: r for r in tables["judge_error"]["rows"] if r["judge"] == "all rules"}
    assert errors["original"]["labelled"] == "of this run"
    assert errors["warm"]["sensitivity"] < 0.75 < errors["original"]["sensitivity"]
    assert {"anna", "ben"} <= {r["second"] for r in tables["raters"]["rows"]}
    assert "## Differences in errors by people's labels" in (folder / "tables.md").read_text()


def test_an_analysis_is_of_the_labels_that_a_run_has(run, tmp_path) -> None:
    folder, truth = run
    before = analyze_run(folder, bootstrap=0)
    assert "labelled_rates" not in before["tables"]
    drawn, _ = make_sheet(folder, tmp_path / "sheet", budget=60)
    assert mismatches(before, folder) == ["The analysis was made of another labels.json than the run has now."]
    # Drawn, and nothing labelled yet.
    assert "labelled_rates" not in analyze_run(folder, bootstrap=0)["tables"]
    take_labels(folder, [save(tmp_path / "anna.jsonl", by_person(truth, drawn))])
    now = analyze_run(folder, bootstrap=0)
    assert not mismatches(now, folder)
    [row] = [r for r in now["tables"]["labelled_differences"]["rows"] if (r["grader"], r["group"]) == ("j", "all")]
    # Without draws there is no correction by sensitivity and specificity's interval, and the other needs none.
    assert row["corrected_low"] is None
    assert row["powered_low"] is not None


def test_what_is_no_label_is_refused_by_name(run, tmp_path) -> None:
    folder, truth = run
    with pytest.raises(UsageError, match="begin with warmeng labels make"):
        take_labels(folder, [tmp_path / "anna.jsonl"])
    drawn, _ = make_sheet(folder, tmp_path / "sheet", budget=60)
    rows = sorted({row for row, _ in drawn.answers.values()})

    def refused(said, match, known=rows):
        path = tmp_path / "x.jsonl"
        path.write_text(said)
        with pytest.raises(InputError, match=match):
            read_sheet(path, known)

    line = json.dumps({"id": rows[0], "label": "correct"})
    refused(line.replace("correct", "right"), r"x.jsonl:1: label is 'right', expected correct, incorrect")
    refused(f"{line}\n{line}\n", "x.jsonl:2: row .* is there twice")
    refused(line.replace("correct", ""), "has no labels: expected a column label")
    refused(line.replace(rows[0], "answer-0"), "rows that are not of this run's sheet: 'answer-0'")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "anna.jsonl", by_person(truth, drawn))
    with pytest.raises(UsageError, match="two files are of labeller 'anna'"):
        take_labels(folder, [tmp_path / name / "anna.jsonl" for name in ("a", "b")])
    content = json.loads((folder / "labels.json").read_text())
    key = next(iter(content["answers"]))
    for change in ({"format": 9}, {"answers": {key: ["x", 1.5]}}, {"labels": {"anna": {key: "fine"}}}, {"answers": {}}):
        damaged = content | {"labels": {"anna": {key: "correct"}}} | change
        (folder / "labels.json").write_text(json.dumps(damaged))
        with pytest.raises(InputError, match="restore the file"):
            read_labels(folder)
    (folder / "labels.json").write_text(json.dumps(content | {"answers": {"f" * 32: ["x", 0.5]}}))
    with pytest.raises(InputError, match="which the run does not have"):
        read_run(folder)


def test_a_part_of_the_sheet_stands_for_all_of_it() -> None:
    chance = np.array([0.5, 0.25, 0.5, 0.25, 0.0])
    half = Labels(chance, {"a": np.array([0, -1, 1, -1, -1], dtype=np.int8)})
    assert half.weight.tolist() == [4.0, 0.0, 4.0, 0.0, 0.0]
    both = Labels(chance, {"a": np.array([1, 3, -1, -1, -1]), "b": np.array([0, -1, 2, 1, -1])})
    assert both.means.tolist() == [[0.5, 1.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    assert not Labels(chance, {}).weight.any()


def test_the_commands_make_and_read(run, tmp_path, capsys, monkeypatch) -> None:
    folder, truth = run
    command.main(["make", str(folder), "--out", str(tmp_path / "s"), "--budget", "50"], standalone_mode=False)
    assert "answers were drawn" in capsys.readouterr().out
    file = save(tmp_path / "anna.jsonl", by_person(truth, read_labels(folder)))
    command.main(["read", str(folder), str(file)], standalone_mode=False)
    assert "labeller         anna: " in capsys.readouterr().out


def test_only_written_answers_are_drawn(tmp_path) -> None:
    records = [answer(k, "original", f"i{k}", "correct", kind="score", text=None) for k in range(4)]
    folder = run_folder(tmp_path / "run", records)
    assert all(a.text is None for a in read_answers(folder / "records.jsonl", {}))
    with pytest.raises(InputError, match="no written answers to label"):
        make_sheet(folder, tmp_path / "sheet")
    frame, info = read_run(folder)
    assert info.labels is None
    none = Labels(np.zeros(4), {})
    assert labelled_differences(frame, none, "original", ("warm",), 0, 0) == []
    assert Drawn(0, 1, {}).labels == {}
