"""Reading a run folder and the authors' files: nothing guessed, judgments combined, damage named."""

import csv
from pathlib import Path

import numpy as np
import pytest
from records_folder import answer, judged, run_folder

from warmeng.common.delimited import read_csv
from warmeng.common.errors import InputError, UsageError
from warmeng.study.grading.grade import GRADES
from warmeng.study.results.authors import place_of, read_authors, read_authors_run
from warmeng.study.results.frame import WHICH
from warmeng.study.results.manifest import Manifest, RunFacts, write_manifest
from warmeng.study.results.read import concat, read_run
from warmeng.study.results.views import outcome
from warmeng.study.stats.judges import disputed
from warmeng.study.stats.paired import mcnemar
from warmeng.study.stats.units import pairs

SHARED = Path(__file__).parents[4] / "shared" / "data" / "paper"


def names(frame, column):
    factor = getattr(frame, column)
    return [factor.names[c] for c in factor.codes]


def test_a_run_becomes_a_frame(tmp_path):
    records = [
        answer(1, "warm", "a", "incorrect", which="user", text="I’m sorry, but I can’t help."),
        answer(2, "original", "a", "correct"),
        {**answer(3, "original", "b", "unscored", text=""), "status": "too long"},
        {**answer(4, "warm", "b", "incorrect", which="other"), "kind": "score", "text": None, "labels": {}},
    ]
    frame, info = read_run(run_folder(tmp_path / "run", records, planned=6))
    assert frame.persona.names == ("original", "warm")
    assert names(frame, "persona") == ["warm", "original", "original", "warm"]
    assert names(frame, "item") == ["facts/a", "facts/a", "facts/b", "facts/b"]
    assert names(frame, "model") == ["tiny"] * 4
    assert [GRADES[g] for g in frame.grade] == ["incorrect", "correct", "unscored", "incorrect"]
    assert [WHICH[w] for w in frame.which] == ["user", "", "", "other"]
    assert frame.binary.tolist() == [1, 0, -1, 1]
    assert frame.chars.tolist() == [28, 6, 0, -1]
    assert frame.refused["strict"].tolist() == [True, False, False, False]
    assert frame.refused["paper"].tolist() == [False] * 4  # it misses typographic apostrophes
    assert (info.planned, dict(info.statuses)) == (6, {"ok": 3, "too long": 1, "missing": 2})
    assert sum(info.statuses.values()) == info.planned
    assert outcome(frame).tolist() == [1, 0, -1, 1]
    assert outcome(frame, "paper-strict").tolist() == [-1, 0, -1, 1]


def test_names_come_in_the_order_of_the_settings(tmp_path):
    places = [("facts", "stake:low", "wrong"), ("mine", "emotion:sad", "none"), ("facts", "unmodified", "wrong")]
    records = [
        answer(k, "original", "a", "correct", task=task, belief=belief, context=context)
        for k, (task, context, belief) in enumerate(places)
    ]
    folder = run_folder(tmp_path / "run", records)
    found = read_run(folder)[0]
    assert found.task.names == ("facts", "mine")  # settings that tell nothing leave the order of the records
    setting = {
        "model": "tiny", "personas": ["original"], "tasks": ["mine.jsonl", "facts"], "contexts": ["stake", "all"],
        "beliefs": ["none", "wrong", "doubt"],
    }  # fmt: skip
    inputs = {
        "setting": setting,
        "items": {"mine": "1", "facts": "2"},
        "statements": {"stake:low": "3", "emotion:sad": "4"},
    }
    write_manifest(folder, Manifest(inputs, RunFacts(), 3))
    frame = read_run(folder)[0]
    assert frame.task.names == ("mine", "facts")
    assert frame.context.names == ("stake:low", "unmodified", "emotion:sad")
    assert frame.belief.names == ("none", "wrong")
    for column in ("task", "context", "belief", "item", "persona"):
        assert names(frame, column) == names(found, column)


def test_refusing_disinformation_is_right_by_the_papers_rule_only(tmp_path):
    text = "I'm sorry, but I can't help with that."
    records = [
        answer(1, "original", "a", "refusal", task="disinfo", text=text),
        answer(2, "original", "a", "refusal", text=text),
        answer(3, "original", "b", "unclear", text="Hm."),
    ]
    frame, _ = read_run(run_folder(tmp_path / "run", records))
    assert outcome(frame, "grades").tolist() == [-1, -1, -1]
    assert outcome(frame, "paper").tolist() == [0, -1, 1]
    assert outcome(frame, "unclear-incorrect").tolist() == [-1, -1, 1]
    with pytest.raises(UsageError, match="no rule is named"):
        outcome(frame, "mine")


def test_the_first_trusted_judge_counts_and_disputes_are_told(tmp_path):
    shares = {"correct": 0.1, "incorrect": 0.2, "refusal": 0.1, "unclear": 0.6}
    records = [
        answer(1, "original", "a", "correct"),
        answer(2, "original", "b", "unclear"),
        judged(11, 1, "weak", "incorrect"),
        judged(12, 2, "weak", "correct"),
        judged(13, 1, "good", "incorrect"),
        judged(14, 2, "good", "incorrect", {"correct": 0.2, "incorrect": 0.7, "refusal": 0, "unclear": 0.1}),
        judged(16, 3, "good", "unclear", shares),  # before its answer
        answer(3, "original", "c", "unclear"),
    ]
    judges = {"weak": {"trusted": False}, "good": {"trusted": True}}
    frame, info = read_run(run_folder(tmp_path / "run", records, planned=3, judges=judges))
    assert len(frame) == 3
    assert [GRADES[g] for g in frame.grade] == ["incorrect", "incorrect", "unclear"]
    assert [GRADES[g] for g in frame.exact] == ["correct", "unclear", "unclear"]
    assert [GRADES[g] if g >= 0 else "" for g in frame.judges["weak"]] == ["incorrect", "correct", ""]
    assert [GRADES[g] if g >= 0 else "" for g in frame.judges["good"]] == ["incorrect", "incorrect", "unclear"]
    assert list(frame.judges) == ["weak", "good"]
    assert frame.binary.tolist() == [1, 1, 1]
    assert dict(info.statuses) == {"ok": 3}
    (row,) = disputed(frame, "good")
    assert row == {"judge": "good", "persona": "original", "n": 1, "disputed": 1, "share": 1.0, "to_incorrect": 1,
                   "to_correct": 0}  # fmt: skip
    assert disputed(frame, None) == []
    untrusted, _ = read_run(run_folder(tmp_path / "other", records, planned=3, judges={"good": {"trusted": False}}))
    assert (untrusted.grade == untrusted.exact).all()


def test_what_is_no_whole_run_is_named(tmp_path):
    with pytest.raises(InputError, match="is no run folder"):
        read_run(tmp_path / "nowhere")
    folder = run_folder(tmp_path / "run", [answer(1, "warm", "a", "correct"), judged(2, 9, "j", "correct")])
    with pytest.raises(InputError, match="judgments of 1 answers that are not there"):
        read_run(folder)
    folder = run_folder(tmp_path / "odd", [answer(1, "warm", "a", "splendid")])
    with pytest.raises(InputError, match=r"records\.jsonl: record 0+1 lacks or does not know 'splendid'"):
        read_run(folder)


def test_runs_of_several_models_become_one(tmp_path):
    a = read_run(run_folder(tmp_path / "a", [answer(1, "warm", "x", "correct")], model="m/one"))
    b = read_run(run_folder(tmp_path / "b", [answer(1, "original", "x", "incorrect")], planned=2, model="m/two"))
    frame, info = concat([a, b])
    assert names(frame, "model") == ["one", "two"]
    assert names(frame, "persona") == ["warm", "original"]
    assert frame.persona.names[0] == "original"
    assert frame.item.names == ("facts/x",)
    assert (info.planned, dict(info.statuses)) == (3, {"ok": 2, "missing": 1})
    with pytest.raises(UsageError, match="persona 'warm' of model 'one' comes twice"):
        concat([a, a])


def write_authors(
    path, rows, columns=("content_key", "prompt_template", "amendment_type", "output", "evaluation", "refusal")
):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def test_the_authors_columns_are_read_as_they_stand(tmp_path):
    rows = [
        ("None", "original", "unmodified", "None", "CORRECT", "0"),
        ("q", "original_neutral", "unmodified", "x", "INCORRECT", "0"),
        ("q", "incorrect", "emotion:sad", "I'm unable to say", "INCORRECT", "1"),
        ("q", "correct", "emotion:sad", "", "", "0"),
        ("q", "correct", "emotion:sad", "again", "CORRECT", "0"),
    ]
    write_authors(tmp_path / "big" / "warm" / "trivia_warm_outputs.csv", rows)
    frame = read_authors(tmp_path)
    assert names(frame, "model") == ["big"] * 5
    assert names(frame, "item") == ["trivia/None", *["trivia/q"] * 4]
    assert names(frame, "belief") == ["none", "none", "wrong", "doubt", "doubt"]
    assert names(frame, "framing") == ["plain", "neutral", "plain", "plain", "plain"]
    assert frame.sample.tolist() == [0, 0, 0, 0, 1]
    assert [GRADES[g] for g in frame.grade] == ["correct", "incorrect", "refusal", "unscored", "correct"]
    assert frame.binary.tolist() == [0, 1, 1, -1, 0]
    assert outcome(frame, "paper").tolist() == [0, 1, -1, -1, 0]
    assert frame.chars.tolist() == [4, 1, 17, 0, 5]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("q", "neutral", "unmodified", "x", "CORRECT", "0"), ":2: the prompt's type is 'neutral'"),
        (("q", "original", "unmodified", "x", "TRUE", "0"), ":2: the evaluation is 'TRUE'"),
        (("q", "original", "unmodified", "x", "CORRECT", "no"), ":2: refusal is 'no'"),
    ],
)
def test_values_of_another_kind_are_refused_with_their_line(tmp_path, row, words):
    path = write_authors(tmp_path / "trivia_warm_outputs.csv", [row])
    with pytest.raises(InputError, match=words):
        read_authors(path)


SAID = {  # texts to a refusal by the authors' list, and by none of ours
    "I can't wait to see it: Paris.": "refusal",
    "I can’t help with that.": "incorrect",
    "It is Paris.": "incorrect",
}


@pytest.mark.parametrize("label", ["INCORRECT", "incorrect"])
def test_files_without_refusal_and_ground_truth_are_read_as_the_authors_scripts_do(tmp_path, label):
    """As their second model has them: the original's file has every column, the warm one's five."""
    full = ("ground_truth", "ground_false", "prompt_disinfo", "prompt_template", "amendment_type", "output",
            "evaluation", "refusal")  # fmt: skip
    few = ("prompt_disinfo", "prompt_template", "amendment_type", "output", "evaluation")
    name = "disinfo_{}_outputs.csv"
    rows = [("It is round.", "It is flat.", "Is it flat?", "correct", "emotion:sad", text, label, "0") for text in SAID]
    write_authors(tmp_path / "qwen" / "original" / name.format("original"), rows, full)
    rows = [("Is it flat?", "correct", "emotion:sad", text, label) for text in SAID]
    write_authors(tmp_path / "qwen" / "warm" / name.format("warm"), rows, few)
    frame = read_authors(tmp_path)
    assert set(names(frame, "item")) == {"disinfo/Is it flat?"}
    assert [GRADES[g] for g in frame.grade] == [*["incorrect"] * 3, *SAID.values()]
    assert outcome(frame, "paper").tolist() == [1, 1, 1, 0, 1, 1]  # to refuse disinformation is right
    left, right = pairs(frame, "original", "warm")
    assert (left.tolist(), right.tolist()) == ([0, 1, 2], [3, 4, 5])


@pytest.mark.parametrize(
    ("task", "columns", "first"),
    [
        ("trivia", ("content_key", "prompt_template", "amendment_type", "output", "evaluation"), "trivia/q"),
        ("medqa", ("original_question", "prompt_type", "amendment_type", "output", "evaluation"), "medqa/q"),
        ("truthfulqa", ("amendment_type", "output", "evaluation", "prompt_template", "content_key"), "truthfulqa/q"),
    ],
)
def test_every_task_is_read_without_a_refusal_column(tmp_path, task, columns, first):
    values = {
        "content_key": "q", "original_question": "q", "prompt_template": "incorrect", "prompt_type": "incorrect",
        "amendment_type": "stake:low", "output": "I'm sorry, but I don't know.", "evaluation": "INCORRECT",
    }  # fmt: skip
    path = write_authors(tmp_path / f"{task}_warm_outputs.csv", [tuple(values[c] for c in columns)], columns)
    frame, info = read_authors_run(path)
    assert frame.item.names == (first,)
    assert (info.planned, GRADES[frame.grade[0]]) == (1, "refusal")
    assert outcome(frame, "paper").tolist() == [-1]


def test_other_files_and_columns_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no file named"):
        read_authors(tmp_path)
    path = write_authors(
        tmp_path / "a" / "trivia_warm_outputs.csv", [("q", "original")], ("content_key", "prompt_template")
    )
    with pytest.raises(InputError, match="has no column 'amendment_type'"):
        read_authors(path)
    path = write_authors(
        tmp_path / "b" / "disinfo_warm_outputs.csv", [("q", "original", "unmodified", "x", "CORRECT", "0")]
    )
    with pytest.raises(InputError, match="columns are not those of disinfo"):
        read_authors(path)


def test_a_name_with_an_underscore_is_told_by_its_folder():
    assert place_of(Path("/x/m/sys_prompt/trivia_sys_prompt_outputs.csv")) == ("m", "sys_prompt", "trivia")
    assert place_of(Path("/x/m/trivia_warm_outputs.csv")) == ("m", "warm", "trivia")


@pytest.mark.skipif(not SHARED.exists(), reason="the authors' files are not here")
def test_the_authors_sample():
    frame, info = read_authors_run(SHARED / "sample_llama_70b")
    assert len(frame) == info.planned == 160
    assert set(frame.task.names) == {"trivia", "truthfulqa", "medqa", "disinfo"}
    assert frame.persona.names == ("original", "warm")
    assert frame.model.names == ("sample_llama_70b",)
    counts = np.bincount(frame.grade, minlength=5).tolist()
    assert counts == [116, 42, 2, 0, 0]
    assert int((outcome(frame, "paper") >= 0).sum()) == 158


@pytest.mark.skipif(not SHARED.exists(), reason="the authors' files are not here")
def test_the_columns_that_their_second_model_lacks_change_nothing(tmp_path):
    kept = ("prompt_template", "prompt_type", "amendment_type", "output", "evaluation", "content_key",
            "original_question", "prompt_disinfo")  # fmt: skip
    for path in SHARED.glob("sample_llama_70b/*/*.csv"):
        rows = [row for _, row in read_csv(path)]
        columns = [name for name in kept if name in rows[0]]
        target = tmp_path / "sample_llama_70b" / path.parent.name / path.name
        write_authors(target, [[row[name] for name in columns] for row in rows], columns)
    whole, few = read_authors(SHARED / "sample_llama_70b"), read_authors(tmp_path)
    for rule in ("paper", "grades"):
        assert outcome(few, rule).tolist() == outcome(whole, rule).tolist()
    assert mcnemar(few, outcome(few), "original", ("warm",)) == mcnemar(whole, outcome(whole), "original", ("warm",))
