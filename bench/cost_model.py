"""The least time that a decoder's bytes and operations take at measured peaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from warmeng.bench.lengths import Lengths
from warmeng.bench.roofline import ProductPeak
from warmeng.engine.config import ModelConfig
from warmeng.engine.prediction.card import Roofline
from warmeng.engine.prediction.decoder import Decoder


@dataclass(frozen=True)
class Floor:
    """The least seconds of a run: the products, then attention, each at the peak that bounds it."""

    products: float
    attention: float
    # The least number of steps.
    steps: int

    @property
    def seconds(self) -> float:
        """The sum: they don't overlap, because a layer's attention stands between its products."""
        return self.products + self.attention


def generation_floor(model: Decoder, lengths: Sequence[Lengths], batch: int, roofline: Roofline) -> Floor:
    """Return the floor of generating all answers with at most ``batch`` sequences at once, no prefix shared.

    A prompt's tokens go through the layers, its last one through the head too. That one gives the first token of the
    answer, so an answer of n tokens takes n - 1 more steps. Keys and values are read once for each later token.
    """
    outputs = sum(x.answer for x in lengths)
    prompts = sum(x.prompt for x in lengths)
    longest = max(x.answer for x in lengths)
    steps = max(math.ceil(outputs / batch), longest)
    body = prompts + outputs - len(lengths)
    operations = body * model.body_operations + outputs * 2 * model.head_weights
    products = roofline.seconds(steps * model.weight_bytes, operations)
    seen = sum((x.answer - 1) * x.prompt + (x.answer - 1) * x.answer // 2 for x in lengths)
    triangles = sum(x.prompt * (x.prompt + 1) // 2 for x in lengths)
    decode = roofline.seconds(seen * model.kv_bytes, seen * model.pair_operations)
    prefill = roofline.seconds(prompts * model.kv_bytes, triangles * model.pair_operations)
    return Floor(products, decode + prefill, steps)


def grading_floor(model: Decoder, prefix: int, new: int, labels: int, count: int, roofline: Roofline) -> Floor:
    """Return the floor of scoring ``count`` requests of ``new`` tokens each after one shared, cached prefix.

    ``labels``: positions whose logits are read, for each request. The weights are read once a request at most, which
    the operations of a few hundred tokens outweigh.
    """
    tokens = count * new
    operations = tokens * model.body_operations + count * labels * 2 * model.head_weights
    pairs = count * (new * prefix + new * (new + 1) // 2)
    attention = roofline.seconds(0.0, pairs * model.pair_operations)
    return Floor(roofline.seconds(model.weight_bytes, operations), attention, 1)


def products_seconds(products: list[ProductPeak], config: ModelConfig, body_rows: int, head_rows: int) -> float:
    """Return the time of the matrix products alone: ``body_rows`` tokens through the layers, ``head_rows`` logits."""
    total = 0.0
    for product in products:
        rows = head_rows if product.name == "head" else body_rows * config.num_layers
        total += rows * product.seconds_per_row()
    return total
