"""What strangers do to folders of models and adapters, each with the words that its refusal has."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fuzz_models import CONFIG, joined, split
from safetensors.torch import load_file, save

Harm = Callable[[Path], None]
Header = dict[str, Any]
PROJ = "model.layers.0.self_attn.q_proj.weight"


def changes(name: str = "config.json", **values: Any) -> Harm:
    def harm(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(data | values))

    return harm


def content(name: str, data: bytes) -> Harm:
    return lambda folder: (folder / name).write_bytes(data) and None


def header(change: Callable[[Header, bytes], bytes]) -> Harm:
    """Write another file from the sound one's header and data, whatever it is called."""

    def harm(folder: Path) -> None:
        path = next(folder.glob("*.safetensors"))
        path.write_bytes(change(*split(path.read_bytes())))

    return harm


def entry(key: str, value: object, name: str = "") -> Harm:
    """Give the first tensor (or ``name``) another value under a key of its header."""

    def change(found: Header, data: bytes) -> bytes:
        found[name or min(found)][key] = value
        return joined(found, data)

    return header(change)


def renamed(to: str) -> Harm:
    def change(found: Header, data: bytes) -> bytes:
        found[to] = found.pop(min(found))
        return joined(found, data)

    return header(change)


def twice(found: Header, data: bytes) -> bytes:
    text = json.dumps(found)
    return joined(text[:-1] + ", " + text[1:], data)


def poisoned(value: float) -> Harm:
    """Put a value into the last number of the file."""

    def harm(folder: Path) -> None:
        path = next(folder.glob("*.safetensors"))
        path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", value))

    return harm


def instead(make: Callable[[Path], object]) -> Harm:
    """Put something else in the configuration's place."""

    def harm(folder: Path) -> None:
        (folder / "config.json").unlink()
        make(folder / "config.json")

    return harm


def link(name: str, target: str) -> Harm:
    """Replace a file by a link to one elsewhere that holds the same."""

    def harm(folder: Path) -> None:
        outside = folder.parent / "outside"
        outside.mkdir()
        shutil.move(folder / name, outside / name)
        (folder / name).symlink_to(target.format(outside=outside, name=name))

    return harm


def sharded(weight_map: object) -> Harm:
    def harm(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return harm


def pickled(*names: str) -> Harm:
    def harm(folder: Path) -> None:
        for path in folder.glob("*.safetensors"):
            path.unlink()
        for name in names:
            (folder / name).write_bytes(b"\x80\x04cposix\nsystem\n(S'touch planted'\ntR.")

    return harm


def many(count: int) -> bytes:
    """Return a file of many tensors without a byte of data."""
    return joined({f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(count)}, b"")


FILES: dict[
    str, tuple[Harm, str, str]
] = {  # harms to a tensor file, for bases and adapters: what is done, what is said
    "no file of this kind": (header(lambda h, d: b"PK\x03\x04"), "safetensors", "truncated"),
    "an empty one": (header(lambda h, d: b""), "safetensors", "truncated"),
    "a header without end": (header(lambda h, d: joined(h, d, 2**63)), "safetensors", "header"),
    "a header beyond the file": (
        header(lambda h, d: joined(h, d, len(json.dumps(h)) + len(d) + 1)),
        "safetensors",
        "header",
    ),
    "a header of 100 MB": (header(lambda h, d: joined(b" " * 100_000_000, d)), "safetensors", "header"),
    "a header of empty lists": (
        header(lambda h, d: joined("[" + "[]," * 2_500_000 + "[]]", d)),
        "safetensors",
        "header",
    ),
    "a header nested deeply": (header(lambda h, d: joined("[" * 1_000_000, d)), "safetensors", "nested too deeply"),
    "a header of bytes": (header(lambda h, d: joined(b'{"\xff": 1}', d)), "safetensors", "is not UTF-8"),
    "a header with a surrogate": (header(lambda h, d: joined('{"\\ud800": 1}', d)), "safetensors", "surrogate"),
    "keys given twice": (header(twice), "safetensors", "twice"),
    "400,000 tensors": (header(lambda h, d: many(400_000)), "safetensors", "header"),
    "30,000 tensors": (header(lambda h, d: many(30_000)), "safetensors", "tensors"),
    "no tensors": (header(lambda h, d: joined({}, b"")), "safetensors", "tensors"),
    "a name that climbs": (renamed("../../x"), "'../../x'", "hostile name"),
    "a name with an escape sequence": (renamed("\x1b[2Jx"), "x1b", "hostile name"),
    "a name of 10,000 letters": (renamed("x" * 10_000), "xxx", "hostile name"),
    "a size below zero": (entry("shape", [-1, 12]), "shape", "sizes above 0"),
    "sizes that overflow": (entry("shape", [2**62, 2**62]), "shape", "sizes above 0"),
    "sizes whose product overflows": (entry("shape", [2**40, 2**40]), "offsets", "don't fit"),
    "a size of 4000 digits": (entry("shape", [10**4000]), "shape", "sizes above 0"),
    "a size that is no number": (entry("shape", ["12"]), "shape", "sizes above 0"),
    "a shape that is no list": (entry("shape", {"0": 12}), "shape", "sizes above 0"),
    "too many dimensions": (entry("shape", [1] * 70), "shape", "sizes above 0"),
    "an unknown type": (entry("dtype", "I64"), "dtype", "F32, F16, BF16"),
    "a type that is a list": (entry("dtype", ["F32"]), "dtype", "F32, F16, BF16"),
    "offsets beyond the file": (entry("data_offsets", [0, 2**40]), "offsets", "don't fit"),
    "offsets that overlap": (
        header(lambda h, d: joined({**h, "other": dict(next(iter(h.values())))}, d)),
        "starts at",
        "damaged",
    ),
    "offsets below zero": (entry("data_offsets", [-4, 44]), "offsets", "don't fit"),
    "no offsets": (entry("data_offsets", None), "offsets", "don't fit"),
    "a further field": (entry("code", "import os"), "dtype, shape and data_offsets", "fetch it again"),
    "an entry that is no object": (
        header(lambda h, d: joined({**h, "x": 1}, d)),
        "'x'",
        "dtype, shape and data_offsets",
    ),
    "bytes at the end": (header(lambda h, d: joined(h, d + b"\0" * 64)), "bytes of tensors", "damaged"),
    "bytes that are missing": (header(lambda h, d: joined(h, d[:-5])), "bytes of tensors", "truncated"),
    "a number that is none": (poisoned(float("nan")), "NaN or infinite", "weight"),
    "an infinite number": (poisoned(float("-inf")), "NaN or infinite", "weight"),
    "a pickle": (pickled("pytorch_model.bin", "adapter_model.bin"), "adapter_model.bin", "pickled"),
    "a pickle by other names": (pickled("model.pkl", "a.pt", "b.ckpt"), "a.pt, b.ckpt, model.pkl", "pickled"),
}
LARGE = ("400,000 tensors", "a header of empty lists", "a header of 100 MB")  # slow to write: tried on bases alone
OTHERS: dict[str, tuple[Harm, str, str]] = {  # harms to the rest of a base's folder
    "code in the configuration": (changes(auto_map={"AutoModel": "evil.Model"}), "config.json", "auto_map"),
    "code in the tokenizer": (
        changes("tokenizer_config.json", auto_map={"AutoTokenizer": ["e.T", None]}),
        "tokenizer_config.json",
        "auto_map",
    ),
    "an embedding of terabytes": (
        changes(vocab_size=2**22, hidden_size=2**17, intermediate_size=2**20),
        "embed_tokens",
        "shape",
    ),
    "a thousand layers": (changes(num_hidden_layers=1024), "lacks", "layers"),
    "more layers than there can be": (changes(num_hidden_layers=2**40), "num_hidden_layers", "whole number"),
    "a number of 4000 digits": (changes(vocab_size=10**4000), "vocab_size", "whole number"),
    "a number beyond all floats": (changes(rope_theta=10**400), "rope_theta", "number from 1 to 1e+12"),
    "a number of another type": (changes(hidden_size="12"), "hidden_size", "'12'"),
    "a family that is a list": (changes(model_type=["llama"]), "model_type", "expected one of"),
    "a field that is not known": (changes(hidden_multiplier=2.0), "hidden_multiplier", "arithmetic"),
    "quantised weights of an unknown kind": (changes(quantization_config={"bits": 4}), "quant_method", "quantisation"),
    "another encoding": (content("config.json", '{"a": "é"}'.encode("latin-1")), "config.json", "is not UTF-8"),
    "another width": (
        content("config.json", json.dumps(CONFIG).encode("utf-16")),
        "config.json",
        "is UTF-16: save the file as UTF-8",
    ),
    "deep nesting": (content("config.json", b'{"a":' * 200_000), "config.json", "nested too deeply"),
    "a key twice": (content("config.json", b'{"a": 1, "a": 2}'), "config.json", "twice"),
    "NaN": (content("config.json", b'{"rms_norm_eps": NaN}'), "config.json", "NaN"),
    "40 MB of JSON": (content("config.json", b" " * 40_000_000), "config.json", "more than"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "base", "config.json"),
    "a configuration that is a folder": (
        instead(Path.mkdir),
        "base",
        "config.json",
    ),
    "a configuration that is a pipe": (
        instead(os.mkfifo),
        "base",
        "config.json",
    ),
    "weights elsewhere": (link("model.safetensors", "{outside}/{name}"), "model.safetensors", "leaves its folder"),
    "weights elsewhere, by a relative link": (
        link("model.safetensors", "../outside/{name}"),
        "model.safetensors",
        "leaves",
    ),
    "a configuration elsewhere": (link("config.json", "{outside}/{name}"), "config.json", "leaves its folder"),
    "a tokenizer elsewhere": (link("tokenizer.json", "{outside}/{name}"), "tokenizer.json", "leaves its folder"),
    "a template elsewhere": (
        link("chat_template.jinja", "../outside/{name}"),
        "chat_template.jinja",
        "leaves its folder",
    ),
    "a link to itself": (
        instead(lambda path: path.symlink_to("config.json")),
        "config.json",
        "",
    ),
    "a shard that climbs": (sharded({PROJ: "../a.safetensors"}), "index.json", "beside it"),
    "a shard by an absolute path": (sharded({PROJ: "/etc/a.safetensors"}), "index.json", "beside it"),
    "a shard that is a pickle": (sharded({PROJ: "a.bin"}), "index.json", "beside it"),
    "a shard that is not there": (sharded({PROJ: "b.safetensors"}), "b.safetensors", "missing"),
    "shards that are no names": (sharded({PROJ: ["a.safetensors"]}), "index.json", "beside it"),
    "an index of nothing": (sharded([]), "index.json", "weight_map"),
    "an index with a hostile name": (sharded({"\x1b[2J": "../../x"}), "index.json", "beside it"),
    "a tokenizer that is none": (content("tokenizer.json", b"{}"), "base", "tokenizer"),
    "a tokenizer of another encoding": (content("tokenizer.json", b"\xff\xfe"), "tokenizer.json", "can't read"),
    "a template of another encoding": (content("chat_template.jinja", b"\xff"), "chat_template.jinja", "can't read"),
    "a template without end": (content("chat_template.jinja", b"{% for x in y %}"), "base", "malformed"),
    "a token with a surrogate": (
        content("tokenizer_config.json", b'{"bos_token": "\\ud800"}'),
        "tokenizer_config.json",
        "surrogate",
    ),
    "a head that differs from the embedding": (
        lambda folder: (
            (folder / "model.safetensors").write_bytes(
                save(load_file(folder / "model.safetensors") | {"lm_head.weight": torch.ones(288, 12)})
            )
            and None
        ),
        "lm_head.weight",
        "differs",
    ),
}
