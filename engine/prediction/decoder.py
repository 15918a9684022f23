"""The bytes and operations of a decoder."""

from __future__ import annotations

from dataclasses import dataclass

from warmeng.engine.checkpoint import projection_shapes
from warmeng.engine.config import ModelConfig


@dataclass(frozen=True)
class Decoder:
    """Bytes and operations of a model, ``item`` bytes a number."""

    # Numbers in all layers' products; norms and biases are left out.
    layer_weights: int
    head_weights: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    item: int

    @property
    def weight_bytes(self) -> int:
        """Bytes that every step reads, whatever its size; the few rows of the embedding that it reads are left out."""
        return (self.layer_weights + self.head_weights) * self.item

    @property
    def body_operations(self) -> int:
        """Operations of one token through the layers' products."""
        return 2 * self.layer_weights

    @property
    def token_operations(self) -> int:
        """Operations of one token whose logits are needed."""
        return 2 * (self.layer_weights + self.head_weights)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the keys and values of one position."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.item

    @property
    def pair_operations(self) -> int:
        """Operations of attention for one query token and one position."""
        return 4 * self.layers * self.heads * self.head_size


def decoder(config: ModelConfig, item: int = 2) -> Decoder:
    """Return what a model of this configuration must do."""
    shapes = projection_shapes(config)
    sizes = {name: out * width for name, (out, width) in shapes.items()}
    head = sizes.pop("head")
    return Decoder(
        config.num_layers * sum(sizes.values()), head, config.num_layers, config.num_heads, config.num_kv_heads,
        config.head_dim, item,
    )  # fmt: skip
