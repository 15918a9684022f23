"""A steering vector from contrasting conversations: the difference of the mean hidden states over their responses.

The method of Chen et al. 2025 (arXiv:2507.21509) with given responses: each response's hidden states are averaged over
its tokens, then over conversations; the vector is the mean of one kind less that of the other, for every layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from warmeng.common.errors import InputError, StorageError
from warmeng.common.files import write_atomic
from warmeng.engine.engine import Engine
from warmeng.finetune.conversations import Dataset, load_dataset


@dataclass(frozen=True)
class LayerContrast:
    """A layer's vector. ``norm``: its length. ``share``: that length as a part of the mean response's hidden states'.

    ``separation``: by how many standard deviations the two kinds differ along the vector, which is made of every other
    conversation and measured on the others (Cohen's d, pooled).
    """

    layer: int
    norm: float
    share: float
    separation: float


@dataclass(frozen=True)
class Contrast:
    """Vectors of all layers, float32 [layers + 1, hidden], row 0 the embeddings', and what is known of each."""

    vectors: Tensor
    layers: tuple[LayerContrast, ...]
    positive: Dataset
    negative: Dataset


def make_contrast(
    engine: Engine,
    positive: str,
    negative: str,
    *,
    limit: int = 0,
    max_length: int = 1024,
    say: Callable[[str], None] = lambda line: None,
) -> Contrast:
    """Return the vectors that lead from one kind of response to the other.

    ``positive`` and ``negative`` are files of conversations or ``embedded:COLUMN``; ``limit``: conversations of each,
    0 for all. All are computed in the same passes. Raises InputError where a source has fewer than four samples.
    """
    kinds = [load_dataset(s, engine.tokenizer, engine.config.stop_token_ids, max_length) for s in (positive, negative)]
    texts = []
    for kind in kinds:
        samples = kind.samples[:limit] if limit else kind.samples
        if len(samples) < 4:
            raise InputError(f"{kind.source} has {len(samples)} conversations, expected at least 4 to compare halves")
        texts.append([(s.tokens.tolist(), s.learn.tolist()) for s in samples])
    say(f"{len(texts[0])} conversations of {positive}, {len(texts[1])} of {negative}")
    means = engine.mean_hidden([text for kind in texts for text in kind]).double()
    more, less = means[: len(texts[0])], means[len(texts[0]) :]
    vectors = more.mean(0) - less.mean(0)
    halves = more[::2].mean(0) - less[::2].mean(0)
    along = [torch.einsum("nlh,lh->nl", kind[1::2], halves) for kind in (more, less)]
    spread = sum((len(a) - 1) * a.var(0) for a in along) / (sum(map(len, along)) - 2)
    separation = (along[0].mean(0) - along[1].mean(0)) / torch.as_tensor(spread).sqrt().clamp(min=1e-30)
    size = means.mean(0).norm(dim=-1)
    layers = tuple(
        LayerContrast(i, float(vectors[i].norm()), float(vectors[i].norm() / size[i]), float(separation[i]))
        for i in range(1, len(vectors))
    )
    return Contrast(vectors.float(), layers, *kinds)


def write_contrast(path: Path, contrast: Contrast, engine: Engine) -> None:
    """Write the vectors as one tensor of a safetensors file, atomically. Raises StorageError where it can't be."""
    from safetensors.torch import save

    about = engine.describe()
    kept = {
        "model": str(about["model"]), "base_hash": str(about["weights"]),
        "positive": f"{contrast.positive.source} {contrast.positive.sha256}",
        "negative": f"{contrast.negative.source} {contrast.negative.sha256}",
    }  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save({"vectors": contrast.vectors.contiguous()}, metadata=kept))
    except OSError as error:
        raise StorageError(f"{path}: can't be written ({error}): choose another --out") from None
