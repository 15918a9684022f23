"""Choosing tokens: temperature, top-k, top-p, Philox noise and the Gumbel-argmax rule.

Philox4x32-10 is from Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The
counter of one draw is (token id, position, sample index, first word of the item's hash) and the key is
(seed, second word of the item's hash), so a draw never depends on the batch, the adapter or the prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Words = npt.NDArray[np.uint32]

_UNIFORM_BITS = 24
MAX_GUMBEL = -math.log(-math.log1p(-(2.0 ** -(_UNIFORM_BITS + 1))))  # of the largest uniform, about 17.33
# This divides the vocabularies of the supported families.
_CHUNK = 128
# The likeliest tokens, whose noise is drawn first to bound what the others must beat.
_PROBE = 64


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words], rounds: int = 10) -> list[Words]:
    """Return the four output words of each counter. Arrays of one shape; the paper's constants."""
    c0, c1, c2, c3 = (c.astype(np.uint64) for c in counter)
    k0, k1 = (k.astype(np.uint64) for k in key)
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    for _ in range(rounds):
        p0 = c0 * np.uint64(0xD2511F53)
        p1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & low, (p0 >> shift) ^ c3 ^ k1, p0 & low
        k0 = (k0 + np.uint64(0x9E3779B9)) & low
        k1 = (k1 + np.uint64(0xBB67AE85)) & low
    return [c.astype(np.uint32) for c in (c0, c1, c2, c3)]


@dataclass(frozen=True)
class Noise:
    """What determines the noise of each sampled row. All [rows]."""

    seed: Words
    item: npt.NDArray[np.uint32]  # [rows, 2] hash of the item id
    sample: Words
    # Position of the token that is drawn, counted from the first generated one.
    position: Words

    def gumbel(self, rows: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the Gumbel noise of (row, token) pairs. float64, one value for each pair.

        The uniform has 24 bits and never reaches 0 or 1, so the noise lies between -2.86 and ``MAX_GUMBEL``.
        """
        counter = (tokens.astype(np.uint32), self.position[rows], self.sample[rows], self.item[rows, 0])
        word = philox4x32(counter, (self.seed[rows], self.item[rows, 1]))[0]
        uniform = ((word >> np.uint32(32 - _UNIFORM_BITS)) + 0.5) * 2.0**-_UNIFORM_BITS
        return np.asarray(-np.log(-np.log(uniform)))


def argmax(logits: Tensor) -> Tensor:
    """Return the first of each row's largest values, int64 [rows]. logits [rows, vocab].

    PyTorch's own ``argmax`` does not vectorise on the CPU and was measured at 12 times the cost of ``amax``, so the
    place is looked for only in the first chunk that holds the row's maximum.
    """
    rows, vocab = logits.shape
    if vocab % _CHUNK:
        return logits.argmax(-1)
    chunks = logits.view(rows, -1, _CHUNK)
    best = chunks.amax(-1).argmax(-1)
    return best * _CHUNK + chunks[torch.arange(rows), best].argmax(-1)


def log_normaliser(logits: Tensor) -> Tensor:
    """Return log(sum(exp(logits))) of each row, [rows]. logits [rows, vocab].

    PyTorch splits the sum of a lone row over threads, which changes its bits: a lone row is reduced beside itself.
    """
    rows = logits.shape[0]
    return (logits.expand(2, -1) if rows == 1 else logits).logsumexp(-1)[:rows]


def top_tokens(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ids and the logits of each row's largest, int64 and float [rows, count], the largest first.

    logits [rows, vocab], float32, on any device. Of equal ones the lowest id comes first: ``topk`` leaves that open, so
    it is given integers in the order of the floats, each with its id in the lower half.
    """
    bits = (logits + 0.0).view(torch.int32).to(torch.int64)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    ids = torch.arange(logits.shape[1], device=logits.device)
    keys = (ordered << 32) | (0xFFFFFFFF - ids)
    chosen = 0xFFFFFFFF - (keys.topk(count, dim=-1).values & 0xFFFFFFFF)
    return chosen, logits.gather(1, chosen)


def keep_top(scaled: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Set tokens outside top-k, then outside top-p, to minus infinity; returns a new tensor.

    scaled [rows, vocab] logits over temperature; top_k [rows], 0 for all; top_p [rows], 1 for all. Both are thresholds
    on the value, so ties with the last kept token are kept: the smallest set of likeliest values whose probability
    reaches top_p, taken among the top-k.
    """
    vocab = scaled.shape[1]
    if not bool((top_k > 0).any()) and not bool((top_p < 1).any()):
        return scaled
    ordered = scaled.sort(dim=-1, descending=True).values
    last = torch.where(top_k > 0, top_k.clamp(max=vocab), vocab) - 1
    threshold = ordered.gather(1, last[:, None])
    probabilities = ordered.masked_fill(ordered < threshold, -torch.inf).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    count = (before < top_p[:, None]).sum(-1, keepdim=True).clamp(min=1)
    threshold = torch.maximum(threshold, ordered.gather(1, count - 1))
    threshold = torch.where((top_p < 1)[:, None], threshold, ordered.gather(1, last[:, None]))
    return scaled.masked_fill(scaled < threshold, -torch.inf)


def gumbel_argmax(scaled: Tensor, noise: Noise) -> Tensor:
    """Return the token with the largest ``scaled + noise`` of each row, int64 [rows].

    Exact, yet noise is drawn only for tokens that can still win: the noise is bounded by ``MAX_GUMBEL``, so once one
    token's sum is known, tokens that would need more than that are out.
    """
    rows, vocab = scaled.shape
    top = scaled.topk(min(_PROBE, vocab), dim=-1)
    row = np.repeat(np.arange(rows), top.indices.shape[1])
    sums = top.values.double().numpy().reshape(-1) + noise.gumbel(row, top.indices.numpy().reshape(-1))
    best = torch.from_numpy(sums.reshape(rows, -1).max(1))
    # Compared in the logits' own precision, one step lower: a few too many candidates do no harm, and a comparison
    # in float64 converts all logits first: 12 ms a step of 96 rows.
    least = torch.nextafter((best - MAX_GUMBEL).to(scaled.dtype), scaled.new_tensor(-torch.inf))
    candidates = (scaled >= least[:, None]).nonzero().numpy()
    row, token = candidates[:, 0], candidates[:, 1]
    values = scaled[torch.from_numpy(row), torch.from_numpy(token)].double().numpy() + noise.gumbel(row, token)
    starts = np.searchsorted(row, np.arange(rows))
    largest = np.maximum.reduceat(values, starts)
    winners = np.flatnonzero(values == largest[row])
    # The lowest token id where two are equal.
    first = winners[np.searchsorted(row[winners], np.arange(rows))]
    return torch.from_numpy(token[first])
