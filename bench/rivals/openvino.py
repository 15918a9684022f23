"""OpenVINO GenAI's continuous batching, on a graph that OpenVINO's converter makes of the ``transformers`` model.

The graph has what the pipeline looks for: keys and values as state that begins empty, and ``beam_idx``, by which it
is reordered. The pipeline puts paged attention in their place.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from warmeng.bench.rivals.rival import Rival, Task
from warmeng.common.errors import UsageError
from warmeng.engine.config import ModelConfig, read_config

_MODEL = "openvino_model.xml"
# Rows of a step, as the engine beside it has on a CPU. By itself the pipeline takes 256, which was slower.
_STEP_TOKENS = 768


class OpenVino(Rival):
    """``f32`` keeps keys and values in float32; ``bf16`` and ``int8`` (weights) leave them to OpenVINO."""

    @classmethod
    def prepare(cls, task: Task, folder: Path) -> None:
        """Write the model as OpenVINO's graph; for int8 with weights compressed by NNCF, asymmetric per channel."""
        import openvino

        model = _graph(task.folder)
        if task.precision == "int8":
            import nncf

            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        openvino.save_model(model, folder / _MODEL, compress_to_fp16=False)
        # The pipeline reads the model's family here.
        (folder / "config.json").write_bytes((Path(task.folder) / "config.json").read_bytes())

    def __init__(self, task: Task) -> None:
        """Load the pipeline without a prefix cache, with room for all keys and values."""
        import openvino
        import openvino_genai

        has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if task.precision == "bf16" and not has_bf16:
            raise UsageError("OpenVINO finds no instructions for bfloat16 on this processor: take f32 or int8")
        self._task = task
        self._properties = {
            "INFERENCE_PRECISION_HINT": "bf16" if has_bf16 and task.precision != "f32" else "f32",
            "INFERENCE_NUM_THREADS": task.threads,
        } | ({"KV_CACHE_PRECISION": "f32"} if task.precision == "f32" else {})
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_seqs = len(task.prompts)
        scheduler.max_num_batched_tokens = _STEP_TOKENS
        scheduler.cache_size = _gigabytes(read_config(Path(task.folder)), task)
        self._scheduler = scheduler
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            task.prepared, scheduler, "CPU", self._properties
        )  # fmt: skip
        self._prompts = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in task.prompts]
        self._config = openvino_genai.GenerationConfig()
        self._config.max_new_tokens = task.max_new_tokens
        self._config.do_sample = False
        self._config.eos_token_id = task.stops[0]
        self._config.stop_token_ids = set(task.stops)

    def about(self) -> dict[str, Any]:
        """Return the plugin's properties and the scheduler's settings that were chosen."""
        return {
            "properties": {"KV_CACHE_PRECISION": "default", **self._properties}, "prefix_cache": False,
            "max_num_batched_tokens": self._scheduler.max_num_batched_tokens, "cache_gb": self._scheduler.cache_size,
        }  # fmt: skip

    def run(self, batch: int | None, mixed: bool) -> list[list[int]]:
        """Answer all prompts at once."""
        results = self._pipeline.generate(self._prompts, [self._config] * len(self._prompts))
        return [self._task.ended(result.m_generation_ids[0]) for result in results]


def _gigabytes(config: ModelConfig, task: Task) -> int:
    """Return how many GB of cache hold every prompt with its longest answer, in float32."""
    tokens = sum(len(prompt) + task.max_new_tokens for prompt in task.prompts)
    return math.ceil(tokens * 2 * config.num_layers * config.num_kv_heads * config.head_dim * 4 / 1e9)


def _graph(folder: str) -> Any:
    """Return the graph of a checkpoint's forward pass, in float32, with keys and values as its state."""
    import openvino
    import torch
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation
    from transformers import AutoModelForCausalLM, DynamicCache

    config = read_config(Path(folder))
    layers, heads, width = config.num_layers, config.num_kv_heads, config.head_dim
    decoder = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
    ).eval()

    class Step(torch.nn.Module):
        """A step with the past as arguments: key and value of each layer, [sequences, heads, tokens, width]."""

        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(self, ids: Any, mask: Any, positions: Any, *past: Any) -> tuple[Any, ...]:
            cache = DynamicCache(config=decoder.config)
            for i, layer in enumerate(cache.layers):
                # Set as they are: appended to an empty cache they would become a concatenation of their own.
                layer.lazy_initialization(past[2 * i], past[2 * i + 1])
                layer.keys, layer.values = past[2 * i], past[2 * i + 1]
            new, whole = ids.shape[1], mask.shape[1]
            causal = torch.arange(whole)[None, :] <= torch.arange(whole - new, whole)[:, None]
            found = self.decoder(
                input_ids=ids, attention_mask=causal[None, None] & (mask[:, None, None, :] > 0),
                position_ids=positions, past_key_values=cache, use_cache=True,
            )  # fmt: skip
            present = [state for layer in cache.layers for state in (layer.keys, layer.values)]
            return (found.logits, *present)

    # Sizes of an example: 2 sequences of 3 tokens before and 4 now.
    past = [torch.zeros(2, heads, 3, width) for _ in range(2 * layers)]
    ids, mask = torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 7, dtype=torch.long)
    with torch.inference_mode():
        model = openvino.convert_model(
            Step(), example_input=(ids, mask, torch.arange(3, 7).expand(2, 4).clone(), *past)
        )
    kinds = [f"{i}.{kind}" for i in range(layers) for kind in ("key", "value")]
    names = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{kind}" for kind in kinds)]
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        port.node.set_friendly_name(name)
        shape = [-1, -1] if len(port.partial_shape) == 2 else [-1, heads, -1, width]
        port.node.set_partial_shape(openvino.PartialShape(shape))
    for port, name in zip(model.outputs, ["logits", *(f"present.{kind}" for kind in kinds)], strict=True):
        port.get_tensor().set_names({name})
    beam = ops.parameter([-1], openvino.Type.i32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beam])
    for port in model.inputs[3:-1]:
        readers = list(port.get_target_inputs())
        ordered = ops.gather(port, beam, ops.constant(0))
        for reader in readers:
            reader.replace_source_output(ordered.output(0))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(
        model, {f"past_key_values.{kind}": f"present.{kind}" for kind in kinds}
    )  # fmt: skip
    shape_of = ops.shape_of(model.input("input_ids"), output_type="i64")
    sequences = ops.gather(shape_of, ops.constant([0]), ops.constant(0))
    empty = ops.concat([sequences, ops.constant([heads]), ops.constant([0]), ops.constant([width])], 0)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([ops.broadcast(ops.constant(0.0, dtype=np.float32), empty)])
    model.validate_nodes_and_infer_types()
    return model
