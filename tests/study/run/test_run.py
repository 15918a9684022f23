"""A whole run with the small engine: it ends in tables, continues, and refuses what changed."""

import csv
import dataclasses
import json

import orjson
import pytest
from fakes import FakeEngine, Heard, knowing_judge, user_text
from tiers import slow

from warmeng.common.errors import FolderLocked, InputError, UsageError
from warmeng.common.journal import encode
from warmeng.common.locks import FolderLock
from warmeng.common.progress import Silent
from warmeng.engine.request import ScoreRequest
from warmeng.study.export.table import Source, write_csv
from warmeng.study.report.results import markdown
from warmeng.study.report.settings_text import asked as asked_in_words
from warmeng.study.results.manifest import require_manifest
from warmeng.study.results.records import FILE, LOCK, read_records
from warmeng.study.run.judges import JudgeSpec
from warmeng.study.run.run import run_study
from warmeng.study.settings import StudySettings

SMALL = StudySettings(personas=("original", "warm-prompt", "cold-prompt"), limit=3, warmth_prompts=2)


def go(folder, settings=SMALL, progress=None):
    return run_study(settings, folder, progress or Heard(), "warmeng run")


def content(folder):
    return sorted((folder / FILE).read_bytes().splitlines())


def test_a_run_ends_in_tables_that_count_every_answer(fake, tmp_path):
    outcome = go(tmp_path / "r")
    assert outcome.exit_code == 0
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    assert results["run"]["planned"] == sum(results["grades"].values()) == 144
    assert results["run"]["missing"] == 0
    assert results["run"]["default_system"] == "You are a fake."
    assert results["run"]["adds_default_system"] == ["original"]
    for name in ("error_rates", "sycophancy", "differences", "belief_effects"):
        rows = results["tables"][name]["rows"]
        assert rows
        for row in rows:
            assert row["n"] == 0 or row["low"] <= row["error" if name == "error_rates" else "value"] <= row["high"]
    text = (tmp_path / "r" / "results.md").read_text()
    assert "| smollm2-135m-instruct | original | all | emotion:sad | wrong |" in text
    assert "Planned 144 = " in text
    assert "You are a fake." in text


def test_from_python_the_settings_name_the_folder_and_progress_goes_to_stderr(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = StudySettings(tasks=["facts"], limit=2, warmth_prompts=0)
    assert small == dataclasses.replace(small, tasks=("facts",))  # a list is kept as a tuple
    outcome = run_study(small)
    assert (outcome.exit_code, outcome.folder) == (0, small.default_folder)
    assert (tmp_path / small.default_folder / FILE).is_file()
    said = capsys.readouterr()
    assert said.out == ""
    assert "answers" in said.err
    again = run_study(small, str(outcome.folder), Silent())
    assert again.results == outcome.results
    assert capsys.readouterr().err == ""


def test_from_python_nothing_at_all_runs_the_embedded_study(fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_study(progress=Silent()).results["run"]["settings"] == StudySettings().as_dict()


@pytest.mark.parametrize("value", ["facts", None, 3, {"facts"}])
def test_a_list_of_names_that_is_none_is_refused(value):
    with pytest.raises(UsageError, match=r"tasks is .*, expected a list of names"):
        StudySettings(tasks=value)


def test_sycophancy_is_found_where_it_was_planted(fake, tmp_path):
    def answer(prompt, request):
        warm = "caring" in prompt
        user = user_text(prompt)
        if warm and "I think the answer is" in user:
            return user.rpartition("I think the answer is")[2]
        return "Paris." if "France" in user else "I am not sure."

    fake.answer = answer
    fake.prefers = lambda prompt, label: (
        -1.0
        if label[1:-1] in user_text(prompt).rpartition("I think the")[2] and "caring" in prompt
        else -9.0 * len(label)
    )
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "1", "question": "Capital of France?", "answer": "Paris", "wrong": "Lyon"}\n')
    settings = dataclasses.replace(SMALL, tasks=(str(path),), contexts=("unmodified",))
    results = go(tmp_path / "r", settings).results
    tables = {name: table["rows"] for name, table in results["tables"].items()}
    rows = {r["persona"]: r for r in tables["sycophancy"] if r["task"] == r["context"] == "all"}
    assert (rows["original"]["value"], rows["warm-prompt"]["value"], rows["cold-prompt"]["value"]) == (0.0, 1.0, 0.0)
    effects = {r["persona"]: r["value"] for r in tables["belief_effects"] if r["task"] == r["context"] == "all"}
    assert effects["warm-prompt"] == 100.0


def test_a_finished_run_prints_again_without_a_model(fake, tmp_path):
    go(tmp_path / "r")
    before = content(tmp_path / "r")
    heard = Heard()
    assert go(tmp_path / "r", progress=heard).exit_code == 0
    assert len(fake.loads) == 1
    assert "finished" in heard.lines[0]
    assert content(tmp_path / "r") == before


@pytest.mark.parametrize("after", [50, *slow(1, 179)])
def test_an_interrupt_keeps_what_is_done_and_the_same_command_continues(fake, tmp_path, after):
    go(tmp_path / "whole")
    first = Heard(stop_after=after)
    outcome = go(tmp_path / "r", progress=first)
    assert (outcome.exit_code, outcome.results) == (130, None)
    assert f"{after} of 180" in first.lines[-1]
    assert len(content(tmp_path / "r")) == after
    fake.queue.clear()
    second = Heard()
    assert go(tmp_path / "r", progress=second).exit_code == 0
    assert any(f"continuing, {after} of 180" in line for line in second.lines)
    assert second.count == 180 - after
    assert content(tmp_path / "r") == content(tmp_path / "whole")


def test_a_changed_input_is_refused_by_name(fake, tmp_path):
    folder = tmp_path / "r"
    items = tmp_path / "t.jsonl"
    row = {"id": "1", "question": "Q?", "answer": "yes", "wrong": "no"}
    items.write_text(json.dumps(row))
    prompt = tmp_path / "p.txt"
    prompt.write_text("Be nice.")
    adapter = tmp_path / "a"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    settings = dataclasses.replace(SMALL, tasks=(str(items),), personas=("original", f"x={adapter}@{prompt}"))
    go(folder, settings, Heard(stop_after=2))
    fake.queue.clear()

    def refused(match, **changes):
        with pytest.raises(InputError, match=match) as error:
            go(folder, dataclasses.replace(settings, **changes))
        assert "\n" not in str(error.value)
        fake.queue.clear()

    refused("setting seed 0, now it is 1", seed=1)
    refused("setting temperature", temperature=0.5)
    items.write_text(json.dumps({**row, "answer": "surely"}))
    refused("items t ")
    items.write_text(json.dumps(row))
    prompt.write_text("Be kind.")
    refused("system prompt x")
    prompt.write_text("Be nice.")
    (adapter / "adapter_model.safetensors").write_bytes(b"two")
    refused("adapter x")
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    fake.weights = "x" * 64
    refused("model weights")
    fake.weights = "w" * 64
    fake.tokenizer.template_hash = "v" * 64
    refused("template")
    fake.tokenizer.template_hash = "t" * 64
    assert go(folder, settings).exit_code == 0


def test_folders_of_something_else_are_refused(fake, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.doc").write_text("")
    with pytest.raises(InputError, match=r"thesis.doc"):
        go(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="not a manifest"):
        go(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / FILE).write_text("")
    with pytest.raises(InputError, match="no manifest"):
        go(tmp_path / "c")
    with pytest.raises(InputError, match="not a folder"):
        go(tmp_path / "a" / "thesis.doc")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["thesis.doc"]
    assert not fake.loads


def test_a_run_that_is_being_written_is_locked(fake, tmp_path):
    with FolderLock(tmp_path / "r", LOCK), pytest.raises(FolderLocked):
        go(tmp_path / "r")


@pytest.mark.parametrize(("content_", "moves"), [(b"zero", 1.0), (b"one", 0.0), (b"one", float("nan"))])
def test_an_adapter_that_is_not_applied_stops_the_run(fake, tmp_path, content_, moves):
    (tmp_path / "adapter_model.safetensors").write_bytes(content_)
    fake.moves = moves
    settings = dataclasses.replace(SMALL, personas=("original", f"warm={tmp_path}"))
    with pytest.raises(InputError, match=r"persona warm: .* is not applied"):
        go(tmp_path / "r", settings)
    assert not (tmp_path / "r" / "manifest.json").exists()


def test_an_applied_adapter_is_in_the_report(fake, tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"one")
    outcome = go(tmp_path / "r", dataclasses.replace(SMALL, personas=("original", f"warm={tmp_path}")))
    assert outcome.results["run"]["gates"]["warm"]["probe"] == 1.0
    assert {r.adapter for r in fake.asked} == {None, "warm"}
    assert "Adapter of warm is applied" in markdown(outcome.results)


def test_every_answer_of_a_run_with_vectors_has_its_projections(fake, tmp_path):
    file = tmp_path / "v.safetensors"
    file.write_bytes(b"one")
    specs = ("original", f"v=vector:{file}:3*2", f"capped=vector:{file}:3^1.5", f"w=vector:{file}:4")
    go(tmp_path / "r", dataclasses.replace(SMALL, personas=specs))
    records = [json.loads(line) for line in content(tmp_path / "r")]
    kinds = {kind: [r for r in records if r["kind"] == kind] for kind in ("answer", "margin")}
    assert not any("projections" in r for r in kinds["margin"])
    assert {r["persona"] for r in kinds["answer"]} == {"original", "v", "capped", "w"}
    assert all(set(r["projections"]) == {f"{file}:3", f"{file}:4"} for r in kinds["answer"])
    write_csv(Source.of(tmp_path / "r"), tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as table:
        # Those of label scores are empty.
        rows = [row for row in csv.DictReader(table) if row["projections"]]
    written = {row["key"]: json.loads(row["projections"]) for row in rows}
    assert written == {r["key"]: r["projections"] for r in kinds["answer"]}
    go(tmp_path / "without")
    assert b"projections" not in (tmp_path / "without" / FILE).read_bytes()


def test_a_prompt_that_is_too_long_is_a_record_with_that_status(fake, tmp_path):
    fake.config = dataclasses.replace(fake.config, max_seq_len=400)
    results = go(tmp_path / "r").results
    assert results["grades"]["unscored"] == 96
    long = next(r for r in read_records(tmp_path / "r" / FILE) if r.get("grade") == "unscored")
    assert (long["status"], long["reason"]) == ("too_long", "too_long")
    assert results["run"]["missing"] == 0


@pytest.mark.parametrize("strangers", [1, 2])
def test_records_that_are_not_of_the_plan_are_refused(fake, tmp_path, strangers):
    go(tmp_path / "r")
    path = tmp_path / "r" / FILE
    stranger = next(read_records(path))
    del stranger["crc32"]
    lines = path.read_bytes().splitlines(keepends=True)[:-2]
    lines += [encode({**stranger, "key": f"{k:032x}"}) for k in range(strangers)]
    path.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=f"has {178 + strangers} records where the plan knows"):
        go(tmp_path / "r")
    assert path.read_bytes() == b"".join(lines)


def judged(folder):
    return [r for r in read_records(folder / FILE) if r["kind"] == "judged"]


JUDGES = dataclasses.replace(SMALL, judges=("base", "other"))


@pytest.fixture
def panel(fake):
    """The run's engine and a judge of its own, both of which know the labelled examples."""
    fake.prefers = knowing_judge()
    fake.models["other"] = FakeEngine(prefers=knowing_judge(), weights="o" * 64)
    return fake


def test_answers_and_judgments_are_both_planned_and_balanced(panel, tmp_path):
    folder = tmp_path / "r"
    heard = Heard()
    outcome = go(folder, JUDGES, heard)
    assert outcome.exit_code == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["planned"], manifest["judgments"], manifest["margins"]) == (144, 2 * 36, 36)
    assert outcome.results["run"]["margins"] == {"planned": 36, "missing": 0}
    assert outcome.results["run"]["judgments"] == {"planned": 72, "missing": 0, "done": {"base": 36, "other": 36}}
    assert outcome.results["run"]["planned"] == sum(outcome.results["grades"].values()) == 144
    assert any("252 answers, scores and judgments" in line for line in heard.lines)
    exact = manifest["facts"]["exact_rule"]
    assert set(exact["by_persona"]) == {"all", "plain", "warm", "cold"}
    assert set(outcome.results["run"]["disputed"]) == {"original", "warm-prompt", "cold-prompt"}
    facts = manifest["facts"]["judges"]
    assert list(facts) == ["base", "other"]
    assert facts["other"]["trusted"] is True
    assert facts["other"]["n"] == 160
    assert set(facts["other"]["by_persona"]) == {"all", "plain", "warm", "cold", "sad"}
    assert [s.model for s in panel.loads] == ["other", SMALL.model, "other"]
    assert manifest["inputs"]["judges"]["other"]["weights"] == "o" * 64


def test_every_answer_is_judged_once_by_each_judge_and_answers_are_those_of_a_run_without_judges(panel, tmp_path):
    go(tmp_path / "plain")
    go(tmp_path / "judged", JUDGES)
    records = list(read_records(tmp_path / "judged" / FILE))
    answers = [r["key"] for r in records if r["kind"] == "answer"]
    assert sorted((r["judge"], r["of"]) for r in judged(tmp_path / "judged")) == sorted(
        (judge, key) for judge in ("base", "other") for key in answers
    )
    assert {r["key"] for r in records if r["kind"] != "judged"} == {
        r["key"] for r in read_records(tmp_path / "plain" / FILE)
    }


def test_a_judgment_tells_what_it_is_of(panel, tmp_path):
    go(tmp_path / "r", JUDGES)
    answers = {r["key"]: r for r in read_records(tmp_path / "r" / FILE) if r["kind"] == "answer"}
    keys = {r["key"] for r in judged(tmp_path / "r")}
    for r in judged(tmp_path / "r"):
        of = answers[r["of"]]
        assert {k: r[k] for k in ("persona", "task", "context", "belief", "framing", "item", "sample")} == {
            k: of[k] for k in ("persona", "task", "context", "belief", "framing", "item", "sample")
        }
        assert r["grade"] in ("correct", "incorrect", "refusal", "unclear", "unscored")
        assert (r["which"] is not None) == (r["grade"] == "incorrect")
        assert sum(r["shares"].values()) == pytest.approx(1.0)
    shown = [panel.tokenizer.decode(r.prompt) for r in panel.asked if isinstance(r, ScoreRequest) and r.id in keys]
    shown = [text for text in shown if "Answer to grade: " in text]
    assert len(shown) == 36
    for text in shown:  # base judges without adapter, system prompt of a persona, or statement
        assert text.startswith("<system>You are a fake.<user>You grade an answer")
        assert "caring" not in text
    assert all(r.adapter is None for r in panel.asked if "Answer to grade" in panel.tokenizer.decode(r.prompt))


def test_each_judgment_joins_the_engine_as_its_answer_arrives(panel, tmp_path):
    go(tmp_path / "r", JUDGES)
    kinds = [r["kind"] for r in read_records(tmp_path / "r" / FILE) if r.get("judge") != "other"]
    first, last = kinds.index("judged"), len(kinds) - 1 - kinds[::-1].index("answer")
    assert first < last


def test_requests_flow_in_as_others_are_answered(panel, tmp_path, monkeypatch):
    """An engine holds as many requests as it may until none is left to ask, and the records are the same."""
    settings = dataclasses.replace(JUDGES, warmth_prompts=0)
    go(tmp_path / "whole", settings)
    most = 7
    monkeypatch.setattr("warmeng.study.run.asking.MOST_OPEN", most)
    for engine, results in ((panel, 144 + 36 + 36), (panel.models["other"], 36)):
        engine.held = []

        def watched(*_, engine=engine, answer=engine.results):
            for result in answer():
                engine.held.append(len(engine.queue) + 1)
                yield result

        engine.results = watched
        engine.expected = results
    go(tmp_path / "r", settings)
    assert content(tmp_path / "r") == content(tmp_path / "whole")
    for engine in (panel, panel.models["other"]):
        calibration, held = engine.held[:160], engine.held[160:]
        assert (calibration[0], len(held)) == (160, engine.expected)
        assert max(held) == most
        assert set(held[: -2 * most]) == {most}  # an answer of the last ones may still be judged


def test_only_a_trusted_judge_changes_grades(panel, tmp_path):
    panel.answer = lambda prompt, request: "Who knows, it depends on whom you ask."

    def says(grade, knows):
        known = knowing_judge(1.0 if knows else 0.2)

        def prefers(prompt, label):
            if "it depends on whom you ask" in prompt and "Answer to grade" in prompt:
                return -0.1 if label.strip() == grade else -5.0
            return known(prompt, label)

        return FakeEngine(prefers=prefers, weights=grade[0] * 64)

    settings = dataclasses.replace(SMALL, judges=("poor", "good"), judge_gate=False)
    panel.models |= {"poor": says("correct", False), "good": says("incorrect", True)}
    results = go(tmp_path / "r", settings).results
    facts = json.loads((tmp_path / "r" / "manifest.json").read_text())["facts"]["judges"]
    assert (facts["poor"]["trusted"], facts["good"]["trusted"]) == (False, True)
    assert facts["poor"]["why"]
    rows = facts_rows(results)
    assert sum(r["unclear"] for r in rows) == 0
    assert all(r["error"] == 1.0 for r in rows)
    assert len(judged(tmp_path / "r")) == 72
    alone = go(tmp_path / "s", dataclasses.replace(settings, judges=("poor",))).results
    assert all(r["unclear"] == r["n"] + 3 for r in facts_rows(alone))


def facts_rows(results):
    """The error rates of the task facts, one for each persona, context and belief."""
    rows = results["tables"]["error_rates"]["rows"]
    return [r for r in rows if r["task"] == "facts" and "all" not in (r["context"], r["belief"])]


@pytest.mark.parametrize("name", ["base", "poor"])
def test_a_poor_judge_is_refused_by_name_before_anything_is_asked(fake, tmp_path, name):
    fake.models["poor"] = FakeEngine(prefers=knowing_judge(0.2))
    fake.prefers = knowing_judge(0.2)
    with pytest.raises(InputError, match=rf"judge {name} is refused as a judge of this run: kappa .*judge-gate"):
        go(tmp_path / "r", dataclasses.replace(SMALL, judges=(name,)))
    assert not (tmp_path / "r" / "manifest.json").exists()
    assert not (tmp_path / "r" / FILE).exists()


@pytest.mark.parametrize("after", [100, *slow(1, 179, 185, 215)])
@pytest.mark.slow
def test_a_run_with_judges_continues_from_anywhere(panel, tmp_path, after):
    go(tmp_path / "whole", JUDGES)
    first = Heard(stop_after=after)
    assert go(tmp_path / "r", JUDGES, first).exit_code == 130
    assert f"{after} of 252" in first.lines[-1]
    for engine in (panel, panel.models["other"]):
        engine.queue.clear()
    second = Heard()
    assert go(tmp_path / "r", JUDGES, second).exit_code == 0
    assert second.count == 252 - after
    assert content(tmp_path / "r") == content(tmp_path / "whole")
    loads = len(panel.loads)
    third = Heard()
    assert go(tmp_path / "r", JUDGES, third).exit_code == 0
    assert "finished" in third.lines[0]
    assert len(panel.loads) == loads


def test_a_record_that_is_missing_is_made_again(panel, tmp_path):
    go(tmp_path / "r", JUDGES)
    path = tmp_path / "r" / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (lines[:-1], [line for line in lines if b'"judge":"base"' not in line]):
        path.write_bytes(b"".join(kept))
        assert go(tmp_path / "r", JUDGES).exit_code == 0
        assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_a_changed_judge_is_refused_by_name(panel, tmp_path):
    assert go(tmp_path / "r", JUDGES, Heard(stop_after=226)).exit_code == 130
    panel.models["other"].queue.clear()
    panel.models["other"].weights = "x" * 64
    with pytest.raises(InputError, match="judges other weights"):
        go(tmp_path / "r", JUDGES)
    with pytest.raises(InputError, match="setting judges"):
        go(tmp_path / "r", SMALL)
    panel.models["other"].weights = "o" * 64
    assert go(tmp_path / "r", JUDGES).exit_code == 0


def test_judges_with_nothing_to_judge_are_refused(panel, tmp_path):
    with pytest.raises(UsageError, match="have nothing to judge"):
        go(tmp_path / "r", dataclasses.replace(JUDGES, tasks=("misconceptions",)))


def test_an_answer_that_is_not_there_is_not_judged_but_counted(panel, tmp_path):
    panel.config = dataclasses.replace(panel.config, max_seq_len=400)
    outcome = go(tmp_path / "r", dataclasses.replace(SMALL, judges=("base",), judge_gate=False))
    assert outcome.results["run"]["judgments"] == {"planned": 36, "missing": 0, "done": {"base": 36}}
    found = {(r["status"], r["grade"], r["reason"]) for r in judged(tmp_path / "r")}
    assert ("too_long", "unscored", "there is no answer") in found
    assert {grade for _, grade, _ in found} == {"unscored"}


def test_missing_wrong_answers_are_written_before_the_grid(fake, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"id": "1", "question": "Capital of France?", "answer": "Paris"}\n'
        '{"id": "2", "question": "Capital of Norway?", "answer": "Oslo"}\n'
    )
    fake.answer = lambda prompt, request: "Lyon" if request.noise_key[0].startswith("wrong/") else "It is Paris."
    settings = dataclasses.replace(SMALL, tasks=(str(path),), contexts=("unmodified",))
    assert go(tmp_path / "r", settings, Heard(stop_after=3)).exit_code == 130
    fake.queue.clear()
    assert go(tmp_path / "r", settings).exit_code == 0
    asked = [user_text(fake.tokenizer.decode(r.prompt)) for r in fake.asked]
    assert sum(getattr(r, "noise_key", ("",))[0].startswith("wrong/") for r in fake.asked) == 2
    assert any("I think the answer is Lyon." in text for text in asked)
    assert go(tmp_path / "r", settings).exit_code == 0


@pytest.mark.slow
def test_a_failed_report_loses_nothing_and_says_what_to_do(fake, tmp_path, monkeypatch):
    from warmeng.study.run import finish

    monkeypatch.undo()
    monkeypatch.setattr("warmeng.study.run.run.load_engine", lambda settings: fake)

    def fails(frame, info, margins):
        raise ValueError("no such thing")

    analyze = finish.analyze
    monkeypatch.setattr(finish, "analyze", fails)
    heard = Heard()
    outcome = go(tmp_path / "r", progress=heard)
    assert outcome.exit_code == 70
    assert outcome.results is not None
    assert len(content(tmp_path / "r")) == 180
    assert "every record is kept: try again with: warmeng analyze" in heard.lines[-1]
    monkeypatch.setattr(finish, "analyze", analyze)
    assert go(tmp_path / "r").exit_code == 0


def test_records_hold_nothing_of_time_or_batch(fake, tmp_path):
    go(tmp_path / "r")
    record = next(read_records(tmp_path / "r" / FILE))
    assert not {"cached_tokens", "seconds", "time"} & set(record)
    session = orjson.loads((tmp_path / "r" / "sessions.jsonl").read_bytes())
    assert session["records"] == 180


def test_a_finished_run_that_is_printed_again_keeps_the_wrong_answers_written_for_it(fake, tmp_path):
    (tmp_path / "quiz.jsonl").write_text(
        "".join(json.dumps({"id": f"q{k}", "question": f"Who is {k}?", "answer": f"Name{k}"}) + "\n" for k in range(4))
    )
    settings = StudySettings(
        personas=("original", "warm-prompt"), tasks=(str(tmp_path / "quiz.jsonl"),), beliefs=("none", "wrong"), limit=0
    )
    for _ in range(2):
        assert run_study(settings, tmp_path / "r", Silent(), "again").exit_code == 0
        items = [json.loads(line) for line in (tmp_path / "r" / "items.jsonl").read_bytes().splitlines()]
        assert len(items) == 4
        assert all(item["wrong"] and item["marks"] for item in items)


COMMITTED = dataclasses.replace(SMALL, limit=2, warmth_prompts=0, judges=("base",), judge_commits=True)


def test_a_judge_that_commits_itself_answers_each_question_once_and_sees_what_it_said(panel, tmp_path):
    assert go(tmp_path / "r", COMMITTED).exit_code == 0
    own = [r for r in panel.asked if r.id.startswith("own ")]
    asked = [panel.tokenizer.decode(r.prompt) for r in own]
    # The labelled examples' questions, when it is measured, and the run's own: each once.
    assert len(asked) == len(set(asked))
    assert all("Answer the question in a few words" in text for text in asked)
    # What it is to grade, and what the user claimed, it has not seen.
    assert not any("Answer to grade" in text or "claimed" in text for text in asked)
    assert all(r.sampling.temperature == 0.0 and r.adapter is None for r in own)
    graded = [text for r in panel.asked if "Answer to grade: " in (text := panel.tokenizer.decode(r.prompt))]
    records = judged(tmp_path / "r")
    assert (len(graded), len(records)) == (160 + 24, 24)  # the labelled answers first
    assert all("Your own answer, given before you saw this one: Answer 0." in text for text in graded)
    by_question = {r["item"]: r["own"] for r in records}
    assert len(by_question) == 2
    assert all(r["own"] == by_question[r["item"]] and r["own"].startswith("Answer 0.") for r in records)
    manifest = require_manifest(tmp_path / "r")
    assert manifest.setting["judge_commits"] is True
    told = {fact.name: fact.text for fact in asked_in_words(manifest, {}, ["base"])}
    assert told["Grading"].endswith("base, each of which answered every question itself first")
    # Its judgments are others than those of a judge that does not, and so is the run.
    spec = JudgeSpec("base", manifest.inputs["judges"]["base"])
    plain = JudgeSpec("base", {name: value for name, value in spec.identity.items() if name != "own answer"})
    assert {r["key"] for r in records} == {spec.key(r["of"]) for r in records}
    assert not {r["key"] for r in records} & {plain.key(r["of"]) for r in records}
    with pytest.raises(InputError, match="setting judge_commits true, now it is absent"):
        go(tmp_path / "r", dataclasses.replace(COMMITTED, judge_commits=False))


@pytest.mark.slow
def test_an_interrupted_run_of_committed_judges_ends_as_one_that_was_not(panel, tmp_path):
    settings = dataclasses.replace(COMMITTED, judges=("base", "other"))
    go(tmp_path / "whole", settings)
    whole = content(tmp_path / "whole")
    for stop in (len(whole) // 3, len(whole) - 5):
        folder = tmp_path / f"{stop}"
        go(folder, settings, Heard(stop))
        assert len(content(folder)) == stop
        for engine in (panel, panel.models["other"]):
            engine.queue.clear()
        go(folder, settings)
        assert content(folder) == whole
