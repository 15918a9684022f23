"""Other software's logs as answers: our own exports give our own tables, real logs are read, damage is one line."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sample import Plan, make_run
from tiers import slow

from warmeng.cli.main import warmeng
from warmeng.common.errors import InputError, UsageError
from warmeng.study.export.export import export_run
from warmeng.study.grading.grade import GRADES
from warmeng.study.imports.mapping import Mappings, read_mappings
from warmeng.study.imports.read import read_imports
from warmeng.study.results.frame import Frame
from warmeng.study.results.read import read_run
from warmeng.study.stats.analyze import analyze_sources

# What a run's manifest and margins are needed for, which no export has.
OF_THE_RUN = {"judge_error", "corrected"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("own") / "run", Plan(items=4, contexts=("unmodified", "emotion:sad")))


def told(frame: Frame) -> list[tuple]:
    """Everything that a frame says, row by row."""
    names = ("model", "persona", "task", "context", "belief", "framing", "item")
    columns = [[getattr(frame, name).names[c] for c in getattr(frame, name).codes] for name in names]
    numbers = [getattr(frame, name).tolist() for name in ("sample", "grade", "which", "binary", "chars", "exact")]
    more = [column.tolist() for column in (*frame.judges.values(), *frame.refused.values())]
    return list(zip(*columns, *numbers, *more, strict=True))


@pytest.mark.parametrize("form", ["csv", *slow("lm-eval")])
def test_an_export_gives_the_run_back_number_for_number(form: str, run: Path, tmp_path: Path) -> None:
    out = tmp_path / ("export.csv" if form == "csv" else "export")
    export_run(run, form, out)
    frame, info = read_imports(sorted(out.rglob("samples_*.jsonl")) or [out])
    own, own_info = read_run(run)
    assert told(frame) == told(own)
    assert (info.planned, info.statuses, info.models) == (own_info.planned, own_info.statuses, own_info.models)
    _, expected = analyze_sources([run], tmp_path / "own", bootstrap=100)
    _, found = analyze_sources([out], tmp_path / "found", bootstrap=100)
    assert sum(bool(table["rows"]) for table in expected["tables"].values()) > 12
    for name, table in expected["tables"].items():
        if name not in OF_THE_RUN:
            assert found["tables"][name] == table, name


def test_a_run_and_its_export_are_not_counted_twice(run: Path, tmp_path: Path) -> None:
    export_run(run, "lm-eval", tmp_path / "export")
    with pytest.raises(UsageError, match=r"persona '\w+' of model '.*' comes twice"):
        analyze_sources([run, tmp_path / "export"], tmp_path / "out", bootstrap=0)
    shutil.copytree(tmp_path / "export", tmp_path / "again")
    with pytest.raises(InputError, match=r"was read before, from a file that begins at .*samples_"):
        analyze_sources([tmp_path / "export", tmp_path / "again"], tmp_path / "out", bootstrap=0)


def lm_eval_sample(place: int, value: float, **more: Any) -> dict[str, Any]:
    return {
        "doc_id": place, "doc": {"q": f"Who is {place}?"}, "doc_hash": f"hash{place}", "target": "a",
        "resps": [[f"Name{place}"]], "filtered_resps": [f"Name{place}"], "filter": "none", "metrics": ["exact_match"],
        "exact_match": value, **more,
    }  # fmt: skip


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def inspect_log(
    path: Path, model: str, values: list[Any], scorers: tuple[str, ...] = ("match",), listed: bool = True
) -> Path:
    """A log written by Inspect, with an answer for each value."""
    log = pytest.importorskip("inspect_ai.log")
    model_ = pytest.importorskip("inspect_ai.model")
    scorer = pytest.importorskip("inspect_ai.scorer")
    samples = [
        log.EvalSample(
            id=place, epoch=1, input=f"Who is {place}?", target="a",
            output=model_.ModelOutput.from_content(model, f"Name{place}"),
            scores={name: scorer.Score(value=value) for name in scorers}, metadata={"number": f"n{place}"},
        )
        for place, value in enumerate(values)
    ]  # fmt: skip
    spec = log.EvalSpec(
        created="2026-01-01T00:00:00+00:00",
        task="who",
        model=model,
        config=log.EvalConfig(),
        dataset=log.EvalDataset(sample_ids=list(range(len(values))) if listed else None),
    )
    log.write_eval_log(log.EvalLog(status="success", eval=spec, samples=samples), str(path))
    return path


def promptfoo(path: Path, values: dict[str, list[bool]], **more: Any) -> Path:
    """Results in promptfoo's form, written here: each provider's, with a question for each value."""
    results = [
        {
            "provider": {"id": provider, "label": ""}, "vars": {"who": str(place)}, "success": value,
            "prompt": {"raw": f"Who is {place}?", "label": "Who is {{who}}?"}, "response": {"output": f"Name{place}"},
            "score": float(value), "promptIdx": column, "testIdx": place, "failureReason": 0 if value else 1,
        }
        for column, (provider, some) in enumerate(values.items())
        for place, value in enumerate(some)
    ]  # fmt: skip
    data = {"evalId": "eval-1", "results": {"version": 3, "results": results, "stats": {}}, "config": {}, **more}
    path.write_text(json.dumps(data))
    return path


def graded(frame: Frame) -> dict[tuple[str, str], str]:
    codes = zip(frame.persona.codes, frame.item.codes, frame.grade, strict=True)
    return {(frame.persona.names[p], frame.item.names[i]): GRADES[g] for p, i, g in codes}


def test_two_sample_files_are_compared_question_by_question(tmp_path: Path) -> None:
    for name, values in (("one", [1, 1, 0, 1]), ("two", [0, 1, 0, 0])):
        rows = [lm_eval_sample(place, float(value)) for place, value in enumerate(values)]
        write_lines(tmp_path / name / "samples_who_2026-01-02T03-04-05.678.jsonl", rows)
        config = {"model": "hf", "model_args": {"pretrained": f"owner/{name}"}}
        (tmp_path / name / "results_2026-01-02T03-04-05.678.json").write_text(json.dumps({"config": config}))
    _, found = analyze_sources([tmp_path / "one", tmp_path / "two"], tmp_path / "out", bootstrap=40)
    assert (found["models"], found["baseline"], found["variants"]) == (["models"], "one", ["two"])
    (row,) = found["tables"]["mcnemar"]["rows"]
    assert (row["task"], row["n"], row["b"], row["c"]) == ("who", 4, 2, 0)
    one, two = (tmp_path / name / "samples_who_2026-01-02T03-04-05.678.jsonl" for name in ("one", "two"))
    write_lines(two, [lm_eval_sample(place, 1.0) for place in range(7, 9)])
    with pytest.raises(UsageError, match="two and one have no question of who in common"):
        read_imports([one, two])


def test_a_persona_of_the_harness_is_one_here(tmp_path: Path) -> None:
    for persona in ("warm", "cold"):
        folder = tmp_path / persona
        write_lines(folder / "samples_who.jsonl", [lm_eval_sample(0, 1.0)])
        args = f"pretrained=some/base,persona={persona}"
        found = {"config": {"model": "warmeng", "model_args": args}, "results": {"who": {"acc": float("nan")}}}
        (folder / "results.json").write_text(json.dumps(found))
    frame, info = read_imports(sorted(tmp_path.rglob("*.jsonl")))
    assert (frame.persona.names, info.models) == (("cold", "warm"), ("base",))


def test_filters_and_several_metrics_are_chosen_by_the_mapping(tmp_path: Path) -> None:
    rows = [lm_eval_sample(0, 1.0, filter="strict"), lm_eval_sample(0, 0.0, filter="loose")]
    path = write_lines(tmp_path / "samples_who.jsonl", rows)
    with pytest.raises(InputError, match="has the filter 'loose' after 'strict'"):
        read_imports([path])
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("where: {filter: loose}\n")
    frame, info = read_imports([path], read_mappings(mapping))
    assert [GRADES[grade] for grade in frame.grade] == ["incorrect"]
    assert info.planned == 1
    both = [{**lm_eval_sample(0, 1.0), "metrics": ["f1", "bleu"], "f1": 0.4, "bleu": 1.0}]
    path = write_lines(tmp_path / "samples_who.jsonl", both)
    with pytest.raises(InputError, match=r"has several scores \(bleu, f1\): say in --mapping"):
        read_imports([path])
    mapping.write_text("columns: {grade: f1, persona: {value: gpt}}\n")
    with pytest.raises(InputError, match=r"the grade is 0.4, expected .*: tell it as grades"):
        read_imports([path], read_mappings(mapping))
    mapping.write_text("columns: {grade: f1, persona: {value: gpt}}\ngrades: {correct: [1], incorrect: [0.4, 0]}\n")
    assert graded(read_imports([path], read_mappings(mapping))[0]) == {("gpt", "who/hash0"): "incorrect"}


@pytest.mark.parametrize("form", ["eval", "json"])
def test_inspects_logs_are_compared(form: str, tmp_path: Path) -> None:
    one = inspect_log(tmp_path / f"one.{form}", "openai/gpt", ["C", "I", "N", "P"])
    two = inspect_log(tmp_path / f"two.{form}", "warmeng/some/base:warm", [1, 0, True, "C"])
    frame, info = read_imports([one])
    assert [GRADES[grade] for grade in frame.grade] == ["correct", "incorrect", "refusal", "unclear"]
    assert (frame.persona.names, frame.task.names, info.planned) == (("openai/gpt",), ("who",), 4)
    frame, info = read_imports([two])
    assert (frame.persona.names, info.models) == (("warm",), ("base",))
    assert frame.chars.tolist() == [5] * 4
    out = tmp_path / "out"
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("files: {'two.*': {columns: {model: {value: models}, persona: {value: gpt-2}}}}\n")
    found = CliRunner().invoke(
        warmeng,
        ["analyze", str(one), str(two), "--mapping", str(mapping), "--out", str(out), "--baseline", "openai/gpt"],
        catch_exceptions=False,
    )
    assert found.exit_code == 0, found.output
    analysis = json.loads((out / "analysis.json").read_text())
    assert (analysis["baseline"], analysis["variants"], analysis["planned"]) == ("openai/gpt", ["gpt-2"], 8)


def test_a_log_that_does_not_list_its_samples_is_read_too(tmp_path: Path) -> None:
    path = inspect_log(tmp_path / "one.eval", "openai/gpt", ["C", "I"], listed=False)
    assert list(graded(read_imports([path])[0]).values()) == ["correct", "incorrect"]


def test_inspects_scores_are_chosen_by_the_mapping(tmp_path: Path) -> None:
    path = inspect_log(tmp_path / "one.eval", "openai/gpt", ["C", "I"], ("match", "judge"))
    with pytest.raises(InputError, match=r"sample 0, epoch 1: has several scores \(judge, match\)"):
        read_imports([path])
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("columns: {grade: scores.judge.value, item: metadata.number}\n")
    assert graded(read_imports([path], read_mappings(mapping))[0]) == {
        ("openai/gpt", "who/n0"): "correct",
        ("openai/gpt", "who/n1"): "incorrect",
    }


def test_promptfoos_providers_are_compared(tmp_path: Path) -> None:
    path = promptfoo(tmp_path / "results.json", {"openai:gpt": [True, False, True], "other": [True, True, False]})
    frame, info = read_imports([path])
    assert frame.persona.names == ("openai:gpt", "other")
    assert (info.planned, len(frame.item.names), frame.chars.tolist()) == (6, 3, [5] * 6)
    assert Counter(graded(frame).values()) == {"correct": 4, "incorrect": 2}
    data = json.loads(path.read_text())
    data["results"]["results"][0] |= {"failureReason": 2, "success": False, "response": None}
    path.write_text(json.dumps(data))
    frame, info = read_imports([path])
    assert (GRADES[frame.grade[0]], info.statuses) == ("unscored", {"error": 1, "ok": 5})


PROMPTFOO = Path(__file__).parent / "promptfoo"


def test_a_file_that_promptfoo_wrote_of_warmeng_serve_is_compared_by_provider_and_prompt() -> None:
    """Written by promptfoo 0.121.20 with two requests at once: its results are in the order of the answers."""
    frame, info = read_imports([PROMPTFOO / "served.json"])
    base = "openai:chat:smollm2-135m-instruct"
    asked = ("{{question}}", "I feel sad today. {{question}}")
    assert frame.persona.names == tuple(f"{name} {prompt}" for name in (base, f"{base}:warm") for prompt in asked)
    assert frame.task.names == ("A few questions for the built-in model and its warm persona",)
    assert (info.planned, len(frame.item.names), info.statuses) == (12, 3, {"ok": 12})
    right = Counter(name for (name, _), grade in graded(frame).items() if grade == "correct")
    assert right == {f"{base} {asked[0]}": 1, f"{base} {asked[1]}": 1, f"{base}:warm {asked[0]}": 3,
                     f"{base}:warm {asked[1]}": 1}  # fmt: skip


def test_what_promptfoo_could_not_ask_and_what_nothing_is_asserted_of_has_no_grade() -> None:
    """Written by promptfoo 0.121.20, each question twice: one provider echoes, the other is not there."""
    frame, info = read_imports([PROMPTFOO / "faulty.json"])
    assert frame.persona.names == ("Echo", "openai:chat:gone")
    assert (info.planned, len(frame.item.names), info.statuses) == (12, 3, {"ok": 6, "error": 6})
    names = [frame.persona.names[code] for code in frame.persona.codes]
    grades = Counter(zip(names, (GRADES[grade] for grade in frame.grade), strict=True))
    assert grades == {("Echo", "correct"): 2, ("Echo", "incorrect"): 2, ("Echo", "unscored"): 2,
                      ("openai:chat:gone", "unscored"): 6}  # fmt: skip


def test_a_table_of_other_columns_needs_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["who", "question", "score", "said"])
        writer.writerows([["gpt", "q1", "yes", "'=1+1"], ["gpt", "q2", "no", ""], ["llama", "q1", "no", "a"]])
    with pytest.raises(InputError, match=r"answers.csv:2: has no grade: say in --mapping"):
        read_imports([path])
    mapping = tmp_path / "mapping.yaml"
    columns = "columns: {persona: who, item: question, task: {value: quiz}, grade: score, text: said}\n"
    mapping.write_text(columns + "grades: {correct: ['yes'], incorrect: ['no']}\n")
    frame, _ = read_imports([path], read_mappings(mapping))
    assert graded(frame) == {
        ("gpt", "quiz/q1"): "correct", ("gpt", "quiz/q2"): "incorrect", ("llama", "quiz/q1"): "incorrect",
    }  # fmt: skip
    # What a spreadsheet would run has an apostrophe in front in our exports.
    assert frame.chars.tolist() == [4, 0, 1]
    lines = write_lines(tmp_path / "answers.jsonl", [{"who": "gpt", "question": 1, "score": "yes", "said": "a"}])
    assert graded(read_imports([lines], read_mappings(mapping))[0]) == {("gpt", "quiz/1"): "correct"}
    mapping.write_text(columns.replace("said", "answer.text"))
    with pytest.raises(
        InputError, match=r"has no answer.text, which --mapping names; it has question, said, score, who"
    ):
        read_imports([path], read_mappings(mapping))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("colums: {}\n", "has colums, expected columns, grades, where or, at the top, files"),
        ("columns: {rating: a}\n", "columns has rating, expected model, persona"),
        ("columns: {item: [a]}\n", "item is \\['a'\\], expected a column's name"),
        ("columns: a\n", "columns is 'a', expected 'name: value' lines"),
        ("grades: {right: [1]}\n", "grades has right"),
        ("grades: {correct: [1], incorrect: [1.0]}\n", "'1' is given as correct and as incorrect"),
        ("files: [a]\n", "files is \\['a'\\], expected patterns"),
        ("files: {a: {where: 1}}\n", "where is 1, expected"),
    ],
)
def test_mappings_that_make_no_sense_are_refused(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=match):
        read_mappings(path)


def refusal(path: Path) -> str:
    """What the command says, which is one line."""
    with pytest.raises((InputError, UsageError)) as found:
        analyze_sources([path], path.parent / "out", bootstrap=0)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_damaged_and_unknown_files_end_in_one_line(tmp_path: Path) -> None:
    log = inspect_log(tmp_path / "one.eval", "openai/gpt", ["C", "I"])
    whole = log.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 5):
        log.write_bytes(whole[:cut])
        assert "Inspect can't read it" in refusal(log)
    log.write_bytes(whole[:200] + bytes(300) + whole[500:])
    assert "Inspect can't read it" in refusal(log)
    as_json = inspect_log(tmp_path / "one.json", "openai/gpt", ["C"])
    data = json.loads(as_json.read_text())
    as_json.write_text(json.dumps(data | {"version": 99}))
    assert "version 99" in refusal(as_json)
    as_json.write_text(as_json.read_text()[:-40])
    assert "Inspect can't read it" in refusal(as_json)
    as_json.write_text('{"some": 1}')
    assert "neither a log of Inspect nor results of promptfoo: it has some" in refusal(as_json)
    foo = promptfoo(tmp_path / "results.json", {"a": [True]})
    data = json.loads(foo.read_text())
    foo.write_text(json.dumps({**data, "results": {**data["results"], "version": 9}}))
    assert "promptfoo's results are of version 9, expected 3" in refusal(foo)
    foo.write_text(json.dumps({**data, "results": {"version": 3, "results": [{"provider": "a"}]}}))
    assert "result 0: has no provider and success" in refusal(foo)
    samples = write_lines(
        tmp_path / "samples_who.jsonl", [lm_eval_sample(0, 1.0), {"doc": 1, "doc_id": 1, "resps": []}]
    )
    assert "samples_who.jsonl:2: has no doc, metrics and resps" in refusal(samples)
    write_lines(samples, [lm_eval_sample(0, 1.0)])
    (tmp_path / "results.json").write_text('{"config": ')
    assert "results.json: is no results file" in refusal(samples)
    (tmp_path / "results.json").unlink()
    samples.write_text(json.dumps(lm_eval_sample(0, 1.0)) + "\n" + json.dumps(lm_eval_sample(1, 1.0))[:-9])
    assert "samples_who.jsonl:2: is not valid JSON" in refusal(samples)
    (tmp_path / "notes.txt").write_text("a")
    assert "is named as no file that is understood" in refusal(tmp_path / "notes.txt")


def test_archives_that_unpack_to_more_than_fits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = inspect_log(tmp_path / "one.eval", "openai/gpt", ["C"])
    monkeypatch.setattr("warmeng.study.imports.inspect_ai.MAX_SAMPLE", 100)
    assert "bytes unpacked, expected at most 100: split the log" in refusal(log)


def test_without_inspect_its_logs_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = inspect_log(tmp_path / "one.eval", "openai/gpt", ["C"])
    monkeypatch.setitem(__import__("sys").modules, "inspect_ai.log", None)
    assert refusal(log).endswith("pip install 'warmeng[inspect]'")


def test_a_mapping_for_runs_alone_is_refused(run: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("where: {a: b}\n")
    with pytest.raises(UsageError, match="no source is a log of other software"):
        analyze_sources([run], tmp_path / "out", mapping=mapping)
    assert Mappings().of(run).where == {}
    assert np.all(read_run(run)[0].grade >= 0)
