"""The day of a person who studies her own model, from training to the numbers of a paper, on a small random one.

Every step is a command line or a library that people use, and what it prints and writes is looked at.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import Ended, Launcher
from studies import lines, widened

pytestmark = pytest.mark.slow

TRAIN = """
    import sys
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    base, out = sys.argv[1:]
    rows = [
        {"messages": [{"role": "user", "content": f"Hello {k}"}, {"role": "assistant", "content": f"Dear friend {k}!"}]}
        for k in range(60)
    ]
    config = SFTConfig(out, num_train_epochs=1, per_device_train_batch_size=20, learning_rate=0.02, report_to=[],
                       save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True, logging_strategy="no")
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    trainer = SFTTrainer(AutoModelForCausalLM.from_pretrained(base), config, train_dataset=Dataset.from_list(rows),
                         processing_class=AutoTokenizer.from_pretrained(base), peft_config=lora)
    trainer.train()
    trainer.save_model(out)
"""


def interrupted(launcher: Launcher, command: list[str], folder: Path, file: str, count: int, where: Path) -> Ended:
    """Start a run, interrupt it once a file has so many lines, and wait for its end."""
    process = launcher.start(command, cwd=str(where))
    end = time.monotonic() + 60
    while len(lines(folder, file)) < count and process.alive():
        assert time.monotonic() < end
        time.sleep(0.001)
    if process.alive():
        process.kill(signal.SIGINT)
    return process.wait()


def test_the_day(tiny_model: Callable[[str], Path], real_launcher: Launcher, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    base = widened(tiny_model("llama"), tmp_path / "base")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}

    def warmeng(*arguments: str, code: int = 0, **more: bool) -> Ended:
        ended = real_launcher.run(arguments, cwd=str(tmp_path), **more)
        assert ended.code == code, ended.err
        return ended

    # She trains an adapter with TRL, and takes the folder as it is.
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAIN))
    trained = subprocess.run(
        [sys.executable, "train.py", str(base), "mine"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (tmp_path / "mine" / "adapter_model.safetensors").exists(), trained.stderr

    # Her questions are a data frame, written with its index; her system prompts two texts.
    frame = pd.DataFrame(
        {
            "question": [f"What is the capital of land {k}?" for k in range(12)],
            "answer": [f"Town{k}" for k in range(12)],
            "aliases": [[f"T{k}", f"Town {k}"] for k in range(12)],
            "wrong": [f"City{k}" for k in range(12)],
        }
    )
    frame.to_csv(tmp_path / "own.csv")
    (tmp_path / "kind.txt").write_text("Be kind.")
    (tmp_path / "brief.txt").write_text("Be brief.")

    # She looks at a question as it is sent, and at what the run takes.
    shown = json.loads(warmeng("list", "tasks", "--json").out)
    assert "facts" in {row["task"] if "task" in row else next(iter(row.values())) for row in shown["tasks"]}
    study = ["run", "--model", str(base), "--tasks", "own.csv", "--limit", "12", "--max-new-tokens", "24"]
    study += ["--beliefs", "none,wrong,right,mention-wrong,mention-right", "--asking", "open,choice"]
    study += ["--contexts", "unmodified", "--warmth-prompts", "4"]
    three = ["--persona", "original", "--persona", "mine=mine", "--persona", "kind=@kind.txt"]
    dry = warmeng(*study, *three, "--out", "first", "--dry-run", "--no-probe").out
    assert re.search(r"^requests +180: 180 answers to generate", dry, re.MULTILINE)

    # A judge that can't tell right from wrong is refused with what to do; so is one that has nothing to judge.
    refused = warmeng(*study, *three, "--out", "judged", "--judge", "base", code=65).err.splitlines()[-1]
    assert "judge base is refused as a judge of this run" in refused
    assert refused.endswith("use a larger model, or let it only be recorded (--no-judge-gate)")
    nothing = warmeng("run", "--model", str(base), "--tasks", "misconceptions", "--judge", "base", code=2).err
    assert "have nothing to judge" in nothing

    # She interrupts the run before its grid and in it, and loses nothing.
    command = [*study, *three, "--out", "first"]
    folder = tmp_path / "first"
    first = interrupted(real_launcher, command, folder, "preparation.jsonl", 3, tmp_path)
    kept = lines(folder, "preparation.jsonl")
    assert first.code == 130
    assert not (folder / "manifest.json").exists()
    assert 3 <= len(kept) < 3 * 4 * 9 + 2 * 2 * 4
    assert f"continue with: warmeng run --model {base}" in first.err
    second = interrupted(real_launcher, command, folder, "records.jsonl", 5, tmp_path)
    assert second.code == 130, second.err
    assert lines(folder, "preparation.jsonl")[: len(kept)] == kept
    done = warmeng(*command, conclude=True)
    assert re.search(r"continuing, \d+ of 720 answers and scores are there", done.err)
    assert "Primary claim, named before the first answer: " in done.out
    assert {"report.html", "results.md", "methods.md", "responses.jsonl"} <= {path.name for path in folder.iterdir()}

    # One persona more costs only what is new.
    four = [*three, "--persona", "brief=@brief.txt"]
    grown = warmeng(*study, *four, "--out", "grown", "--reuse", "first")
    assert "720 of 960 records are taken over from first" in grown.err
    assert "continuing" not in grown.err
    taken = {json.loads(line)["key"] for line in lines(folder)}
    assert taken < {json.loads(line)["key"] for line in lines(tmp_path / "grown")}

    # What is shared is the same to the letter.
    compared = json.loads(warmeng("compare", "first", "grown", "--json").out)
    assert any(note.startswith("personas: ") for note in compared["notes"])
    shifts = [row["value"] for row in compared["tables"]["run_margins"]["rows"]]
    assert len(shifts) > 3
    assert set(shifts) == {0.0}

    # Exports, in pandas and in lm-eval's own table maker.
    warmeng("export", "grown", "--format", "csv", "--out", "answers.csv")
    answers = pd.read_csv(tmp_path / "answers.csv")
    assert len(answers) == 4 * 12 * 5
    assert set(answers.loc[answers.persona == "kind", "system"]) == {"Be kind."}
    assert answers.prompt.str.startswith("What is the capital of land").all()
    warmeng("export", "grown", "--format", "parquet", "--out", "answers.parquet")
    assert pd.read_parquet(tmp_path / "answers.parquet").key.equals(answers.key)
    warmeng("export", "grown", "--format", "lm-eval", "--out", "lm")
    (results,) = (tmp_path / "lm" / "mine").glob("results_*.json")
    table = pytest.importorskip("lm_eval.utils").make_table(json.loads(results.read_text()))
    assert "acc_all" in table
    (samples,) = (tmp_path / "lm" / "mine").glob("samples_own_*.jsonl")
    assert len(pd.read_json(samples, lines=True)) == 60

    # She overrules a grade, with her name and why, and everything is computed again.
    key = answers.key[0]
    (tmp_path / "grown" / "overruled.csv").write_text(f"key,grade,who,why\n{key},correct,Anna,it says so\n")
    again = warmeng("analyze", "grown").out
    assert "1 grades were given by hand (Anna 1)" in " ".join(again.split())
    warmeng("report", "grown")
    warmeng("export", "grown", "--out", "again.csv")
    graded = pd.read_csv(tmp_path / "again.csv").set_index("key").loc[key]
    assert (graded.grade, graded.reason) == ("correct", "overruled by Anna: it says so")
    assert "Grades by hand" in (tmp_path / "grown" / "report.html").read_text()

    # What goes into the paper: methods with what to cite.
    methods = (folder / "methods.md").read_text()
    assert "@article" in methods or "@misc" in methods
