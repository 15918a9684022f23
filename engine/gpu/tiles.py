"""Which tiles products and attention take on this device."""

from __future__ import annotations

import torch

from warmeng.common.errors import UsageError
from warmeng.engine.checkpoint import Weights, projection_shapes
from warmeng.engine.config import ModelConfig
from warmeng.engine.gpu.ops import DeviceWeight
from warmeng.kernels.gpu.attention import Tiling, tiling_for
from warmeng.kernels.gpu.invariance import batch_invariant_tiles, batch_invariant_tiling, check_norm, fitting_tiles
from warmeng.kernels.gpu.tiles import Tile, tiles_for

# Ada and Hopper multiply fp8; before them nothing does.
_FP8_FROM = 89


def select_tiles(
    config: ModelConfig, weights: Weights, kept: torch.dtype, block_size: int, fast: bool
) -> tuple[dict[str, tuple[Tile, ...]], Tiling]:
    """Return the tiles of products, by the kind of weight, and of attention; unless ``fast``, those found
    batch-invariant on the device. ``kept``: what keys and values are kept in.

    Raises RuntimeError where none is, UsageError where the device can't multiply a kind.
    """
    kinds, dtype, device = _kinds(weights), weights.embed.dtype, weights.embed.device
    if device.type != "cuda":
        return {kind: tiles_for(90, kind) for kind in kinds}, tiling_for(config.head_dim, fast, 90)
    major, minor = torch.cuda.get_device_capability(device)
    capability = 10 * major + minor
    eight = [*(["weights"] if "fp8" in kinds else []), *(["keys and values"] if kept == torch.float8_e4m3fn else [])]
    if eight and capability < _FP8_FROM:
        raise UsageError(
            f"{' and '.join(eight)} are fp8, and {torch.cuda.get_device_name(device)} (sm_{capability}) has no "
            f"instructions for it, expected sm_{_FP8_FROM} or later: take --weights int8 or --kv-dtype auto"
        )
    tiles = {kind: fitting_tiles(dtype, device, tiles_for(capability, kind), kind) for kind in kinds}
    attention_tiles = tiling_for(config.head_dim, fast, capability)
    if not fast:
        shapes = list(projection_shapes(config).values())
        tiles = {kind: batch_invariant_tiles(shapes, dtype, device, found, kind) for kind, found in tiles.items()}
        sizes = (config.num_heads, config.num_kv_heads, config.head_dim, block_size)
        attention_tiles = batch_invariant_tiling(attention_tiles, *sizes, dtype, device, kept=kept)
        check_norm(config.hidden_size, dtype, device)
    return tiles, attention_tiles


def _kinds(weights: Weights) -> list[str]:
    """Return the kinds of weights that a model has."""
    layers = [w for layer in weights.layers for w in (layer.qkv, layer.o, layer.gate_up, layer.down)]
    return sorted({w.kind for w in (*layers, weights.head) if isinstance(w, DeviceWeight)})
