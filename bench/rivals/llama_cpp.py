"""llama.cpp through llama-cpp-python's calls of its C API, on a GGUF that is written here.

The class ``Llama`` of that package answers one prompt at a time, and the package has no server with several slots.
So what llama.cpp's own server does is done here: as many sequences at once as there are slots, each step decoding one
token of every running one, and prompts beside them while they fit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from warmeng.bench.rivals.rival import STATIC_BATCHES, Rival, Task
from warmeng.common.errors import UsageError
from warmeng.engine.config import ModelConfig, read_config

_MODEL = "model.gguf"
# Tokens of one call; its default.
_CALL_TOKENS = 2048
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


class LlamaCpp(Rival):
    """``f32``, ``bf16`` and ``int8`` (``Q8_0``) are weights; keys and values are in half precision, its default."""

    batches: ClassVar[tuple[int, ...]] = STATIC_BATCHES

    @classmethod
    def prepare(cls, task: Task, folder: Path) -> None:
        """Write a GGUF without a vocabulary: prompts are token ids."""
        write_gguf(Path(task.folder), folder / _MODEL, task.precision)

    def __init__(self, task: Task) -> None:
        """Load the weights; a context is made by the first pass with its number of slots."""
        import llama_cpp

        self._task = task
        self._api = llama_cpp
        llama_cpp.llama_backend_init()
        path = str(Path(task.prepared) / _MODEL).encode()
        self._model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
        if self._model is None:
            raise UsageError(f"llama.cpp can't load {path.decode()}")
        self._vocab = read_config(Path(task.folder)).vocab_size
        self._tokens_a_call = max(_CALL_TOKENS, max(map(len, task.prompts)))
        self._context: Any = None
        self._slots = 0

    def about(self) -> dict[str, Any]:
        """Return the instructions that it was built with."""
        return {"system": self._api.llama_print_system_info().decode().strip(), "n_batch": self._tokens_a_call}

    def run(self, batch: int | None, mixed: bool) -> list[list[int]]:
        """Answer with ``batch`` slots."""
        assert batch is not None
        task, api = self._task, self._api
        self._open(batch)
        memory = api.llama_get_memory(self._context)
        api.llama_memory_clear(memory, True)
        out: list[list[int]] = [[] for _ in task.prompts]
        waiting, free, running = deque(range(len(out))), list(range(batch)), dict[int, int]()
        rows = api.llama_batch_init(self._tokens_a_call, 0, 1)
        try:
            while waiting or running:
                read: dict[int, int] = {}  # from rows with logits to slots
                count = 0
                for slot, index in running.items():
                    read[count] = slot
                    at = len(task.prompts[index]) + len(out[index]) - 1
                    count = _put(rows, count, slot, at, [out[index][-1]])
                while waiting and free and count + len(task.prompts[waiting[0]]) <= self._tokens_a_call:
                    index, slot = waiting.popleft(), free.pop()
                    running[slot] = index
                    count = _put(rows, count, slot, 0, task.prompts[index])
                    read[count - 1] = slot
                rows.n_tokens = count
                if (code := api.llama_decode(self._context, rows)) != 0:
                    raise RuntimeError(f"llama_decode returned {code}")
                for row, slot in read.items():
                    logits = api.llama_get_logits_ith(self._context, row)
                    index = running[slot]
                    out[index].append(int(np.ctypeslib.as_array(logits, (self._vocab,)).argmax()))
                    if out[index][-1] in task.stops or len(out[index]) == task.max_new_tokens:
                        del running[slot]
                        free.append(slot)
                        api.llama_memory_seq_rm(memory, slot, -1, -1)
        finally:
            api.llama_batch_free(rows)
        return [task.ended(tokens) for tokens in out]

    def _open(self, slots: int) -> None:
        """Make a context with this number of slots, each with room for the longest prompt and answer."""
        if slots == self._slots:
            return
        if self._context is not None:
            self._api.llama_free(self._context)
        params = self._api.llama_context_default_params()
        params.n_ctx = slots * (max(map(len, self._task.prompts)) + self._task.max_new_tokens)
        params.n_batch = self._tokens_a_call
        params.n_seq_max = slots
        params.n_threads = params.n_threads_batch = self._task.threads
        self._context = self._api.llama_init_from_model(self._model, params)
        if self._context is None:
            raise RuntimeError(f"llama.cpp makes no context of {params.n_ctx} tokens")
        self._slots = slots


def _put(rows: Any, count: int, slot: int, position: int, tokens: list[int]) -> int:
    """Put tokens into a call's arrays from row ``count`` on, with logits of the last one; return the new count."""
    for offset, token in enumerate(tokens):
        row = count + offset
        rows.token[row], rows.pos[row] = token, position + offset
        rows.n_seq_id[row], rows.seq_id[row][0] = 1, slot
        rows.logits[row] = offset == len(tokens) - 1
    return count + len(tokens)


def write_gguf(folder: Path, path: Path, precision: str) -> None:
    """Write a checkpoint as GGUF: matrices in f32, bf16 or int8 (``Q8_0``), vectors in float32, no vocabulary.

    Raises UsageError for a rotation with factors, which would need a tensor of its own.
    """
    import gguf

    config = read_config(folder)
    if config.rope_scaling is not None or config.quantization is not None:
        raise UsageError("llama.cpp is measured on plain weights and a rotation without factors alone: leave it out")
    architecture = _ARCHITECTURES[config.family]
    kinds = gguf.GGMLQuantizationType
    kind = {"f32": kinds.F32, "bf16": kinds.BF16, "int8": kinds.Q8_0}[precision]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in _tensors(folder, config):
        matrix = tensor.ndim == 2
        raw = gguf.quants.quantize(tensor, kind if matrix else kinds.F32)
        writer.add_tensor(name, raw, raw_dtype=kind if matrix else kinds.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(folder: Path, config: ModelConfig) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Return llama.cpp's names and float32 values of a checkpoint's tensors."""
    import gguf
    from safetensors import safe_open

    from warmeng.engine.tensors import tensor_files

    architecture = gguf.MODEL_ARCH[_ARCHITECTURES[config.family].upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_layers)
    heads = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}
    for file in tensor_files(folder):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                if name == "lm_head.weight" and config.tie_word_embeddings:
                    continue
                found = names.get_name(name, try_suffixes=(".weight", ".bias"))
                if found is None:
                    continue
                values = opened.get_tensor(name).float().numpy()
                part = found.split(".")[-2]
                if architecture == gguf.MODEL_ARCH.LLAMA and part in heads:
                    # It rotates neighbours, transformers rotates halves.
                    halves = values.reshape(heads[part], 2, -1, *values.shape[1:])
                    values = halves.swapaxes(1, 2).reshape(values.shape)
                yield found, np.ascontiguousarray(values)
