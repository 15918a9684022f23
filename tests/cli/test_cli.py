"""The command line: fast help, one line for every error, the right exit codes."""

import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from warmeng.cli.list import KINDS
from warmeng.cli.main import warmeng
from warmeng.common.progress import Silent
from warmeng.study.listing import KINDS as LISTED

SCRIPT = Path(__file__).parents[1] / "helpers" / "fake_warmeng.py"
ITEM = {"id": "1", "question": "Q?", "answer": "yes", "wrong": "no"}


@pytest.fixture
def call(launcher, tmp_path):
    """Runs a command line with the small engine, in the test's folder."""
    return lambda *arguments, **environment: launcher.run(
        arguments, cwd=str(tmp_path), environment={"COLUMNS": "80", **environment}
    )


def real(*arguments, cwd):
    """Run a command line in a process of its own."""
    command = [sys.executable, "-c", "from warmeng.cli.main import main; main()", *arguments]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def one_line(code, said, expected, *says):
    assert code == expected, said
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    for text in says:
        assert text in last
    if code != 2:
        assert said.count("\n") <= 2  # at most a line on what was begun, and the error


def test_help_is_fast_and_imports_nothing_heavy(tmp_path):
    real("--help", cwd=tmp_path)
    best = 9.9
    for _ in range(5):
        began = time.perf_counter()
        done = real("--help", cwd=tmp_path)
        best = min(best, time.perf_counter() - began)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("run", "grade", "models", "bench"))
    assert best < 0.5
    code = (
        "import sys, warmeng.cli.main, warmeng.cli.run, warmeng.cli.grade;"
        "print([m for m in ('torch', 'transformers', 'scipy', 'statsmodels', 'numpy', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_version(tmp_path):
    assert real("--version", cwd=tmp_path).stdout.startswith("warmeng ")


def test_a_run_without_arguments_ends_in_a_table_and_says_where(call, tmp_path):
    done = call("run")
    assert done.code == 0, done.err
    for text in (
        "Error rates",
        "Sycophancy",
        "Difference in errors from the baseline",
        "emotion:sad",
        "cold-prompt",
        "results.md",
        "Planned 288 =",
    ):
        assert text in done.out
    again = call("run")
    assert again.code == 0
    assert "finished" in again.err
    assert again.out == done.out
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_run_with_margins_ends_in_what_was_found(call, tmp_path):
    margins = ("--asking", "open,choice", "--beliefs", "none,wrong,right,mention-wrong,mention-right")
    done = call("run", *margins, "--tasks", "health", "--limit", "3", "--out", "r")
    assert done.code == 0, done.err
    found = done.out[done.out.index("What was found") :]
    claim = r"Primary claim, named before the first answer: (a difference in )?agreement \(choice\) .*warm-prompt"
    assert re.match(claim, found.splitlines()[1])
    assert found.splitlines()[2].startswith("Everything else is exploratory: of ")
    assert "cold-prompt minus original: " in found
    assert found.index("Without a claim") > found.index("warm-prompt minus cold-prompt: ")
    assert "Agreement: what a user's own claim does beyond its mention" in done.out
    assert (tmp_path / "r" / "results.md").read_text().startswith("# Results\n\n## What was found\n")
    planned = call("run", *margins, "--dry-run", "--no-probe")
    assert "agreement (choice); all others are beside it" in planned.out
    assert "asked: mention, order-balanced choice; not asked: third person, denial, unrelated sentence" in planned.out
    assert "on agreement (choice) " in planned.out
    assert "standard deviations of its change between two personas" in planned.out


def test_dry_run_runs_nothing(call, tmp_path):
    done = call("run", "--dry-run", "--contexts", "all")
    assert done.code == 0, done.err
    for text in ("requests", "prompt tokens", "memory", "time", "smallest effect", "on error rates none"):
        assert text in done.out
    assert list(tmp_path.iterdir()) == []


def test_a_card_is_for_dry_runs_of_models_here(call, tmp_path):
    for given, said in (
        (("run", "--gpu", "h100"), "--gpu predicts the time on a card, for --dry-run"),
        (("run", "--gpu", "h100", "--dry-run", "--model", "openai:m", "--persona", "original"), "is behind an API"),
    ):
        refused = call(*given)
        assert refused.code != 0
        assert said in refused.err
    assert list(tmp_path.iterdir()) == []


def test_a_study_file_with_overrides(call, tmp_path):
    (tmp_path / "s.yaml").write_text("limit: 2\ntasks: [facts]\npersonas: [original]\n")
    done = call("run", "s.yaml", "--beliefs", "none,right", "--out", "here")
    assert done.code == 0, done.err
    assert "Planned 8 =" in done.out
    settings = json.loads((tmp_path / "here" / "manifest.json").read_text())["inputs"]["setting"]
    assert (settings["limit"], settings["beliefs"]) == (2, ["none", "right"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "--tasks", "fact"], 2, ["fact", "misconceptions"]),
        (["run", "--contexts", "bored"], 2, ["bored", "emotion:sad"]),
        (["run", "--beliefs", "maybe"], 2, ["maybe", "doubt"]),
        (["run", "--persona", "warmth"], 2, ["warmth", "NAME=[ADAPTER|full:MODEL|openai:MODEL][@PROMPT]"]),
        (["run", "--persona", "warm=/no/adapter"], 65, ["/no/adapter"]),
        (["run", "--temperature", "-1"], 2, ["temperature"]),
        (["run", "--limit", "x"], 2, ["limit"]),
        (["run", "--no-such-option"], 2, ["no-such-option"]),
        (["walk"], 2, ["walk"]),
        (["run", "absent.yaml"], 65, ["absent.yaml"]),
        (["run", "bad.yaml"], 65, ["bad.yaml:3:"]),
        (["run", "--tasks", "bad.jsonl"], 65, ["bad.jsonl:2:"]),
        (["run", "--tasks", "latin.jsonl"], 65, ["latin.jsonl:1:", "UTF-8"]),
        (["run", "--out", "thesis"], 65, ["thesis"]),
        (["grade", "bad.jsonl"], 65, ["bad.jsonl:1:"]),
        (["grade", "absent.csv"], 65, ["absent.csv"]),
        (["grade", "empty.csv"], 65, ["empty.csv"]),
    ],
)
def test_bad_input_is_one_line_and_the_right_code(call, tmp_path, arguments, code, says):
    (tmp_path / "bad.yaml").write_text("limit: 5\ntasks: [facts\nseed: 1\n")
    (tmp_path / "bad.jsonl").write_text(json.dumps(ITEM) + '\n{"id": \n')
    (tmp_path / "latin.jsonl").write_bytes(json.dumps(ITEM, ensure_ascii=False).replace("yes", "olé").encode("latin-1"))
    (tmp_path / "empty.csv").write_text("question,answer,right\n")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    done = call(*arguments)
    one_line(done.code, done.err, code, *says)
    assert not (tmp_path / "runs").exists()


def test_an_output_folder_of_another_run(call, tmp_path):
    assert call("run", "--limit", "1", "--out", "r").code == 0
    done = call("run", "--limit", "2", "--out", "r")
    one_line(done.code, done.err, 65, "setting limit 1, now it is 2", "--out")


@pytest.mark.slow
def test_no_such_model(tmp_path):
    done = real("run", "--model", "/no/such/model", cwd=tmp_path)
    one_line(done.returncode, done.stderr, 65, "/no/such/model")


def test_debug_shows_the_traceback(call, tmp_path):
    done = call("run", "--tasks", "fact", WARMENG_DEBUG="1")
    assert "Traceback" in done.err


def test_grade_prints_label_probabilities(call, tmp_path):
    (tmp_path / "a.csv").write_text("question,answer,right\nQ,A,R\n")
    done = call("grade", "a.csv", "--format", "jsonl")
    assert done.code == 0, done.err
    row = json.loads(done.out)
    assert set(row["probabilities"]) == {"correct", "incorrect", "refusal", "unclear"} or row["grade"] == "unscored"


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer,right\n" + "Q,A,R\n" * 20_000)
    command = f"{sys.executable} {SCRIPT} grade a.csv | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_told_its_neighbours(call):
    for word, hint in (
        ("rnu", "did you mean run?"),
        ("reprot", "did you mean report or export?"),
        ("frobnicate", "use run, "),
    ):
        done = call(word)
        assert done.code == 2
        assert f"no command is named '{word}': {hint}" in done.err


def test_lists_and_shows(call):
    assert tuple(LISTED) == KINDS
    listed = json.loads(call("list", "--json").out)
    assert [row["name"] for row in listed["framings"]] == ["plain", "neutral"]
    assert "emotion:sad" in call("list", "contexts").out
    shown = json.loads(call("show", "facts-002", "--belief", "none,wrong", "--json").out)
    assert [place["belief"] for place in shown] == ["none", "wrong"]
    assert shown[1]["messages"]["open"][-1]["content"].endswith("I think the answer is Lyon.")
    assert call("show", "facts-1").code == 2


def test_quiet_leaves_results_alone_and_verbose_tells_more(call):
    small = ["run", "--limit", "1", "--warmth-prompts", "0", "--tasks", "facts", "--out"]
    plain = call(*small, "plain")
    assert "loading smollm2-135m-instruct" in plain.err
    quiet = call(*small, "quiet", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out.replace("quiet", "plain") == plain.out
    verbose = call(*small, "verbose", "-v")
    assert verbose.out.replace("verbose", "plain") == plain.out
    assert re.search(r"^\d\d:\d\d:\d\d loading smollm2-135m-instruct: \d\.\d\d s$", verbose.err, re.MULTILINE)
    assert call("models", "list", "-q").code == 0


def test_messages_go_to_the_log_from_python_too(caplog):
    with caplog.at_level(logging.INFO, "warmeng"):
        Silent().message("a step")
    assert caplog.messages == ["a step"]


def test_tables_are_printed_as_json(call, tmp_path):
    folder = tmp_path / "r"
    told = json.loads(call("run", "--limit", "2", "--tasks", "facts", "--out", str(folder), "--json").out)
    assert told == json.loads((folder / "results.json").read_bytes())
    analysis = json.loads(call("analyze", str(folder), "--json").out)
    written = json.loads((folder / "analysis.json").read_bytes())
    assert analysis.items() <= written.items()
    (model,) = json.loads(call("models", "list", "--json").out)
    assert model["name"] == "smollm2-135m-instruct"
    kinds = [row["kind"] for row in json.loads(call("models", "plan", "llama-3.1-70b", "--answers", "4", "--json").out)]
    assert "int8" in kinds


# These print no table: a path or two, sentences of a training, another program's output, or a page to read.
WITHOUT_JSON = {
    "report", "browse", "export", "serve", "lm-eval", "finetune", "merge", "new", "models fetch", "completion",
    "bench plot",
}  # fmt: skip


def test_every_command_that_prints_tables_has_json():
    every = {}
    for name in warmeng.list_commands(None):
        command = warmeng.get_command(None, name)
        every |= {f"{name} {n}": c for n, c in getattr(command, "commands", {name: None}).items() if c}
        every |= {} if hasattr(command, "commands") else {name: command}
    lacking = {name for name, command in every.items() if "--json" not in {o for p in command.params for o in p.opts}}
    assert lacking == WITHOUT_JSON


def test_plans_and_measurements_are_printed_as_json(call, tmp_path):
    rows = json.loads(call("run", "--limit", "2", "--dry-run", "--no-probe", "--json").out)
    told = {row["name"]: row["value"] for row in rows}
    assert told["model"] == "smollm2-135m-instruct"
    text = call("run", "--limit", "2", "--dry-run", "--no-probe").out
    assert text.splitlines() == [f"{row['name']:<16} {row['value']}" for row in rows]
    made = call("labels", "make", "missing", "--out", "sheet", "--json")
    assert (made.code, made.out) == (65, "")
    (tmp_path / "a.csv").write_text("question,answer,right\nWhere?,Here.,Here\n")
    [row] = json.loads(call("grade", "a.csv", "--json").out)
    assert row["row"] == "a.csv:2"
    [line] = call("bench", "host", "--sequences", "8", "--adapters", "0", "--json").out.splitlines()
    assert json.loads(line)["bench"] == "host"


def test_names_are_completed():
    def complete(arguments, incomplete):
        return [
            item.value for item in ShellComplete(warmeng, {}, "warmeng", "_").get_completions(arguments, incomplete)
        ]

    assert complete([], "comp") == ["compare", "completion"]
    assert complete(["list"], "per") == ["personas"]
    assert "--tasks" in complete(["run"], "--ta")
    assert complete(["run", "--tasks"], "facts,miscon") == ["facts,misconceptions"]
    assert complete(["run", "--beliefs"], "none,wro") == ["none,wrong"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(call, shell):
    assert "_WARMENG_COMPLETE" in call("completion", shell).out
