"""A checkpoint's ``config.json``, read by an allow-list into one frozen ``ModelConfig``.

One decoder serves all families, so everything that tells them apart is a field here. A key that isn't known either
as arithmetic or as harmless is refused by name: a field silently ignored is a model silently wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from warmeng.common.errors import InputError, name_some, one_line, show
from warmeng.common.files import read_json
from warmeng.engine.scheme import Scheme, is_inert, parse_scheme


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FAMILIES: dict[str, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_ARITHMETIC = _words("""
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    hidden_act rms_norm_eps rope_theta rope_scaling rope_parameters tie_word_embeddings max_position_embeddings
    attention_bias mlp_bias layer_types eos_token_id bos_token_id model_type architectures quantization_config
""")
_WINDOWED = _words("sliding_window use_sliding_window max_window_layers")  # not read for llama
_BOOKKEEPING = _words("""
    _name_or_path _model_name_or_path _from_model_config _attn_implementation attn_implementation
    _attn_implementation_autoset transformers_version transformers.js_config torch_dtype dtype use_cache
    initializer_range attention_dropout pretraining_tp pad_token_id unk_token_id id2label label2id return_dict
    return_dict_in_generate output_hidden_states output_attentions output_scores chunk_size_feed_forward is_decoder
    problem_type is_llama_config task_specific_params model_max_length unsloth_version unsloth_fixed
    keys_to_ignore_at_inference
""")
# Sampling defaults that old configurations hold: what is asked for decides, never the checkpoint.
_SAMPLING = _words("""
    temperature top_k top_p typical_p do_sample max_length min_length max_new_tokens num_beams num_beam_groups
    num_return_sequences repetition_penalty length_penalty diversity_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size early_stopping
""")
# Of numbers of a configuration; single precision holds all of them.
MIN_NUMBER, MAX_NUMBER = 1e-30, 1e30
# Of the rotary base and of its factors: known models have 1e4 to 1e7, and 1 to 64. Below 1, positions would turn
# faster than they are counted; far beyond, all of them look alike.
MAX_THETA, MAX_FACTOR = 1e12, 1e6
_ROPE_KEYS = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
}


@dataclass(frozen=True)
class RopeScaling:
    """How the rotary frequencies are changed.

    ``linear`` divides all by ``factor``; ``llama3`` divides those of wavelengths beyond
    ``original_max_position_embeddings / low_freq_factor``, keeps those below ``... / high_freq_factor`` and
    interpolates in between (Llama 3.1's rule). Fields that a kind doesn't use are zero.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    original_max_position_embeddings: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """Everything about a decoder that its weights' shapes and its arithmetic depend on."""

    family: Literal["llama", "mistral", "qwen2", "qwen3"]
    # Rows of the embedding, padding included.
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    # Even; num_heads * head_dim may differ from hidden_size.
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    # q, k and v have a bias (Qwen2); o never has one.
    qkv_bias: bool
    # q and k are RMS-normalised over head_dim before the rotation (Qwen3).
    qk_norm: bool
    tie_word_embeddings: bool
    # Positions a sequence may have: never more than an active sliding window.
    max_seq_len: int
    # Recorded where one is active; within max_seq_len it equals full attention.
    sliding_window: int | None
    # Union of config and generation config, ascending.
    stop_token_ids: tuple[int, ...]
    bos_token_id: int | None
    # How linear layers are quantised; None: not at all.
    quantization: Scheme | None = None


def inside(folder: Path, name: str) -> Path:
    """``folder/name``, there or not; InputError where it is a link that leads elsewhere.

    The hub's cache keeps the files of ``snapshots`` in ``blobs`` beside them: that is allowed.
    """
    path = folder / name
    try:
        target, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} can't be followed ({one_line(error, 80)}): replace it with the file itself") from None
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise InputError(f"{path} is a link that leaves its folder: replace it with the file itself")
    return path


def read_config(folder: Path) -> ModelConfig:
    """The configuration of the checkpoint in ``folder``.

    A sliding window shorter than the model's positions is honoured by making it ``max_seq_len``: up to the
    window's length sliding attention equals full attention, and longer sequences are refused.

    Raises:
        InputError: no such file, a family, field or value that isn't supported, or one that is missing.
    """
    path = inside(folder, "config.json")
    if not path.is_file():
        raise InputError(f"{folder} has no config.json: expected the folder of a Hugging Face checkpoint")
    return _Reader(path, read_json(path)).config(inside(folder, "generation_config.json"))


def parse_config(data: Mapping[str, Any], source: str) -> ModelConfig:
    """The configuration in the contents of a ``config.json``; ``source`` names them in messages.

    Raises:
        InputError: as ``read_config``.
    """
    return _Reader(source, data).config(None)


class _Reader:
    def __init__(self, path: Path | str, data: Mapping[str, Any]) -> None:
        self.path = path
        self.data = data

    def fail(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}")

    def config(self, generation: Path | None) -> ModelConfig:
        family = self.data.get("model_type")
        if family not in ("llama", "mistral", "qwen2", "qwen3"):
            raise self.fail(f"model_type is {show(family, 60)}, expected one of {', '.join(_FAMILIES)}")
        self.check_keys(family)
        hidden = self.integer("hidden_size", high=2**17)
        heads = self.integer("num_attention_heads", high=2**12)
        # Llama configurations older than grouped-query attention lack the key; elsewhere there's no safe default.
        kv_heads = self.integer("num_key_value_heads", heads if family == "llama" else None, high=2**12)
        if heads % kv_heads:
            raise self.fail(f"num_attention_heads {heads} isn't a multiple of num_key_value_heads {kv_heads}")
        if self.data.get("head_dim") is None and hidden % heads:
            raise self.fail(f"hidden_size {hidden} isn't a multiple of num_attention_heads {heads}: set head_dim")
        head_dim = self.integer("head_dim", 128 if family == "qwen3" else hidden // heads, high=1024)
        if head_dim % 2:
            raise self.fail(f"head_dim is {head_dim}, expected an even number: rotary embedding turns pairs")
        layers = self.integer("num_hidden_layers", high=2**10)
        positions = self.integer("max_position_embeddings")
        window = self.window(family, layers)
        if window is not None and window >= positions:
            window = None
        theta, scaling = self.rope()
        vocab = self.integer("vocab_size", high=2**22)
        stops = self.token_ids(self.data, "eos_token_id", vocab)
        if generation is not None and generation.is_file():
            stops |= self.token_ids(read_json(generation), "eos_token_id", vocab)
        return ModelConfig(
            family=family,
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=self.integer("intermediate_size", high=2**20),
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=self.number(self.data, "rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            tie_word_embeddings=self.flag("tie_word_embeddings"),
            max_seq_len=positions if window is None else window,
            sliding_window=window,
            stop_token_ids=tuple(sorted(stops)),
            bos_token_id=min(self.token_ids(self.data, "bos_token_id", vocab), default=None),
            quantization=self.quantization(),
        )

    def check_keys(self, family: str) -> None:
        if not is_inert(self.data.get("auto_map")):
            raise self.fail("auto_map is set (code of a checkpoint is never run): use a checkpoint without it")
        known = _ARITHMETIC | _BOOKKEEPING | _SAMPLING | (_words("") if family == "llama" else _WINDOWED)
        unknown = {key for key, value in self.data.items() if key not in known and not is_inert(value)}
        if unknown:
            raise self.fail(f"unknown field {name_some(unknown)} could change the arithmetic: use another checkpoint")
        for key in ("attention_bias", "mlp_bias"):
            if self.flag(key):
                raise self.fail(f"{key} is true, which isn't supported: use a checkpoint without these biases")
        if (act := self.data.get("hidden_act", "silu")) != "silu":
            raise self.fail(f"hidden_act is {show(act, 60)}, expected 'silu'")
        names = self.data.get("architectures") or [_FAMILIES[family]]
        if names != [_FAMILIES[family]]:
            raise self.fail(f"architectures is {one_line(names, 80)}, expected [{_FAMILIES[family]!r}]")

    def quantization(self) -> Scheme | None:
        data = self.data.get("quantization_config")
        return None if is_inert(data) else parse_scheme(data, self.fail)

    def window(self, family: str, layers: int) -> int | None:
        """The sliding window of any layer that has one."""
        kinds = self.data.get("layer_types")
        if kinds is not None:
            if not isinstance(kinds, list) or len(kinds) != layers:
                raise self.fail(f"layer_types isn't a list of {layers} names, one a layer")
            if odd := {str(kind) for kind in kinds} - {"full_attention", "sliding_attention"}:
                raise self.fail(f"layer_types has {name_some(odd)}, expected full_attention or sliding_attention")
            if "sliding_attention" not in kinds and family != "mistral":  # which doesn't read layer_types
                return None
        if family == "llama":
            if kinds is not None:
                raise self.fail("layer_types has sliding_attention, which the llama family lacks")
            return None
        if family == "mistral":
            # Without the key, transformers gives a Mistral configuration this window.
            return 4096 if "sliding_window" not in self.data else self.optional_window()
        if not self.flag("use_sliding_window"):
            if kinds is not None:
                raise self.fail("layer_types has sliding_attention but use_sliding_window isn't true: correct one")
            return None
        if kinds is None and self.number(self.data, "max_window_layers", 28) >= layers:
            return None
        return self.optional_window()

    def optional_window(self) -> int | None:
        return None if self.data.get("sliding_window") is None else self.integer("sliding_window")

    def rope(self) -> tuple[float, RopeScaling | None]:
        """Base and scaling, from ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (4)."""
        new, old = self.data.get("rope_parameters"), self.data.get("rope_scaling")
        if new is not None and old is not None and new != old:
            raise self.fail("rope_parameters and rope_scaling differ: keep one of them")
        rope = new if new is not None else old if old is not None else {}
        if not isinstance(rope, dict):
            raise self.fail(f"rope parameters are {show(rope, 60)}, expected an object")
        places = [where for where in (rope, self.data) if where.get("rope_theta") is not None]
        thetas = {self.number(where, "rope_theta", low=1.0, high=MAX_THETA) for where in places}
        if len(thetas) > 1:
            raise self.fail("rope_theta differs between the top level and the rope parameters: keep one of them")
        theta = thetas.pop() if thetas else 1e4
        kind = rope.get("rope_type", rope.get("type", "default"))
        if not isinstance(kind, str) or kind not in _ROPE_KEYS:
            raise self.fail(f"rope type is {show(kind, 60)}, expected one of {', '.join(_ROPE_KEYS)}")
        odd = {k for k, v in rope.items() if k not in {"rope_theta", "rope_type", "type"} and not is_inert(v)}
        odd -= _ROPE_KEYS[kind] | ({"partial_rotary_factor"} if rope.get("partial_rotary_factor") == 1 else set())
        if odd:
            raise self.fail(f"rope parameter {name_some(odd)} isn't supported with rope type {kind!r}")
        if kind == "default":
            return theta, None
        factor = self.number(rope, "factor", low=1.0, high=MAX_FACTOR)
        if kind == "linear":
            return theta, RopeScaling("linear", factor)
        low, high = (self.number(rope, f"{side}_freq_factor", high=MAX_FACTOR) for side in ("low", "high"))
        if high <= low:
            raise self.fail(f"high_freq_factor {high} isn't above low_freq_factor {low}")
        original = int(self.number(rope, "original_max_position_embeddings", low=1.0, high=2.0**31))
        return theta, RopeScaling("llama3", factor, low, high, original)

    def integer(self, key: str, default: int | None = None, high: int = 2**31) -> int:
        value = self.data.get(key)
        value = default if value is None else value
        if value is None:
            raise self.fail(f"{key} is missing, expected a whole number")
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
            raise self.fail(f"{key} is {show(value, 60)}, expected a whole number from 1 to {high}")
        return value

    def number(
        self,
        data: Mapping[str, Any],
        key: str,
        default: float | None = None,
        low: float = MIN_NUMBER,
        high: float = MAX_NUMBER,
    ) -> float:
        value = data.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.fail(f"{key} is {show(value, 60)}, expected a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.data.get(key)
        if value not in (None, False, True):
            raise self.fail(f"{key} is {show(value, 60)}, expected true or false")
        return bool(value)

    def token_ids(self, data: Mapping[str, Any], key: str, vocab: int) -> set[int]:
        value = data.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab:
                raise self.fail(f"{key} has {show(token, 60)}, expected token ids from 0 to {vocab - 1}")
        return set(ids)
