"""The study on the real engine with a tiny random model: what the small engine of the other tests can't show."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|s|>system\nBe brief.<|e|>\n{% endif %}"
    "{% for m in messages %}<|s|>{{ m['role'] }}\n{{ m['content'] }}<|e|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|s|>assistant\n{% endif %}"
)
CODE = "from warmeng.cli.main import main; main()"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a random two-layer Llama over bytes."""
    return random_model(tmp_path_factory.mktemp("model"), 0)


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    """One with other weights altogether."""
    return random_model(tmp_path_factory.mktemp("another"), 1)


def random_model(folder, seed):
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({c: k + 2 for k, c in enumerate(letters)} | {"<|s|>": 0, "<|e|>": 1}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|s|>", eos_token="<|e|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=258, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, eos_token_id=1, bos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def command(model, folder, *more):
    options = [
        "run",
        "--model",
        model,
        "--limit",
        "3",
        "--max-new-tokens",
        "12",
        "--warmth-prompts",
        "2",
        "--out",
        folder,
        *more,
    ]
    return [sys.executable, "-c", CODE, *map(str, options)]


def lines(folder):
    return sorted((folder / "records.jsonl").read_bytes().splitlines())


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "r"
    done = subprocess.run(command(model, folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Planned 144 =" in done.stdout
    return folder


@pytest.mark.slow
def test_a_real_run_says_what_it_was_made_with(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["inputs"]["model"]["deterministic"] is True
    assert len(manifest["inputs"]["model"]["weights"]) >= 16
    assert manifest["facts"]["default_system"] == "Be brief."
    assert manifest["facts"]["adds_default_system"] == ["original"]


@pytest.mark.slow
def test_kill_9_then_the_same_command_gives_the_same_records(model, whole, tmp_path):
    rng = random.Random(0)
    folder = tmp_path / "r"
    path = folder / "records.jsonl"
    kept = 0
    for _ in range(2):
        process = subprocess.Popen(command(model, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        want = kept + rng.randrange(1, 40)
        for _ in range(6000):
            if process.poll() is not None or (path.exists() and path.read_bytes().count(b"\n") >= want):
                break
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept = path.read_bytes().count(b"\n")
    done = subprocess.run(command(model, folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert lines(folder) == lines(whole)


@pytest.mark.slow
def test_the_plan_uses_the_models_own_tokenizer(model, tmp_path):
    done = subprocess.run(command(model, tmp_path / "r", "--dry-run"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'Be brief.'" in done.stdout
    assert "144: 36 answers to generate, 108 likelihoods" in done.stdout


@pytest.mark.slow
def test_a_model_of_its_own_answers_as_it_does_alone(model, another, tmp_path):
    def answers(folder, persona):
        found = map(json.loads, lines(folder))
        hidden = ("key", "persona", "crc32")
        kept = [{k: v for k, v in r.items() if k not in hidden} for r in found if r["persona"] == persona]
        return sorted(json.dumps(r, sort_keys=True) for r in kept)

    mixed = ["--persona", "original", "--persona", f"warm=full:{another}"]
    done = subprocess.run(command(model, tmp_path / "mixed", *mixed), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warm is a model of its own" in done.stdout
    for name, folder in (("alone", another), ("base", model)):
        done = subprocess.run(command(folder, tmp_path / name, "--persona", "original"), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert answers(tmp_path / "mixed", "warm") == answers(tmp_path / "alone", "original")
    assert answers(tmp_path / "mixed", "original") == answers(tmp_path / "base", "original")
    assert answers(tmp_path / "mixed", "warm") != answers(tmp_path / "mixed", "original")
    page = (tmp_path / "mixed" / "report.html").read_text()
    assert "Model of warm" in page


@pytest.mark.slow
def test_a_checkpoint_that_is_no_small_change_says_how_to_run_it(model, another, tmp_path):
    change = ["--persona", "original", "--persona", f"warm={another}"]
    done = subprocess.run(command(model, tmp_path / "r", *change), capture_output=True, text=True)
    assert done.returncode == 65, done.stderr
    assert f"warm=full:{another}" in done.stderr
    planned = subprocess.run(
        command(model, tmp_path / "r", "--persona", f"warm=full:{another}", "--dry-run"), capture_output=True, text=True
    )
    assert planned.returncode == 0, planned.stderr
    assert f"{another} for warm: loaded after the base is freed" in " ".join(planned.stdout.split())


def test_a_base_that_was_replaced_after_the_run_is_refused(model, another, tmp_path):
    """Its files have the same names and sizes."""
    import shutil

    base = tmp_path / "base"
    shutil.copytree(model, base)
    few = ["--persona", "original", "--tasks", "facts", "--contexts", "unmodified", "--warmth-prompts", "0"]
    first = subprocess.run(command(base, tmp_path / "r", *few), capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    again = subprocess.run(command(base, tmp_path / "r", *few), capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    shutil.copy2(another / "model.safetensors", base / "model.safetensors")
    refused = subprocess.run(command(base, tmp_path / "r", *few), capture_output=True, text=True)
    assert refused.returncode == 65
    assert refused.stdout == ""
    assert "this run was made with model model.safetensors" in refused.stderr
