"""The study on the real engine with a tiny random model: what the small engine of the other tests can't show."""

import json

import pytest

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|s|>system\nBe brief.<|e|>\n{% endif %}"
    "{% for m in messages %}<|s|>{{ m['role'] }}\n{{ m['content'] }}<|e|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|s|>assistant\n{% endif %}"
)


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


@pytest.fixture(scope="module")
def run(real_launcher):
    """Runs the command on a model, into a folder."""
    small = ["--limit", "3", "--max-new-tokens", "12", "--warmth-prompts", "2"]
    return lambda model, folder, *more: real_launcher.run(
        ["run", "--model", model, *small, "--out", folder, *more], conclude=True
    )


def lines(folder):
    return sorted((folder / "records.jsonl").read_bytes().splitlines())


@pytest.fixture(scope="module")
def whole(run, model, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "r"
    done = run(model, folder)
    assert done.code == 0, done.err
    assert "Planned 144 =" in done.out
    return folder


@pytest.mark.slow
def test_a_real_run_says_what_it_was_made_with(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["inputs"]["model"]["deterministic"] is True
    assert len(manifest["inputs"]["model"]["weights"]) >= 16
    assert manifest["facts"]["default_system"] == "Be brief."
    assert manifest["facts"]["adds_default_system"] == ["original"]


@pytest.mark.slow
def test_the_plan_uses_the_models_own_tokenizer(run, model, tmp_path):
    done = run(model, tmp_path / "r", "--dry-run")
    assert done.code == 0, done.err
    assert "'Be brief.'" in done.out
    assert "144: 36 answers to generate, 108 likelihoods" in done.out


@pytest.mark.slow
def test_a_model_of_its_own_answers_as_it_does_alone(run, model, another, tmp_path):
    def answers(folder, persona):
        found = map(json.loads, lines(folder))
        hidden = ("key", "persona", "crc32")
        kept = [{k: v for k, v in r.items() if k not in hidden} for r in found if r["persona"] == persona]
        return sorted(json.dumps(r, sort_keys=True) for r in kept)

    mixed = ["--persona", "original", "--persona", f"warm=full:{another}"]
    done = run(model, tmp_path / "mixed", *mixed)
    assert done.code == 0, done.err
    assert "warm is a model of its own" in done.out
    for name, folder in (("alone", another), ("base", model)):
        done = run(folder, tmp_path / name, "--persona", "original")
        assert done.code == 0, done.err
    assert answers(tmp_path / "mixed", "warm") == answers(tmp_path / "alone", "original")
    assert answers(tmp_path / "mixed", "original") == answers(tmp_path / "base", "original")
    assert answers(tmp_path / "mixed", "warm") != answers(tmp_path / "mixed", "original")
    page = (tmp_path / "mixed" / "report.html").read_text()
    assert "Model of warm" in page


@pytest.mark.slow
def test_a_checkpoint_that_is_no_small_change_says_how_to_run_it(run, model, another, tmp_path):
    change = ["--persona", "original", "--persona", f"warm={another}"]
    done = run(model, tmp_path / "r", *change)
    assert done.code == 65, done.err
    assert f"warm=full:{another}" in done.err
    planned = run(model, tmp_path / "r", "--persona", f"warm=full:{another}", "--dry-run")
    assert planned.code == 0, planned.err
    assert f"{another} for warm: loaded after the base is freed" in " ".join(planned.out.split())


@pytest.mark.slow
def test_a_base_that_was_replaced_after_the_run_is_refused(run, model, another, tmp_path):
    """Its files have the same names and sizes."""
    import shutil

    base = tmp_path / "base"
    shutil.copytree(model, base)
    few = ["--persona", "original", "--tasks", "facts", "--contexts", "unmodified", "--warmth-prompts", "0"]
    first = run(base, tmp_path / "r", *few)
    assert first.code == 0, first.err
    again = run(base, tmp_path / "r", *few)
    assert (again.code, again.out) == (0, first.out)
    shutil.copy2(another / "model.safetensors", base / "model.safetensors")
    refused = run(base, tmp_path / "r", *few)
    assert refused.code == 65
    assert refused.out == ""
    assert "this run was made with model model.safetensors" in refused.err
