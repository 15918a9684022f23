"""A decoder's weights in the layout that the engine multiplies with, read from a checkpoint without a second copy.

Projections of the same input are fused along their outputs, and each is arranged for this machine's products as soon
as it is read: what lies in memory twice at any moment is one matrix a thread, and no more than ``_UNDER_WAY`` numbers
over all threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Condition

import torch

from warmeng.common.errors import InputError, UsageError
from warmeng.common.memory import give_back
from warmeng.engine.config import ModelConfig
from warmeng.engine.quantization.layers import Layer, Stored, is_quantized, read_layer, stored_tensors
from warmeng.engine.settings import AUTO
from warmeng.engine.tensors import FLOATS, Checkpoint, content_hash, open_checkpoint
from warmeng.kernels.linear import PlainProjection, Projection
from warmeng.kernels.quantized import Weight, round_weight, stack

__all__ = [
    "Checkpoint", "LayerWeights", "Weights", "check_shapes", "content_hash", "expected_names", "load_weights",
    "open_checkpoint", "plain_only",
]  # fmt: skip

# Rows of a weight that are rounded at once.
_ROUNDED_ROWS = 2048
# Numbers of matrices that are read at once: 1 GiB of bfloat16. A larger matrix is read alone.
_UNDER_WAY = 2**29
# Buffers that old versions of transformers saved; they follow from the configuration.
_BUFFER = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


@dataclass(frozen=True)
class LayerWeights:
    """One layer; ``H`` hidden size, ``I`` intermediate size, ``d`` head size, ``nq`` and ``nk`` heads."""

    attn_norm: torch.Tensor  # [H]
    qkv: Projection  # ((nq + 2 nk) d, H): q, then k, then v
    qkv_bias: torch.Tensor | None  # [(nq + 2 nk) d]
    q_norm: torch.Tensor | None  # [d]
    k_norm: torch.Tensor | None  # [d]
    o: Projection  # (H, nq d)
    mlp_norm: torch.Tensor  # [H]
    gate_up: Projection  # (2 I, H): gate, then up
    down: Projection  # (H, I)


@dataclass(frozen=True)
class Weights:
    """All weights of a decoder on one device; those that are not quantised are of one dtype."""

    embed: torch.Tensor  # [V, H]
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor  # [H]
    head: Projection  # (V, H)


def load_weights(
    folder: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    project: Callable[[Weight], Projection] | None = None,
    kind: str = AUTO,
) -> Weights:
    """Read the checkpoint in ``folder`` for ``config``, converting to ``dtype`` on ``device``.

    ``project`` arranges each weight [out, in]; unless given, weights that are not quantised stay as they are. ``kind``:
    what the layers' weights are rounded to, int8, fp8 or int4, or "auto" to keep them as the checkpoint has them;
    embedding, norms and head stay as they are. Raises:
        InputError: a file, tensor or shape that isn't as expected, one that is missing, or one that is not used.
    """
    checkpoint = open_folder(folder, config)
    check_shapes(checkpoint, config)
    project = project or plain_only(PlainProjection)
    loader = _Loader(checkpoint, config, dtype, torch.device(device), project, kind)
    hidden, vocab = config.hidden_size, config.vocab_size
    embed = loader.read("model.embed_tokens.weight", vocab, hidden)
    final_norm = loader.read("model.norm.weight", hidden)
    layers = [loader.layer(f"model.layers.{i}.") for i in range(config.num_layers)]
    head = None if config.tie_word_embeddings else loader.plain(["lm_head.weight"], [vocab], hidden)
    loader.run()
    if config.tie_word_embeddings:
        loader.check_tie(embed)
    for name in checkpoint.names:
        if _BUFFER.fullmatch(name):
            checkpoint.ignore(name)
    _ignore_biases(checkpoint, config)
    checkpoint.finish()
    return Weights(embed, tuple(layer() for layer in layers), final_norm, head.value if head else project(embed))


def _ignore_biases(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """Let quantised layers have biases of zeros, which old versions of AutoGPTQ gave to all of them."""
    if config.quantization is None:
        return
    expected = expected_shapes(config)
    for name in checkpoint.names:
        if name.endswith("_proj.bias") and name not in expected and bool(checkpoint.tensor(name).any()):
            raise InputError(f"{checkpoint.folder}: {name} isn't zero, and this architecture has no such bias")


def open_folder(folder: Path, config: ModelConfig) -> Checkpoint:
    """Open a base's checkpoint, whose tensors may be of integers and FP8 where its configuration says so."""
    return open_checkpoint(folder, quantized=config.quantization is not None)


def plain_only(project: Callable[[torch.Tensor], Projection]) -> Callable[[Weight], Projection]:
    """Return what arranges weights that are not quantised, and raises UsageError for others."""

    def arranged(weight: Weight) -> Projection:
        if isinstance(weight, torch.Tensor):
            return project(weight)
        raise UsageError(f"weights of {weight.kind} are not multiplied here: take a base that is not quantised")

    return arranged


def projection_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return (out, in) of each fused product of a layer, and of the output head."""
    query, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "qkv": (query + 2 * kv, config.hidden_size),
        "o": (config.hidden_size, query),
        "gate_up": (2 * config.intermediate_size, config.hidden_size),
        "down": (config.hidden_size, config.intermediate_size),
        "head": (config.vocab_size, config.hidden_size),
    }


def num_weights(config: ModelConfig) -> int:
    """Return how many numbers the matrices of a model hold; embedding and head are counted as two."""
    sizes = {name: rows * columns for name, (rows, columns) in projection_shapes(config).items()}
    head = sizes.pop("head")
    return config.num_layers * sum(sizes.values()) + 2 * head


def expected_names(config: ModelConfig) -> tuple[str, ...]:
    """The names of the tensors that a checkpoint of this configuration must have."""
    return tuple(expected_shapes(config))


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a checkpoint of this configuration must have."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    query, kv = config.num_heads * head, config.num_kv_heads * head
    parts: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if config.qkv_bias:
        parts |= {f"self_attn.{p}_proj.bias": (query if p == "q" else kv,) for p in "qkv"}
    if config.qk_norm:
        parts |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    outer: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    outer["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        outer["lm_head.weight"] = (config.vocab_size, hidden)
    return outer | {f"model.layers.{i}.{p}": shape for i in range(config.num_layers) for p, shape in parts.items()}


def check_shapes(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """InputError where a tensor that the configuration needs is missing or has another shape.

    Reads no tensor and makes none: sizes that only the configuration claims take no memory.
    """
    wanted = _wanted(checkpoint, config)
    checkpoint.require(name for name, stored in wanted.items() if not stored.optional)
    for name, stored in wanted.items():
        if not checkpoint.has(name):
            continue
        if checkpoint.shape(name) not in stored.shapes:
            raise InputError(
                f"{checkpoint.folder}: {name} has shape {list(checkpoint.shape(name))}, expected "
                f"{' or '.join(str(list(s)) for s in stored.shapes)} from config.json: the two don't belong together"
            )
        if checkpoint.dtype(name) not in stored.dtypes:
            raise InputError(
                f"{checkpoint.folder}: {name} has dtype {checkpoint.dtype(name)}, expected "
                f"{' or '.join(sorted(stored.dtypes))}: the file isn't what its config.json says"
            )


def _wanted(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Stored]:
    """Return what tensors must be there, and what they must look like."""
    wanted = {name: Stored((shape,), FLOATS) for name, shape in expected_shapes(config).items()}
    scheme = config.quantization
    if scheme is None:
        return wanted
    modules = [name.removesuffix(".weight") for name in wanted if name.endswith("_proj.weight")]
    quantized = [module for module in modules if is_quantized(checkpoint, module, scheme)]
    if not quantized:
        raise InputError(f"{checkpoint.folder}: no layer is quantised though config.json says {scheme.words()}")
    for module in quantized:
        ((out, width),) = wanted.pop(f"{module}.weight").shapes
        try:
            tensors = stored_tensors(scheme, out, width)
        except ValueError as error:
            raise InputError(f"{checkpoint.folder}: {module}: {error}: the config.json is wrong") from None
        wanted |= {f"{module}.{end}": stored for end, stored in tensors.items()}
    return wanted


class _Pending:
    """A projection that is there once the loader has run."""

    def __init__(self) -> None:
        self._value: Projection | None = None

    def set(self, value: Projection) -> None:
        self._value = value

    @property
    def value(self) -> Projection:
        assert self._value is not None, "the loader has not run"
        return self._value


class _Room:
    """A number of places that jobs on several threads take and give back."""

    def __init__(self, places: int) -> None:
        self._places = self._free = places
        self._changed = Condition()

    @contextmanager
    def taken(self, wanted: int) -> Iterator[None]:
        """Wait until so many places are free and take them; who wants more than there are takes all."""
        wanted = min(wanted, self._places)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


class _Loader:
    """Lays out what is to be read first, then reads it in parallel."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        project: Callable[[Weight], Projection],
        kind: str,
    ) -> None:
        self.checkpoint = checkpoint
        self.kind = kind
        # Each with how many numbers it reads.
        self.jobs: list[tuple[int, Callable[[], None]]] = []
        self.config = config
        self.dtype = dtype
        self.device = device
        self.project = project

    def run(self) -> None:
        """Do all jobs, each on one thread: the barriers of parallel operators would cost seconds on a busy machine."""
        threads, room = torch.get_num_threads(), _Room(_UNDER_WAY)

        def done(count: int, job: Callable[[], None]) -> None:
            with room.taken(count):
                job()

        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for running in [pool.submit(done, *job) for job in self.jobs]:
                    running.result()
        finally:
            # This sets the default of threads to come, which the pool's threads have changed.
            torch.set_num_threads(threads)
            self.jobs.clear()
            # Of a small model's copies each thread kept some: of one in int8 a quarter of its size.
            give_back()

    def empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def read(self, name: str, *shape: int) -> torch.Tensor:
        dest = self.empty(*shape)
        self.jobs.append((dest.numel(), partial(self.checkpoint.read_into, name, dest)))
        return dest

    def plain(self, names: list[str], heights: list[int], width: int) -> _Pending:
        """The checkpoint's ``[height, width]`` matrices one below the other, arranged."""

        def weight() -> Weight:
            dest = self.empty(sum(heights), width)
            for name, part in zip(names, torch.split(dest, heights), strict=True):
                self.checkpoint.read_into(name, part)
            return dest

        return self._pending(weight, sum(heights) * width)

    def fused(self, names: list[str], heights: list[int], width: int) -> _Pending:
        """The same for layers that may be quantised, or are to be."""
        scheme = self.config.quantization
        modules = [name.removesuffix(".weight") for name in names]
        stored = scheme is not None and any(is_quantized(self.checkpoint, module, scheme) for module in modules)
        if self.kind == AUTO and not stored:
            return self.plain(names, heights, width)

        def parts(module: str, height: int) -> list[Weight]:
            if scheme is not None and is_quantized(self.checkpoint, module, scheme):
                return [read_layer(Layer(self.checkpoint, module, scheme, height, width, self.device))]
            if self.kind == AUTO:
                dest = self.empty(height, width)
                self.checkpoint.read_into(f"{module}.weight", dest)
                return [dest]
            # In blocks, as rounding makes several copies.
            blocks = torch.split(self.checkpoint.tensor(f"{module}.weight"), _ROUNDED_ROWS)
            return [round_weight(rows.to(self.device, torch.float32), self.kind) for rows in blocks]

        def weight() -> Weight:
            found = [part for module, height in zip(modules, heights, strict=True) for part in parts(module, height)]
            try:
                return stack(found)
            except ValueError as error:
                what = f"{', '.join(modules)}: {error}: use another quantisation of the model"
                raise InputError(f"{self.checkpoint.folder}: {what}") from None

        return self._pending(weight, sum(heights) * width)

    def _pending(self, weight: Callable[[], Weight], count: int) -> _Pending:
        pending = _Pending()
        self.jobs.append((count, lambda: pending.set(self.project(weight()))))
        return pending

    def layer(self, prefix: str) -> Callable[[], LayerWeights]:
        """Plan a layer; call what is returned once the loader has run."""
        c = self.config
        q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        qkv_bias = None
        if c.qkv_bias:
            qkv_bias = self.empty(q + 2 * kv)
            for name, start, width in (("q", 0, q), ("k", q, kv), ("v", q + kv, kv)):
                dest = qkv_bias.narrow(0, start, width)
                read = partial(self.checkpoint.read_into, f"{attention}{name}_proj.bias", dest)
                self.jobs.append((width, read))
        attn_norm = self.read(prefix + "input_layernorm.weight", c.hidden_size)
        q_norm = self.read(attention + "q_norm.weight", c.head_dim) if c.qk_norm else None
        k_norm = self.read(attention + "k_norm.weight", c.head_dim) if c.qk_norm else None
        mlp_norm = self.read(prefix + "post_attention_layernorm.weight", c.hidden_size)
        qkv = self.fused([f"{attention}{p}_proj.weight" for p in "qkv"], [q, kv, kv], c.hidden_size)
        o = self.fused([attention + "o_proj.weight"], [c.hidden_size], q)
        gates = [mlp + "gate_proj.weight", mlp + "up_proj.weight"]
        gate_up = self.fused(gates, [c.intermediate_size] * 2, c.hidden_size)
        down = self.fused([mlp + "down_proj.weight"], [c.hidden_size], c.intermediate_size)
        return lambda: LayerWeights(
            attn_norm, qkv.value, qkv_bias, q_norm, k_norm, o.value, mlp_norm, gate_up.value, down.value
        )

    def check_tie(self, embed: torch.Tensor) -> None:
        """Refuse a checkpoint whose head differs from the embedding that it says is tied to it."""
        name = "lm_head.weight"
        if name in self.checkpoint.names and not torch.equal(
            self.checkpoint.tensor(name), self.checkpoint.tensor("model.embed_tokens.weight")
        ):
            raise InputError(
                f"{self.checkpoint.folder}: {name} differs from the embedding though config.json ties them: "
                "set tie_word_embeddings to false or remove the tensor"
            )
