"""The files of a checkpoint's tokenizer: its JSON, the tokens that its configuration names, and its chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, one_line
from warmeng.common.files import read_json
from warmeng.engine.config import inside

MAX_TOKENIZER_BYTES = 64 * 2**20
# Of the parts of a tokenizer: known ones have some 1,000 added tokens of up to 60 characters, and chains of 5 steps.
MAX_ADDED, MAX_ADDED_CHARACTERS, MAX_PARTS = 20_000, 1000, 64
# How often known ones may write a character of a text: at most twice, where a blank is put before it.
MAX_GROWTH = 64
# Settings of models that draw a text's tokens by chance, as in training.
_DRAWN = ("dropout", "alpha", "nbest_size")
_SEQUENCES = ("normalizers", "pretokenizers", "processors", "decoders")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip
# The packages that transformers reads a tokenizer.model with.
_SENTENCEPIECE = ("sentencepiece", "google.protobuf")


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files say.

    Attributes:
        source: the tokenizer as JSON, all added tokens included: of ``tokenizer.json``, or converted by transformers.
        backend: the tokenizer of ``source``.
        tokens: names such as ``eos_token`` and their text.
        template: the chat template's text.
    """

    source: str
    backend: Backend
    tokens: Mapping[str, str]
    template: str


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """Read the tokenizer in a checkpoint's folder.

    Raises:
        InputError: a missing or malformed file, no chat template, or a library that its format needs is not installed.
    """
    for name in _FILES:
        inside(folder, name)
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    if settings.get("auto_map"):
        raise InputError(f"{path}: auto_map is set, and code of a checkpoint is never run: use another checkpoint")
    legacy = folder / "special_tokens_map.json"
    named = {**(read_json(legacy) if legacy.is_file() else {}), **settings}
    tokens = {name: text for name in _NAMED if (text := _content(named.get(name)))}
    template = _template_text(folder, settings)
    source, backend = _fast_tokenizer(folder, settings, tokens)
    return TokenizerFiles(source, backend, tokens, template)


class Backend:
    """A ``tokenizers.Tokenizer`` whose failures are an InputError of one line: its own code panics on some texts.

    What a lone surrogate raises passes: the text is at fault, not the tokenizer.
    """

    def __init__(self, backend: Any, origin: str) -> None:
        self._backend, self._origin = backend, origin

    def encode(self, text: str, **more: Any) -> Any:
        """Encode as the library does."""
        with self._whole("encode a text"):
            return self._backend.encode(text, **more)

    def decode(self, ids: list[int], **more: Any) -> str:
        """Decode as the library does."""
        with self._whole("decode tokens"):
            text: str = self._backend.decode(ids, **more)
            return text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    @contextmanager
    def _whole(self, what: str) -> Iterator[None]:
        try:
            yield
        except (UnicodeError, TypeError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # Bare Exceptions, and a BaseException where its code panics.
            why = one_line(error, 120)
            raise InputError(f"{self._origin}: the tokenizer can't {what} ({why}): use another checkpoint") from None


def parse_tokenizer(source: str, origin: str) -> Backend:
    """Return the tokenizer of a JSON text, which encodes special tokens' strings as text.

    Raises:
        InputError: a malformed tokenizer, one that draws its tokens by chance, or one beyond the bounds of its parts.
    """
    import tokenizers

    _check_parts(source, origin)
    try:
        backend = tokenizers.Tokenizer.from_str(source)
    except BaseException as error:
        # The library raises bare Exceptions, and BaseExceptions where its own code panics.
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise InputError(f"{origin}: the tokenizer is malformed ({one_line(error, 120)}): fetch it again") from None
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return Backend(backend, origin)


def _check_parts(source: str, origin: str) -> None:
    """InputError for what the library would take, and answer by chance or not for minutes."""

    def fail(what: str) -> InputError:
        return InputError(f"{origin}: the tokenizer {what}: use another checkpoint")

    try:
        tokenizer = json.loads(source)
        model, added = tokenizer.get("model") or {}, tokenizer.get("added_tokens") or ()
        drawn = [name for name in _DRAWN if model.get(name)]
        contents = [str(token.get("content")) for token in added]
        chains = [tokenizer.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")]
        parts = max(map(_count_parts, chains))
        growth = max(map(_growth, chains))
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        raise InputError(f"{origin}: the tokenizer is malformed ({one_line(error, 120)}): fetch it again") from None
    if drawn:
        raise fail(f"draws its tokens by chance ({', '.join(drawn)} is set), so that no prompt is the same twice")
    if len(contents) > MAX_ADDED:
        raise fail(f"has {len(contents)} added tokens, expected at most {MAX_ADDED}")
    if (longest := max(map(len, contents), default=0)) > MAX_ADDED_CHARACTERS:
        raise fail(f"has an added token of {longest} characters, expected at most {MAX_ADDED_CHARACTERS}")
    if parts > MAX_PARTS:
        raise fail(f"has a sequence of {parts} parts, expected at most {MAX_PARTS}")
    if growth > MAX_GROWTH:
        raise fail(f"may make a text {growth:.0f} times as long, expected at most {MAX_GROWTH}")


def _count_parts(value: object) -> int:
    """The steps of a normaliser, pre-tokenizer, post-processor or decoder, those in sequences counted."""
    if isinstance(value, dict):
        inner = (_count_parts(v) for k, v in value.items() if k in _SEQUENCES)
        return sum(inner) or 1
    return sum(map(_count_parts, value)) if isinstance(value, list) else 0


def _growth(value: object) -> float:
    """A bound on how much longer a text gets by replacements, one after the other."""
    if isinstance(value, list):
        return prod(map(_growth, value))
    if not isinstance(value, dict):
        return 1.0
    if value.get("type") == "Prepend":
        return 1.0 + len(value["prepend"])
    if value.get("type") == "Replace":
        # An expression may match nothing, between any two characters.
        replaced, put = len(value["pattern"].get("String", "")), len(value["content"])
        return max(1.0, put / replaced) if replaced else 1.0 + put
    return prod(_growth(v) for k, v in value.items() if k in _SEQUENCES)


def _content(value: object) -> str | None:
    """A token's text, which is given as such or as the ``content`` of an object."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _template_text(folder: Path, settings: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise InputError(f"can't read {path} ({one_line(error, 80)}): fetch it again") from None
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if not isinstance(template, str) or not template:
        raise InputError(f"{folder} has no chat template: use an instruction-tuned model, or add chat_template.jinja")
    return template


def _fast_tokenizer(folder: Path, settings: Mapping[str, Any], tokens: Mapping[str, str]) -> tuple[str, Backend]:
    """The fast tokenizer's JSON and the tokenizer; ``transformers`` loads it only where tokenizer.json isn't all."""
    path = folder / "tokenizer.json"
    if path.is_file():
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, expected at most {MAX_TOKENIZER_BYTES}")
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise InputError(f"can't read {path} ({one_line(error, 80)}): fetch it again") from None
        backend = parse_tokenizer(source, str(folder))
        added = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
        declared = _declared(folder, settings) | dict.fromkeys(tokens.values(), True)
        if all(text in added and (added[text] or not special) for text, special in declared.items()):
            return source, backend
    else:
        _check_vocabulary(folder)
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        source = loaded.backend_tokenizer.to_str()
    except Exception as error:
        # Whatever the conversion of an old tokenizer stumbles on.
        raise InputError(f"{folder}: the tokenizer can't be loaded ({one_line(error, 120)}): fetch it again") from None
    return source, parse_tokenizer(source, str(folder))


def _check_vocabulary(folder: Path) -> None:
    """InputError where neither of the older formats is whole, or the libraries that read it aren't there."""
    there = {name for name in ("vocab.json", "merges.txt", "tokenizer.model") if (folder / name).is_file()}
    if there >= {"vocab.json", "merges.txt"}:
        return
    if "tokenizer.model" in there:
        lacking = [name.partition(".")[2] or name for name in _SENTENCEPIECE if not _is_installed(name)]
        if lacking:
            raise InputError(
                f"{folder} has a tokenizer.model and no tokenizer.json; reading it needs {' and '.join(lacking)}: "
                f"pip install {' '.join(lacking)}"
            )
        return
    if there:
        missing = ({"vocab.json", "merges.txt"} - there).pop()
        raise InputError(f"{folder} has {there.pop()} without {missing} and no tokenizer.json: fetch {missing} too")
    raise InputError(f"{folder} has no tokenizer.json: expected the folder of a Hugging Face checkpoint")


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def _declared(folder: Path, settings: Mapping[str, Any]) -> dict[str, bool]:
    """Texts of the tokens that other files add to those of tokenizer.json, and whether each is a control token."""
    path = folder / "added_tokens.json"
    declared = dict.fromkeys(read_json(path), False) if path.is_file() else {}
    added = settings.get("added_tokens_decoder")
    for value in added.values() if isinstance(added, dict) else ():
        if text := _content(value):
            declared[text] = isinstance(value, dict) and bool(value.get("special"))
    for key in ("additional_special_tokens", "extra_special_tokens"):
        extra = settings.get(key)
        values = extra.values() if isinstance(extra, dict) else extra if isinstance(extra, list) else ()
        declared |= {text: True for value in values if (text := _content(value))}
    return declared
