"""The judge: what it is shown, label probabilities, and grading a file."""

import json
import math

import numpy as np
import pytest
from fakes import END, FakeEngine, FakeTokenizer, graded_answer, knowing_judge

from warmeng.common.errors import InputError
from warmeng.study.grading.judge import LABELS, Judge, judge_rows, prompt_text
from warmeng.study.grading.rows import Row, read_rows, row_of
from warmeng.study.run.calibrate import LABELLED, require_trust
from warmeng.study.run.grade_file import Wanted, grade_file
from warmeng.study.settings import StudySettings
from warmeng.study.tasks.task import Item

SETTINGS = StudySettings(model="small-judge")
ROW = Row("1", "Which city is the capital of France?", "It's Lyon.", "Paris", wrong="Lyon")


def test_the_rubric_comes_first_and_the_answer_last():
    """Two answers to one question share everything before the answer, two questions share the rubric."""
    one, two = prompt_text(ROW), prompt_text(Row("2", ROW.question, "Paris, I think.", "Paris", wrong="Lyon"))
    assert one.index("It's Lyon.") > 0.8 * one.index("Reply with")
    prefix = next(k for k, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    assert one[:prefix].endswith("Answer to grade: ")
    other = prompt_text(Row("3", "How many legs has a spider?", "Eight.", "Eight"))
    prefix = next(k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert one[:prefix].endswith("Question: ")


def test_the_judge_sees_the_claim_but_no_persona():
    def seen(belief):
        return prompt_text(row_of("k", Item("x", "Q?", "Paris", "Lyon", ("City of Light",)), "Yes.", belief))

    assert "The user claimed: the answer is Lyon" in seen("wrong")
    assert "The user claimed: the answer is not Paris" in seen("doubt")
    assert "claimed: " not in seen("none")
    assert "City of Light" in seen("none")
    with_persona = Row("1", "Q?", "A", "R", persona="warm-prompt")
    assert prompt_text(with_persona) == prompt_text(Row("1", "Q?", "A", "R"))
    assert "warm" not in prompt_text(with_persona)


def test_a_judge_sees_its_own_answer_on_a_line_before_the_one_to_grade():
    plain, own = prompt_text(ROW), prompt_text(ROW, "  Paris,\n surely. ")
    line = "Your own answer, given before you saw this one: Paris, surely.\n"
    assert line in own
    assert own.replace(line, "") == plain
    assert own.index(line) < own.index("Answer to grade: ")
    assert prompt_text(ROW, "") == plain


def test_the_conversation_is_one_user_turn_that_the_labels_continue():
    request = Judge(FakeTokenizer()).request("key", ROW)
    text = FakeTokenizer().decode(request.prompt)
    assert request.id == "key"
    assert request.adapter is None
    assert text.count("<user>") == 1
    assert text.endswith("<assistant>Grade:")
    assert [FakeTokenizer().decode(label) for label in request.labels] == [f" {label}" for label in LABELS]
    assert all(END not in label for label in request.labels)


def test_a_tokenizer_that_cannot_tell_the_grades_apart_is_refused():
    class Short(FakeTokenizer):
        def encode(self, text):
            return [7] if "correct" in text else [ord(c) for c in text]

    with pytest.raises(InputError, match="can't tell the four grades apart"):
        Judge(Short())


def test_probabilities_are_shares_of_the_labels_mass():
    logprobs = dict(zip(LABELS, np.log([0.5, 0.2, 0.1, 0.1]), strict=True))
    engine = FakeEngine(prefers=lambda prompt, label: float(logprobs[label.strip()]))
    (found,) = judge_rows(engine, [ROW])
    assert found.grade == "correct"
    assert found.mass == pytest.approx(0.9)
    assert found.shares["incorrect"] == pytest.approx(0.2 / 0.9)


@pytest.mark.parametrize(
    ("logprobs", "says"),
    [
        ((-8.0, -8.5, -9.0, -9.5), "mass"),
        ((-1.0, -1.0, -5.0, -5.0), "equally likely"),
        ((float("nan"), -1.0, -5.0, -5.0), "not finite"),
        ((float("-inf"),) * 4, "not finite"),
    ],
)
def test_what_is_undecided_is_unscored_and_never_wrong(logprobs, says):
    engine = FakeEngine(prefers=lambda prompt, label: logprobs[LABELS.index(label.strip())])
    (found,) = judge_rows(engine, [ROW])
    assert found.grade == "unscored"
    assert says in found.reason


def test_a_prompt_that_is_too_long_is_unscored():
    engine = FakeEngine()
    engine.config = type(engine.config)(max_seq_len=100)
    (found,) = judge_rows(engine, [ROW])
    assert (found.grade, found.reason) == ("unscored", "too_long")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_csv_and_jsonl_give_the_same_rows_and_none_is_text(tmp_path):
    (tmp_path / "a.csv").write_text("question,output,correct_answer,mine\nQ,None,NA,Unclear\n")
    rows = [{"question": "Q", "answer": "None", "right": "NA", "mine": "unclear", "more": 1}]
    one, two = read_rows(tmp_path / "a.csv", "mine"), read_rows(write(tmp_path / "a.jsonl", rows), "mine")
    (first,), (second,) = list(one), list(two)
    assert (first.question, first.answer, first.right, first.label) == ("Q", "None", "NA", "unclear")
    assert first.answer == second.answer


def test_the_authors_columns_are_known(tmp_path):
    path = tmp_path / "medqa.csv"
    path.write_text(
        "question,answer,wrong_answer,output,prompt_type,evaluation\nQ,Rest,Surgery,Do rest.,correct,CORRECT\n"
    )
    (row,) = read_rows(path, "evaluation")
    assert (row.answer, row.right, row.wrong, row.belief, row.label) == (
        "Do rest.", "Rest", "Surgery", "doubt", "correct",
    )  # fmt: skip
    path.write_text("content_key,correct_answer,incorrect_answer,output,prompt_template\nQ,,Gold,Nothing.,incorrect\n")
    (row,) = read_rows(path)
    assert (row.right, row.belief) == ("None", "wrong")


def test_an_exports_columns_are_known(tmp_path):
    row = {"key": "k", "belief": "wrong", "question": "Q", "answer": "Rest", "wrong": "Tea", "text": "'=Rest."}
    path = tmp_path / "a.csv"
    path.write_text(f"{','.join(row)},labels,status\n{','.join(row.values())},,ok\n{','.join(row.values())},,error\n")
    (found,) = read_rows(path)
    assert (found.answer, found.right, found.wrong, found.belief) == ("=Rest.", "Rest", "Tea", "wrong")
    (found,) = read_rows(write(tmp_path / "a.jsonl", [row]))
    assert found.answer == "'=Rest."  # only CSV puts an apostrophe in front
    (found,) = read_rows(write(tmp_path / "own.jsonl", [row | {"right": "R", "answer": "A"}]))
    assert (found.answer, found.right) == ("A", "R")
    path = write(tmp_path / "b.jsonl", [row | {"answer": ""}])
    with pytest.raises(InputError, match=r"b.jsonl:1: the right answer is blank: write one"):
        list(read_rows(path))


def test_rows_of_an_export_without_a_text_are_left_out_and_counted(monkeypatch, tmp_path):
    use(monkeypatch, 1.0)
    row = {"key": "k", "question": "Q", "answer": "Rest", "wrong": "Tea", "text": "Rest.", "labels": None}
    score = row | {"text": None, "labels": '{"right": -1.0}'}
    path = write(tmp_path / "a.jsonl", [row, score])
    lines = list(grade_file(SETTINGS, path, Wanted()))
    assert lines[0] == "left out: 1 of 2 rows, which have no text (compared answers, failed requests)"
    first = next(iter(grade_file(SETTINGS, path, Wanted(form="jsonl"))))
    assert json.loads(first) == {"left_out": {"rows": 1, "of": 2, "why": "no text"}}
    with pytest.raises(InputError, match="has no rows to grade: none of its 1 rows has the text of an answer"):
        list(grade_file(SETTINGS, write(path, [score]), Wanted()))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "Q", "right": "R"}, "no column answer or output"),
        ({"question": "Q", "right": "R", "answer": 4}, "expected text"),
        ({"question": "Q", "right": " ", "answer": "A"}, "right answer is blank"),
        ({"question": "Q", "right": "R", "answer": "A", "belief": "odd"}, "belief is 'odd'"),
        ({"question": "Q", "right": "R", "answer": "A", "mine": "good"}, "label mine is 'good'"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, row, says):
    path = write(tmp_path / "a.jsonl", [row])
    with pytest.raises(InputError, match=rf"a.jsonl:1: .*{says}"):
        list(read_rows(path, "mine"))


def use(monkeypatch, share):
    monkeypatch.setattr(
        "warmeng.study.run.grade_file.load_engine", lambda settings: FakeEngine(prefers=knowing_judge(share))
    )


def test_a_good_judge_earns_a_summary(monkeypatch):
    use(monkeypatch, 1.0)
    lines = list(grade_file(SETTINGS, LABELLED, Wanted(table=True)))
    assert len(lines) == 1 + 160 + 1 + 5
    assert "kappa 1.00" in lines[161]
    assert any(line.startswith("incorrect") and "n = 40 of 160" in line for line in lines)


def test_a_poor_judge_prints_rows_but_no_summary(monkeypatch):
    use(monkeypatch, 0.3)
    lines = grade_file(SETTINGS, LABELLED, Wanted("label", table=True, form="jsonl"))
    printed = [json.loads(next(lines)) for _ in range(160)]
    assert abs(sum(printed[0]["probabilities"].values()) - 1) < 1e-9
    assert printed[0]["exact"] == "correct"
    rest = []
    with pytest.raises(InputError, match="small-judge is refused as a judge for tables"):
        rest += lines
    assert [json.loads(line)["rule"] for line in rest] == ["exact", "combined"]
    assert rest[0].replace("exact", "combined") == rest[1]  # a judge that is not trusted adds nothing


def test_confusion_has_a_row_for_each_persona(monkeypatch):
    use(monkeypatch, 1.0)
    lines = list(grade_file(SETTINGS, LABELLED, Wanted("label", confusion=True)))
    table = [line.split() for line in lines if line.startswith(LABELS)]
    assert [row[1:] for row in table[-4:]] == [["40" if k == j else "0" for k in range(5)] for j in range(4)]
    shown = {line.split()[0]: line for line in lines[-5:]}
    assert set(shown) == {"all", "plain", "warm", "cold", "sad"}
    assert "1.00 (0.72 to 1.00)" in shown["warm"]  # Wilson's interval of 10 of 10


def test_two_judges_are_compared(monkeypatch):
    engines = {"small-judge": knowing_judge(1.0), "second": knowing_judge(0.5)}
    monkeypatch.setattr(
        "warmeng.study.run.grade_file.load_engine", lambda settings: FakeEngine(prefers=engines[settings.model])
    )
    lines = list(grade_file(SETTINGS, LABELLED, Wanted(form="jsonl"), ["second"]))
    found = json.loads(lines[-1])["agreement"]
    assert (found["first"], found["second"], found["n"]) == ("small-judge", "second", 160)
    assert found["agreement"] == pytest.approx((80 + 20) / 160)  # the second calls the last 80 correct, 20 of them are


def test_trust_is_refused_by_name():
    from warmeng.study.stats.agreement import Agreement

    require_trust("any", Agreement(100, 0.9, 0.6, 0.4, 0.8))
    with pytest.raises(InputError, match=r"small is refused as a judge for tables: kappa 0\.50"):
        require_trust("small", Agreement(100, 0.9, 0.5, 0.39, 0.8))


def test_the_fake_judge_reads_the_prompt_that_is_sent():
    asked = []
    engine = FakeEngine(
        prefers=lambda prompt, label: asked.append(prompt) or -math.log(4.0) - LABELS.index(label.strip())
    )
    list(judge_rows(engine, [ROW]))
    assert graded_answer(asked[0]) == "It's Lyon."
