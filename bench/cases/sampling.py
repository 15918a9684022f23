"""Choosing tokens and normalising logits, beside softmax, sort and multinomial."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from warmeng.bench.cases.case import Case, Sizes, Tensors, Work
from warmeng.kernels.gpu.sampling import SamplingRows, log_normaliser, sample
from warmeng.kernels.sampling import Noise, gumbel_argmax, keep_top

# Rows whose tokens are compared: the twin draws its noise on the CPU.
_CHECKED = 16
_OTHER = "softmax, sort, multinomial"


def cases(sizes: Sizes) -> list[Case]:
    """Return greedy, temperature, nucleus and top-k choices, and the normaliser alone."""
    return [
        _choice(sizes, "greedy", 0.0, 0, 1.0),
        _choice(sizes, "temperature 1", 1.0, 0, 1.0),
        _choice(sizes, "temperature 0.7, top_p 0.9", 0.7, 0, 0.9),
        _choice(sizes, "temperature 0.7, top_k 50", 0.7, 50, 1.0),
        _normaliser(sizes),
    ]


def _logits(sizes: Sizes, seed: int) -> Tensor:
    return sizes.random(seed, sizes.sampled, sizes.config.vocab_size, scale=3.0).float()


def _share_different(found: Tensors, wanted: Tensors) -> float:
    tokens, logprobs = (x[: len(w)] for x, w in zip(found, wanted, strict=True))
    if not bool(torch.isfinite(logprobs).all()):
        return float("nan")
    far = (logprobs.double().cpu() - wanted[1]).abs() > 1e-3
    return float(((tokens.cpu().long() != wanted[0]) | far).double().mean())


def _choice(sizes: Sizes, name: str, temperature: float, top_k: int, top_p: float) -> Case:
    count, vocab = sizes.sampled, sizes.config.vocab_size

    def make(seed: int) -> Work:
        logits = _logits(sizes, seed)
        # A row: seed, two words of its item, sample, position, top_k, no mask, unused.
        ints = sizes.ints([(seed, 17 * row, 29 * row, 0, row, top_k, -1, 0) for row in range(count)])
        floats = torch.tensor([[temperature, top_p]]).repeat(count, 1).to(sizes.device)
        rows = SamplingRows(ints, floats, torch.zeros(1, -(-vocab // 32), dtype=torch.int32, device=sizes.device))

        def twin() -> Tensors:
            x = logits[:_CHECKED].double().cpu()
            few = len(x)
            scaled = x / (temperature or 1.0)
            kept = keep_top(scaled, torch.full((few,), top_k), torch.full((few,), top_p))
            words = ints[:few].cpu().numpy().astype(np.uint32)
            noise = Noise(words[:, 0], words[:, 1:3], words[:, 3], words[:, 4])
            tokens = x.argmax(-1) if temperature == 0 else gumbel_argmax(kept, noise)
            return tokens, (x.log_softmax(-1).gather(1, tokens[:, None]))[:, 0]

        def other() -> None:
            if temperature == 0:
                token = logits.argmax(-1, keepdim=True)
            else:
                token = torch.multinomial(_filtered(logits / temperature, top_k, top_p).softmax(-1), 1)
            logits.log_softmax(-1).gather(1, token)

        others: dict[str, Callable[[], Tensors | None]] = {_OTHER: other}
        return Work(lambda: sample(logits, rows, vocab), twin, others, error=_share_different)

    # ``multinomial`` reads on the host whether its input is sound.
    asks = frozenset({_OTHER} if temperature else ())
    return Case(f"sample: {name}", f"{count} x {vocab}", 4 * count * vocab, 0, make, 1 / _CHECKED, uncaptured=asks)


def _filtered(scaled: Tensor, top_k: int, top_p: float) -> Tensor:
    """Return logits outside top-k or top-p at minus infinity, as samplers made of PyTorch calls do it."""
    if top_k:
        scaled = scaled.masked_fill(scaled < scaled.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1:
        ordered, order = scaled.sort(-1, descending=True)
        share = ordered.softmax(-1)
        drop = share.cumsum(-1) - share > top_p
        scaled = scaled.masked_fill(torch.zeros_like(drop).scatter_(1, order, drop), -torch.inf)
    return scaled


def _normaliser(sizes: Sizes) -> Case:
    count, vocab = sizes.sampled, sizes.config.vocab_size

    def make(seed: int) -> Work:
        logits = _logits(sizes, seed)
        return Work(
            lambda: (log_normaliser(logits, vocab),),
            lambda: (logits.double().logsumexp(-1),),
            {"logsumexp": lambda: (logits.logsumexp(-1),)},
        )

    return Case("log_normaliser", f"{count} x {vocab}", 4 * count * vocab, 0, make, 1e-5)
