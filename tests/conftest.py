"""Which tests run, and how many at a time; tiny random checkpoints of each family, made with ``transformers``.

There are three tiers. Plain ``pytest`` is quick: it leaves out what is marked ``slow`` or ``full``, and repeats a fault
or a draw a few times. ``--tier=ci`` has what is slow too, and more of each. ``--tier=full`` has everything: the
counts that the documents report, and more of a kind that CI has some of.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Where there is no GPU its kernels are interpreted. Triton reads this when it is imported, which any test may do first.
os.environ.setdefault("TRITON_INTERPRET", "0" if Path("/dev/nvidiactl").exists() else "1")
# No test needs a network: without this the hub is asked several times before a test of its absence goes on.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A shell may start what runs in its background with interrupts ignored; tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests side by side: two processes that compute on all cores wait for each other in busy loops.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import interpreting
import pytest
from launching import Launcher

MOST_WORKERS = 8  # each has a copy of PyTorch and of the models in memory


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line name a tier."""
    parser.addoption("--tier", choices=("quick", "ci", "full"), default="quick", help="how much is tested")


def named_one_by_one(config: pytest.Config) -> bool:
    """Whether the command line names files or single tests."""
    return any("::" in name or name.endswith(".py") for name in config.args)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Tests that are named one by one, or not to be captured, run in this process: a debugger needs that."""
    if named_one_by_one(config) or config.option.capture == "no":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the tier does not have, unless tests are named one by one."""
    out = {"quick": ("slow", "full"), "ci": ("full",), "full": ()}[config.option.tier]
    if out and not named_one_by_one(config):
        left = [item for item in items if item.get_closest_marker(out[0]) or item.get_closest_marker(out[-1])]
        items[:] = [item for item in items if item not in set(left)]
        config.hook.pytest_deselected(items=left)


def pytest_unconfigure() -> None:
    """Let everything be collected at the end: libraries tell of what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def prepared_interpreter() -> None:
    """Let kernels that are interpreted round as devices do, and quickly."""
    if os.environ["TRITON_INTERPRET"] == "1" and find_spec("triton"):
        interpreting.prepare()


@pytest.fixture(scope="module", autouse=True)
def older_objects_are_frozen() -> None:
    """A run collects what its engine leaves: looking at what all tests before it left would take most of its time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tier(pytestconfig: pytest.Config) -> str:
    """Return quick, ci or full."""
    return str(pytestconfig.option.tier)


@pytest.fixture(scope="session")
def count(tier: str) -> Callable[..., Any]:
    """Return a function from the counts in CI and in full to the one that holds. Quick has that of CI, or its own."""

    def choose(ci: Any, full: Any, quick: Any = None) -> Any:
        return full if tier == "full" else quick if tier == "quick" and quick is not None else ci

    return choose


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB = 259 + 29  # the tokenizer's 259 ids, padded as Qwen pads its vocabulary
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {"head_dim": 8}),
    "llama-3.1-rope": ("LlamaForCausalLM", {"head_dim": 8, "rope_parameters": LLAMA3_ROPE}),
    "llama-tied": ("LlamaForCausalLM", {"head_dim": 8, "tie_word_embeddings": True}),
    "llama-mha": ("LlamaForCausalLM", {"head_dim": 8, "num_key_value_heads": 6}),
    "mistral-head-dim": ("MistralForCausalLM", {"head_dim": 16, "sliding_window": None}),
    "qwen2-bias": ("Qwen2ForCausalLM", {"use_sliding_window": False}),
    "qwen3-norm": ("Qwen3ForCausalLM", {"head_dim": 16, "use_sliding_window": False}),
}


def write_tokenizer(folder: Path) -> None:
    """Save a byte-level tokenizer: three special tokens and one token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: i for i, token in enumerate(SPECIAL)}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[symbol] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_model(folder: Path, family: str, seed: int = 0) -> Path:
    """Save a random model of the family with weights large enough to make its answers differ."""
    import torch
    import transformers

    name, changes = FAMILIES[family]
    torch.manual_seed(seed)
    config_class = getattr(transformers, name.replace("ForCausalLM", "Config"))
    model = getattr(transformers, name)(config_class(**{**SIZES, **changes}))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key:
                value.normal_(1.0, 0.2)
            else:
                value.normal_(0.0, 0.15)
    model.float().save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_adapter(folder: Path, base: Path, seed: int, rank: int = 4, rslora: bool = False) -> Path:
    """Save a random PEFT adapter on all linear layers of the base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, use_rslora=rslora, task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_" in key:
                value.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from family name to a checkpoint folder, each made once."""
    made: dict[str, Path] = {}

    def get(family: str = "llama") -> Path:
        if family not in made:
            made[family] = write_model(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get


@pytest.fixture(scope="session")
def tiny_adapters(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five random adapters of the tiny Llama; the second with rank-stabilised scale."""
    base = tiny_model("llama")
    root = tmp_path_factory.mktemp("adapters")
    return [write_adapter(root / str(i), base, seed=100 + i, rank=4 + i, rslora=i == 1) for i in range(5)]


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Start ``warmeng`` processes with the small engines in the real one's place."""
    with Launcher(tmp_path_factory.mktemp("launcher")) as found:
        yield found


@pytest.fixture(scope="session")
def real_launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Start ``warmeng`` processes with the real engine."""
    with Launcher(tmp_path_factory.mktemp("real_launcher"), "real") as found:
        yield found
