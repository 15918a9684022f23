"""Sampling tokens and reading log-probabilities: one program for each row of logits.

One pass over a row's logits gives both its log-normaliser and its token: constraint mask, temperature, Philox noise and
argmax. Rows with top-k or top-p first find a threshold on the value, by counting (or weighing) what lies at
or above 16 pivots at a time: 8 passes each fix the 32 bits of the largest value that keeps enough, without sorting;
2 passes more give the maximum and the weight of what top-k keeps. The logits of a row (0.5 MB at 128,000 tokens) come
from the L2 cache after the first pass.

The plain twins are ``keep_top``, ``gumbel_argmax`` and ``log_normaliser`` of ``kernels/sampling.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

# The integers of a row: seed, item word 0, item word 1, sample, position, top_k, row of its mask or -1, unused.
INTS = 8
# The floats of a row: temperature (0 is greedy), top_p.
FLOATS = 2
_BLOCK = 2048
# Blocks of logits that a sum loads ahead. Sampling loads one: with two and four it was slower (H200: 449, 512 and
# 698 us for 512 rows at a temperature), because they take registers that other programs would run in.
_SUM_STAGES = 4


@dataclass(frozen=True)
class SamplingRows:
    """How each row's token is chosen."""

    ints: Tensor  # int32 [rows, INTS]
    floats: Tensor  # fp32 [rows, FLOATS]
    # int32 [constrained rows, ceil(vocab / 32)]: allowed tokens, lowest bit first.
    masks: Tensor


@triton.jit
def _gumbel(token, seed, item0, item1, sample, position):
    """The Gumbel noise of tokens: 24-bit uniforms, logarithms to single precision at both ends."""
    zero = token * 0
    word, _, _, _ = tl.philox_impl(
        token.to(tl.uint32), (zero + position).to(tl.uint32), (zero + sample).to(tl.uint32),
        (zero + item0).to(tl.uint32), (zero + seed).to(tl.uint32), (zero + item1).to(tl.uint32), 10,
    )  # fmt: skip
    step = (word >> 8).to(tl.int32)
    low = step < 8388608
    # u = (step + 0.5) / 2^24 is exact below one half; above it 1 - u is, and log(u) = log1p(u - 1).
    near_one = (16777215 - step).to(tl.float32) + 0.5
    gap = near_one * 5.9604644775390625e-08
    u = tl.where(low, (step.to(tl.float32) + 0.5) * 5.9604644775390625e-08, 1.0 - gap)
    rounded = tl.where(low, 1.0, 1.0 - u)  # what u really differs from 1 by
    plain = -tl.log(u)
    corrected = tl.where(rounded == 0.0, gap, plain * (gap / tl.where(rounded == 0.0, 1.0, rounded)))
    return -tl.log(tl.where(low, plain, corrected))


@triton.jit
def _scaled(logits, masks, mask_row, words, n, vocab, temperature):
    """Logits over temperature, minus infinity where the constraint or the vocabulary's end forbids the token."""
    x = tl.load(logits + n, mask=n < vocab, other=-float("inf")).to(tl.float32)
    masked = tl.where(mask_row >= 0, vocab, 0)  # columns that a mask speaks of
    bits = tl.load(masks + mask_row * words + n // 32, mask=n < masked, other=-1)
    return x, tl.where((bits >> (n % 32)) & 1 != 0, x, -float("inf")) / temperature


@triton.jit
def _key(x):
    """Unsigned integers in the order of the floats; both zeros are one."""
    bits = (x + 0.0).to(tl.uint32, bitcast=True)
    return tl.where(bits >> 31 != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def _weigh(logits, masks, mask_row, words, vocab, temperature, peak, least, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The count, or the sum of exp(x - peak), of tokens whose keys are ``least`` or more; least [pivots]."""
    found = tl.zeros_like(least).to(tl.float32)
    for start in range(0, vocab, BLOCK):
        n = start + tl.arange(0, BLOCK)
        _, x = _scaled(logits, masks, mask_row, words, n, vocab, temperature)
        amount = tl.exp(x - peak) if BY_MASS else (n < vocab).to(tl.float32)
        found += tl.sum(tl.where(_key(x)[:, None] >= least[None, :], amount[:, None], 0.0), 0)
    return found


@triton.jit
def _threshold(
    logits, masks, mask_row, words, vocab, temperature, peak, target, BY_MASS: tl.constexpr, BLOCK: tl.constexpr
):
    """The largest key whose tokens at or above it amount to ``target`` at least."""
    pivot = tl.arange(0, 16)
    prefix = tl.zeros((16,), tl.uint32)
    for turn in range(8):
        candidates = prefix | (pivot.to(tl.uint32) << (28 - 4 * turn))
        amount = _weigh(logits, masks, mask_row, words, vocab, temperature, peak, candidates, BY_MASS, BLOCK)
        best = tl.max(tl.where(amount >= target, pivot, 0))
        prefix = prefix | ((pivot * 0 + best).to(tl.uint32) << (28 - 4 * turn))
    return tl.max(prefix.to(tl.int64))


@triton.jit(do_not_specialize=["words"])
def _sample(
    logits, ints, floats, masks, tokens, logprobs, vocab, stride, words,
    INTS: tl.constexpr, FLOATS: tl.constexpr, BLOCK: tl.constexpr, PIVOT_BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    about = ints + row * INTS
    seed, item0, item1 = tl.load(about), tl.load(about + 1), tl.load(about + 2)
    sample, position = tl.load(about + 3), tl.load(about + 4)
    top_k, mask_row = tl.load(about + 5), tl.load(about + 6).to(tl.int64)
    raw_temperature, top_p = tl.load(floats + row * FLOATS), tl.load(floats + row * FLOATS + 1)
    drawn = raw_temperature > 0.0
    temperature = tl.where(drawn, raw_temperature, 1.0)
    least = tl.zeros((), tl.int64)
    if drawn & ((top_k > 0) | (top_p < 1.0)):
        peaks = tl.full((BLOCK,), -float("inf"), tl.float32)
        for start in range(0, vocab, BLOCK):
            n = start + tl.arange(0, BLOCK)
            _, x = _scaled(logits, masks, mask_row, words, n, vocab, temperature)
            peaks = tl.maximum(peaks, x)
        peak = tl.max(peaks)
        if top_k > 0:
            target = tl.minimum(top_k, vocab).to(tl.float32)
            least = _threshold(
                logits, masks, mask_row, words, vocab, temperature, peak, target, False, PIVOT_BLOCK
            )  # fmt: skip
        if top_p < 1.0:
            kept = tl.full((16,), 0, tl.uint32) | least.to(tl.uint32)
            mass = tl.max(
                _weigh(logits, masks, mask_row, words, vocab, temperature, peak, kept, True, PIVOT_BLOCK)
            )  # fmt: skip
            by_mass = _threshold(
                logits, masks, mask_row, words, vocab, temperature, peak, mass * top_p, True, PIVOT_BLOCK
            )  # fmt: skip
            # The likeliest token stays, even where top_p times the mass is nothing in single precision.
            least = tl.maximum(least, tl.minimum(by_mass, _key(peak).to(tl.int64)))
    peak_of = tl.full((BLOCK,), -float("inf"), tl.float32)
    sum_of = tl.zeros((BLOCK,), tl.float32)
    best = tl.full((BLOCK,), -float("inf"), tl.float32)
    best_token = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, vocab, BLOCK):
        n = start + tl.arange(0, BLOCK)
        x, value = _scaled(logits, masks, mask_row, words, n, vocab, temperature)
        new_peak = tl.maximum(peak_of, x)
        base = tl.where(new_peak == -float("inf"), 0.0, new_peak)
        sum_of = sum_of * tl.exp(peak_of - base) + tl.exp(x - base)
        peak_of = new_peak
        value = tl.where(_key(value).to(tl.int64) >= least, value, -float("inf"))
        if drawn:
            value += _gumbel(n, seed, item0, item1, sample, position)
        better = value > best
        best = tl.where(better, value, best)
        best_token = tl.where(better, n, best_token)
    token = tl.min(tl.where(best == tl.max(best), best_token, 2147483647))
    token = tl.where(token < vocab, token, 0)
    top = tl.max(peak_of)
    normaliser = top + tl.log(tl.sum(sum_of * tl.exp(peak_of - top)))
    tl.store(tokens + row, token)
    tl.store(logprobs + row, tl.load(logits + token).to(tl.float32) - normaliser)


@triton.jit
def _log_normaliser(logits, out, vocab, stride, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    peak = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, vocab, BLOCK, num_stages=STAGES):
        n = start + tl.arange(0, BLOCK)
        x = tl.load(logits + n, mask=n < vocab, other=-float("inf")).to(tl.float32)
        new_peak = tl.maximum(peak, x)
        base = tl.where(new_peak == -float("inf"), 0.0, new_peak)
        total = total * tl.exp(peak - base) + tl.exp(x - base)
        peak = new_peak
    top = tl.max(peak)
    tl.store(out + row, top + tl.log(tl.sum(total * tl.exp(peak - top))))


def _block(vocab: int) -> int:
    return min(_BLOCK, max(32, 1 << (vocab - 1).bit_length()))


def sample(logits: Tensor, rows: SamplingRows, vocab: int) -> tuple[Tensor, Tensor]:
    """Return each row's token, int32 [rows], and its log-probability over the full vocabulary at temperature 1, fp32.

    logits [rows, width], of which the first ``vocab`` columns count. Ties take the lowest token id. Top-k and top-p
    keep ties with the last kept value.
    """
    count = logits.shape[0]
    tokens = torch.empty(count, dtype=torch.int32, device=logits.device)
    logprobs = torch.empty(count, dtype=torch.float32, device=logits.device)
    block = _block(vocab)
    _sample[(count,)](
        logits, rows.ints, rows.floats, rows.masks, tokens, logprobs, vocab, logits.stride(0), rows.masks.shape[1],
        INTS=INTS, FLOATS=FLOATS, BLOCK=block, PIVOT_BLOCK=min(block, 512), num_warps=8,
    )  # fmt: skip
    return tokens, logprobs


def log_normaliser(logits: Tensor, vocab: int) -> Tensor:
    """Return log(sum(exp(logits))) of each row's first ``vocab`` columns, fp32 [rows]; one pass."""
    out = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    _log_normaliser[(logits.shape[0],)](
        logits, out, vocab, logits.stride(0), BLOCK=_block(vocab), STAGES=_SUM_STAGES, num_warps=8
    )
    return out
