"""Model, adapter and merged folders of strangers: each harm is refused in a line that names it, soon and cheaply."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_harms import FILES, LARGE, OTHERS, PROJ, Header, content, link
from fuzz_models import ADAPTER, adapter_tensors, write_adapter, write_model, write_tokenizer
from safetensors.torch import load_file, save
from tiers import slow

from warmeng.common.errors import InputError
from warmeng.engine.adapters import load_adapter
from warmeng.engine.checkpoint import content_hash, load_weights
from warmeng.engine.config import read_config
from warmeng.engine.recover import recover
from warmeng.engine.registry import verify_model
from warmeng.engine.tokenizer import Tokenizer

NORM = "model.norm.weight"
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and an adapter for it."""
    folder = tmp_path_factory.mktemp("sound")
    write_model(folder / "base")
    write_adapter(folder / "adapter", read_config(folder / "base"))
    return folder


@pytest.fixture
def modest() -> Iterator[None]:
    """Whatever happens meanwhile takes little time and memory."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert time.monotonic() - started < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024  # KiB


def load(folder: Path) -> None:
    """Do with a base's files what loading it does."""
    found = read_config(folder)
    content_hash(folder)
    Tokenizer.load(folder).chat([{"role": "user", "content": "hi"}])
    load_weights(folder, found, torch.float32)


def refused(do: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        do(*arguments)
    message = str(caught.value)
    assert message.isprintable(), "one line, and nothing that steers a terminal"
    assert len(message) < 1000
    return message


# Each takes seconds.
HEAVY = ("400,000 tensors", "a header of empty lists")


@pytest.mark.parametrize("name", [*(n for n in (*FILES, *OTHERS) if n not in HEAVY), *slow(*HEAVY)])
def test_harm_to_a_base(name: str, sound: Path, tmp_path: Path, modest: None) -> None:
    harm, *said = (FILES | OTHERS)[name]
    folder = Path(shutil.copytree(sound / "base", tmp_path / "base"))
    load(folder)
    harm(folder)
    message = refused(load, folder)
    assert str(tmp_path) in message
    if name != "a pickle":
        assert all(part in message for part in said), message


@pytest.mark.parametrize("name", ["an embedding of terabytes", "a thousand layers"])
def test_the_engine_makes_nothing_of_a_size_that_is_only_claimed(
    name: str, sound: Path, tmp_path: Path, modest: None
) -> None:
    from warmeng.engine.engine import Engine

    harm, *said = OTHERS[name]
    folder = Path(shutil.copytree(sound / "base", tmp_path / "base"))
    harm(folder)
    message = refused(lambda: Engine.load(str(folder), device="cpu"))
    assert all(part in message for part in said), message


@pytest.mark.parametrize("name", [name for name in FILES if name not in LARGE])
def test_harm_to_the_tensors_of_an_adapter(name: str, sound: Path, tmp_path: Path, modest: None) -> None:
    harm, *said = FILES[name]
    folder = Path(shutil.copytree(sound / "adapter", tmp_path / "adapter"))
    base = read_config(sound / "base")
    load_adapter(folder, base)
    harm(folder)
    message = refused(load_adapter, folder, base)
    assert str(tmp_path) in message
    assert all(part in message for part in said), message


@pytest.mark.parametrize(
    "name", ["a number that is none", "sizes that overflow", "keys given twice", "a pickle by other names"]
)
def test_harm_to_a_merged_checkpoint(name: str, sound: Path, tmp_path: Path, modest: None) -> None:
    harm, *said = FILES[name]
    folder = Path(shutil.copytree(sound / "base", tmp_path / "merged"))
    harm(folder)
    message = refused(recover, sound / "base", folder, 1)
    assert str(tmp_path) in message
    assert all(part in message for part in said), message


def test_a_merged_checkpoint_of_other_shapes_or_other_changes(sound: Path, tmp_path: Path) -> None:
    tensors = load_file(sound / "base" / "model.safetensors")
    for name, change in ((PROJ, torch.zeros(24, 12)), (NORM, tensors[NORM] + 1)):
        folder = Path(shutil.copytree(sound / "base", tmp_path / name))
        (folder / "model.safetensors").write_bytes(save(tensors | {name: change}))
        assert name in refused(recover, sound / "base", folder, 1)
    other = write_model(tmp_path / "other", num_hidden_layers=1)
    assert "another architecture" in refused(recover, sound / "base", other, 1)
    assert "no change" in refused(recover, sound / "base", sound / "base", 1)


SETTINGS: dict[str, tuple[Header, str]] = {
    "another kind": ({"peft_type": "IA3"}, "peft_type"),
    "a kind that is a list": ({"peft_type": ["LORA"]}, "peft_type"),
    "trained biases": ({"bias": "all"}, "bias"),
    "further modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "DoRA": ({"use_dora": True}, "use_dora"),
    "ranks by pattern": ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
    "a rank of nothing": ({"r": 0}, "r is 0"),
    "a rank without end": ({"r": 2**40}, "r is 1099511627776"),
    "another rank than the tensors'": ({"r": 3}, "r = 3"),
    "a scale below zero": ({"lora_alpha": -4}, "lora_alpha"),
    "a scale of nothing": ({"lora_alpha": 0}, "lora_alpha"),
    "a scale that overflows": ({"lora_alpha": 1e308}, "lora_alpha"),
    "a scale of 4000 digits": ({"lora_alpha": 10**4000}, "lora_alpha"),
    "fewer targets than tensors": ({"target_modules": ["q_proj"]}, "doesn't target"),
    "targets that are not there": ({"target_modules": [*ADAPTER["target_modules"], "router"]}, "router"),
    "a million targets": ({"target_modules": [f"m{k}" for k in range(300_000)]}, "target_modules"),
    "no targets": ({"target_modules": []}, "target_modules"),
    "layers that are not there": ({"layers_to_transform": [0, 99]}, "layers_to_transform"),
    "a million layers": ({"layers_to_transform": list(range(300_000))}, "layers_to_transform"),
    "fewer layers than tensors": ({"layers_to_transform": [0]}, "doesn't target"),
    "an unknown setting": ({"surprise": 1}, "surprise"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_harm_to_the_settings_of_an_adapter(name: str, sound: Path, tmp_path: Path, modest: None) -> None:
    values, said = SETTINGS[name]
    base = read_config(sound / "base")
    folder = write_adapter(tmp_path / "adapter", base, **values)
    message = refused(load_adapter, folder, base)
    assert str(folder) in message
    assert said in message, message


def test_an_adapter_is_applied_whole_or_not_at_all(sound: Path, tmp_path: Path) -> None:
    """The tensors are those that the settings target, in both directions; and of this base."""
    base = read_config(sound / "base")
    tensors = adapter_tensors(base)
    other_half = A.replace("lora_A", "lora_B")
    short = {name: value for name, value in tensors.items() if name not in (A, other_half)}
    more = tensors | {name.replace("layers.0", "layers.7"): tensors[name].clone() for name in (A, other_half)}
    for number, (found, said) in enumerate(
        [
            ({k: v for k, v in tensors.items() if k != A}, "other half"),
            (short, "lacks tensors"),
            (more, "another base"),
            (tensors | {"lm_head.lora_A.weight": tensors[A].clone()}, "no supported target"),
            (tensors | {A: torch.zeros(2, 13)}, "another base"),
            (tensors | {A.replace(".weight", ".default.weight"): tensors[A].clone()}, "keep one of them"),
        ]
    ):
        folder = write_adapter(tmp_path / str(number), base, found)
        assert said in refused(load_adapter, folder, base)
    folder = write_adapter(tmp_path / "manifest", base)
    (folder / "warmeng.json").write_text(json.dumps({"base_hash": "1" * 64}))
    assert "another base" in refused(load_adapter, folder, base, "2" * 64)
    link("adapter_config.json", "{outside}/{name}")(folder)
    assert "leaves its folder" in refused(load_adapter, folder, base)


def test_the_hubs_own_layout_of_links_keeps_working(sound: Path, tmp_path: Path) -> None:
    """models--owner--name/snapshots/COMMIT/FILE -> ../../blobs/HASH; one that goes past the blobs is refused."""
    repository = tmp_path / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted((sound / "base").iterdir())):
        shutil.copy(path, blobs / f"{number:040}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040}")
    load(snapshot)
    assert verify_model(str(snapshot))["content"] == content_hash(sound / "base")
    shutil.copy(sound / "base" / "config.json", repository / "config.json")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../config.json")
    assert "leaves its folder" in refused(load, snapshot)


def test_a_whole_folder_may_be_a_link(sound: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(sound / "base")
    load(tmp_path / "here")


def test_nothing_pickled_is_opened(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle beside the tensors is not read; nor is code beside them."""
    folder = Path(shutil.copytree(sound / "base", tmp_path / "base"))
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        content(name, b"\x80\x04cposix\nsystem\n(S'touch planted'\ntR.")(folder)
    (folder / "modeling_evil.py").write_text("open('planted', 'w')")
    monkeypatch.chdir(tmp_path)
    load(folder)
    assert not (tmp_path / "planted").exists()


def test_a_class_of_a_tokenizer_is_no_way_to_code(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers has to load the tokenizer, the folder's own code stays unread."""
    folder = Path(shutil.copytree(sound / "base", tmp_path / "base"))
    write_tokenizer(folder, tokenizer_class="EvilTokenizer", additional_special_tokens=["<|new|>"])
    (folder / "tokenization_evil.py").write_text("open('planted', 'w')\nclass EvilTokenizer: pass")
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(InputError):
        Tokenizer.load(folder)
    assert not (tmp_path / "planted").exists()
