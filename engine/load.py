"""From a model's name to a runner on a device: which backend, in which precision, with how much cache."""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec

import torch

from warmeng.common.errors import UsageError
from warmeng.common.memory import memory_limit
from warmeng.engine.backend import Runner
from warmeng.engine.checkpoint import Weights, check_shapes, load_weights, open_folder, projection_shapes
from warmeng.engine.config import ModelConfig
from warmeng.engine.cpu.runner import CpuRunner
from warmeng.engine.plan import PLAIN, cpu_weight_bytes, is_ruined, refuse_beyond_memory, refuse_too_large
from warmeng.engine.random import random_weights
from warmeng.engine.registry import ModelSource
from warmeng.engine.settings import AUTO, EngineLimits, EngineSettings
from warmeng.kernels.arrangement import arrange, multiplies_bf16
from warmeng.kernels.quantized_linear import project

DEVICES = ("auto", "cpu", "cuda", "interpret")
_BY_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_INSTALL = "install the gpu extra: pip install warmeng[gpu]"


def choose_device(device: str) -> str:
    """Return "cpu", "cuda" or "interpret" (the CUDA backend's kernels in Triton's interpreter, for tests).

    Raises UsageError where the device is unknown or isn't there.
    """
    if device not in DEVICES:
        raise UsageError(f"device is {device!r}, expected one of {', '.join(DEVICES)}")
    there, triton = torch.cuda.is_available(), find_spec("triton") is not None
    if device == "auto":
        return "cuda" if there and triton else "cpu"
    if device == "cuda" and not there:
        raise UsageError(
            "device is 'cuda' and PyTorch sees no CUDA device: use --device cpu, or a CUDA build of PyTorch"
        )
    if device in ("cuda", "interpret") and not triton:
        raise UsageError(f"device is {device!r} and triton is not installed: {_INSTALL}")
    if device == "interpret" and os.environ.get("TRITON_INTERPRET") != "1":
        raise UsageError("device is 'interpret': set TRITON_INTERPRET=1 before starting")
    return device


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """Return what products take on a chosen device: float32 on the CPU unless told, bfloat16 on CUDA.

    Raises UsageError where the device can't.
    """
    if device != "cpu":
        only = "bfloat16" if device == "cuda" else "float32"
        if dtype not in (AUTO, only):
            raise UsageError(f"dtype is {dtype!r}, and {device} computes in {only}: take that, or another --device")
        return _BY_NAME[only]
    if dtype == "bfloat16" and not multiplies_bf16():
        raise UsageError(
            "dtype is 'bfloat16', and this processor has no instructions for it (AVX512_BF16 or AMX): take float32"
        )
    return _BY_NAME["float32" if dtype == AUTO else dtype]


def choose_weights(weights: str, config: ModelConfig) -> str:
    """Return what the layers' weights are to be rounded to at load: int8, fp8, int4, or "auto" for nothing.

    Raises UsageError where they are quantised in another way already, or where rounding is known to break the model.
    """
    stored = config.quantization
    if stored is not None and weights != AUTO:
        if weights == stored.kind:
            return AUTO
        raise UsageError(
            f"weights is {weights!r}, and the checkpoint's are {stored.kind} already: take auto, or the original model"
        )
    if is_ruined(config, weights):
        raise UsageError(
            "weights is 'int8', which breaks models of the shape of Llama 3.1 70B (outliers in early layers): take "
            "fp8 or int4, or a checkpoint that was calibrated"
        )
    return weights


def instructions(device: str) -> str:
    """Return the kind of instructions that products are computed with on cpu or cuda: AVX512 for example, or sm_90."""
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return f"sm_{major}{minor}"
    return str(torch.backends.cpu.get_cpu_capability())


def load_runner(
    source: ModelSource | int | Weights,
    config: ModelConfig,
    vocab_size: int,
    settings: EngineSettings,
    device: str,
    limits: EngineLimits,
) -> Runner:
    """Load a checkpoint, or make random weights from a seed, for a chosen device; or take weights as they lie there."""
    if isinstance(source, ModelSource):
        # Before anything is made in the sizes that a configuration only claims.
        check_shapes(open_folder(source.folder, config), config)
    kind = AUTO if isinstance(source, Weights) else choose_weights(settings.weights, config)
    if device == "cpu":
        if isinstance(source, Weights):
            raise UsageError("the CPU backend arranges weights when it loads them: give a model or a seed")
        return _on_cpu(source, config, vocab_size, settings, limits, kind)
    from warmeng.engine.gpu.ops import DeviceWeight
    from warmeng.engine.gpu.runner import GpuRunner

    where = torch.device("cuda" if device == "cuda" else "cpu")
    dtype = choose_dtype(settings.dtype, device)
    if device == "cuda" and not isinstance(source, Weights):
        stored = PLAIN if config.quantization is None else config.quantization.kind
        refuse_too_large(config, stored if kind == AUTO else kind, *torch.cuda.mem_get_info(where))
    if isinstance(source, Weights):
        weights = source
    elif isinstance(source, int):
        weights = random_weights(config, source, dtype, where, DeviceWeight, kind)
    else:
        weights = load_weights(source.folder, config, dtype, where, DeviceWeight, kind)
    return GpuRunner(config, weights, settings, limits, vocab_size)


def _on_cpu(
    source: ModelSource | int,
    config: ModelConfig,
    vocab_size: int,
    settings: EngineSettings,
    limits: EngineLimits,
    kind: str,
) -> CpuRunner:
    # Only products, keys and values are in another precision: what is between them stays in float32.
    dtype, where = torch.float32, torch.device("cpu")
    products = choose_dtype(settings.dtype, "cpu")
    quantized = config.quantization.kind if config.quantization is not None else kind
    if quantized == "fp8" and products == torch.bfloat16:
        raise UsageError("dtype is 'bfloat16', and products of fp8 are summed in float32 here: take dtype auto")
    weight_bytes = cpu_weight_bytes(config, quantized, products == torch.bfloat16)
    refuse_beyond_memory(weight_bytes, limits.kv_bytes or 0, memory_limit())
    arrangement = arrange(projection_shapes(config).values(), products, settings.fast)
    weights: Weights
    if isinstance(source, int):
        weights = random_weights(config, source, dtype, where, partial(project, arrangement), kind)
    else:
        weights = load_weights(source.folder, config, dtype, where, partial(project, arrangement), kind)
    assert limits.kv_bytes is not None
    slot = 2 * config.num_layers * config.num_kv_heads * config.head_dim * products.itemsize
    num_blocks = max(2, limits.kv_bytes // (slot * settings.block_size)) + 1
    return CpuRunner(
        config, weights, arrangement, num_blocks, settings.block_size, limits.max_seq_len, vocab_size,
        kv_fp8=settings.kv_dtype == "fp8", adapt_threads=settings.threads is None,
    )  # fmt: skip
