"""Choice and log-probabilities of a row, against the CPU's rule in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from tiers import slow
from torch import Tensor

from warmeng.kernels.gpu.sampling import FLOATS, INTS, SamplingRows, _gumbel, log_normaliser, sample
from warmeng.kernels.sampling import MAX_GUMBEL, Noise, keep_top

# The noise is computed in single precision through two logarithms: a few units in the last place of 1 or of itself.
NOISE = 2.0**-21
# Division, noise and their sum are rounded: tokens whose sums differ by less than this, times their size, are a tie.
TIE = 2.0**-20
# Sums of exponentials in other orders: a top-p this close to where a token enters may go either way.
MASS = 2e-5
# Of log-probabilities: single precision of numbers up to about a hundred.
LOGPROB = 3e-5


@dataclass(frozen=True)
class Draws:
    """How rows are drawn; each [rows]. ``allowed`` is bool [constrained rows, vocab], ``mask_row`` its row or -1."""

    noise: Noise
    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    mask_row: np.ndarray
    allowed: np.ndarray

    def rows(self, extra_bits: bool = False) -> SamplingRows:
        """Return what the kernel takes; ``extra_bits`` allows tokens past the vocabulary's end too."""
        n = self.noise
        ints = np.zeros((len(self.top_k), INTS), dtype=np.int32)
        words = (n.seed, n.item[:, 0], n.item[:, 1], n.sample, n.position)
        ints[:, :5] = np.stack(words, axis=1).view(np.int32)
        ints[:, 5], ints[:, 6] = self.top_k, self.mask_row
        floats = np.zeros((len(ints), FLOATS), dtype=np.float32)
        floats[:, 0], floats[:, 1] = self.temperature, self.top_p
        count, vocab = self.allowed.shape
        bits = np.full((count, -(-vocab // 32) * 32), extra_bits)
        bits[:, :vocab] = self.allowed
        masks = np.packbits(bits, axis=1, bitorder="little").view(np.int32)
        return SamplingRows(torch.tensor(ints), torch.tensor(floats), torch.tensor(masks))

    def scaled(self, logits: Tensor) -> Tensor:
        """Return masked logits over temperature in float64, -inf where top-k or top-p leaves a token out."""
        x = logits.double().cpu()
        forbidden = np.zeros(x.shape, dtype=bool)
        forbidden[self.mask_row >= 0] = ~self.allowed[self.mask_row[self.mask_row >= 0]]
        x = x.masked_fill(torch.tensor(forbidden, device="cpu"), -torch.inf)
        raw_temperature = np.where(self.temperature > 0, self.temperature, 1).astype(np.float32).astype(np.float64)
        x = x / torch.tensor(raw_temperature, device="cpu")[:, None]
        drawn = torch.tensor(self.temperature > 0, device="cpu")
        top_k = torch.tensor(self.top_k, device="cpu").long()
        top_p = torch.tensor(self.top_p.astype(np.float32), device="cpu").double()
        return torch.where(drawn[:, None], keep_top(x, top_k, top_p), x)

    def values(self, logits: Tensor) -> np.ndarray:
        """Return what the choice is the largest of: scaled logits, and the noise where a row is drawn."""
        x = self.scaled(logits).numpy()
        row, token = (a.ravel() for a in np.indices(x.shape))
        gumbel = self.noise.gumbel(row, token).reshape(x.shape)
        return np.where(self.temperature[:, None] > 0, x + gumbel, x)


def draws(
    rng: np.random.Generator, count: int, vocab: int, temperature: object = 0.0, top_k: object = 0, top_p: object = 1.0,
    mask_row: object = -1, allowed: np.ndarray | None = None,
) -> Draws:  # fmt: skip
    def words(*shape: int) -> np.ndarray:
        return rng.integers(0, 2**32, shape, dtype=np.uint32)

    def each(value: object, dtype: type) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, dtype=dtype), count)

    noise = Noise(words(count), words(count, 2), words(count), words(count))
    allowed = np.zeros((0, vocab), dtype=bool) if allowed is None else allowed
    return Draws(noise, each(temperature, float), each(top_k, int), each(top_p, float), each(mask_row, int), allowed)


def padded(logits: Tensor, width: int) -> Tensor:
    """Return the logits as the first columns of wider rows, which hold what must never be seen."""
    wide = torch.full((len(logits), width), torch.nan, dtype=logits.dtype)
    wide[:, 1::2] = torch.inf
    wide[:, : logits.shape[1]] = logits
    return wide


def check(logits: Tensor, how: Draws, extra_bits: bool = False) -> Tensor:
    """Choose, and compare tokens and log-probabilities with float64; returns the tokens."""
    count, vocab = logits.shape
    tokens, logprobs = sample(padded(logits, vocab + 7), how.rows(extra_bits), vocab)
    assert tokens.dtype == torch.int32
    normaliser = logits.double().logsumexp(-1)
    expected = logits.double().gather(1, tokens[:, None].long())[:, 0] - normaliser
    torch.testing.assert_close(logprobs.double(), expected, atol=LOGPROB, rtol=1e-6)
    values, found = how.values(logits), tokens.cpu().numpy()
    best = values.argmax(1)
    for row in np.flatnonzero(best != found):
        assert how.temperature[row] > 0, f"row {row} took {found[row]}, expected {best[row]}"
        if how.top_p[row] < 1:  # the threshold itself may be a tie
            k = torch.tensor([how.top_k[row]], device="cpu")
            one = Draws(how.noise, *(a[row : row + 1] for a in (how.temperature, k.numpy(), np.ones(count))),
                        how.mask_row[row : row + 1], how.allowed)  # fmt: skip
            shares = one.scaled(logits[row : row + 1])[0].softmax(-1).sort(descending=True).values
            if ((shares.cumsum(0) - how.top_p[row]).abs() < MASS).any():
                continue
        gap = values[row, best[row]] - values[row, found[row]]
        size = abs(values[row, best[row]]) + MAX_GUMBEL
        assert gap <= TIE * size, f"row {row} took {found[row]}, expected {best[row]}: behind by {gap}"
    return tokens


@triton.jit
def _noise_of(tokens, ints, out, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    seed, item0, item1 = tl.load(ints), tl.load(ints + 1), tl.load(ints + 2)
    tl.store(out + n, _gumbel(tl.load(tokens + n), seed, item0, item1, tl.load(ints + 3), tl.load(ints + 4)))


def gumbel(how: Draws, tokens: np.ndarray) -> np.ndarray:
    assert len(tokens) % 1024 == 0
    out = torch.empty(len(tokens), dtype=torch.float32)
    _noise_of[(len(tokens) // 1024,)](torch.tensor(tokens.astype(np.int32)), how.rows().ints, out, BLOCK=1024)
    return out.cpu().numpy()


def test_noise_is_the_cpus(rng) -> None:
    for _ in range(4):
        how, tokens = draws(rng, 1, 1), rng.integers(0, 2**18, 1 << 14)
        expected = how.noise.gumbel(np.zeros(len(tokens), dtype=np.int64), tokens)
        error = np.abs(gumbel(how, tokens) - expected) / np.maximum(1, np.abs(expected))
        assert error.max() <= NOISE


@pytest.mark.parametrize(
    ("token", "position", "step"),
    [  # found by trying: draws whose 24 bits are the least, the largest, and on either side of one half
        (245447, 173, 0), (86517, 28, 1), (199429, 158, 2**24 - 1), (109084, 51, 2**24 - 2), (69104, 11, 2**23 - 1),
        (91509, 18, 2**23),
    ],
)  # fmt: skip
def test_noise_at_its_ends(token: int, position: int, step: int) -> None:
    zero = np.zeros(1, np.uint32)
    noise = Noise(zero, np.zeros((1, 2), np.uint32), zero, np.full(1, position, np.uint32))
    how = Draws(noise, np.ones(1), np.zeros(1), np.ones(1), np.full(1, -1), np.zeros((0, 1), dtype=bool))
    expected = -math.log(-math.log((step + 0.5) / 2**24))
    assert noise.gumbel(np.zeros(1, np.int64), np.full(1, token))[0] == pytest.approx(expected, rel=1e-15)
    found = gumbel(how, np.full(1024, token))
    assert np.abs(found - expected).max() <= NOISE * max(1, abs(expected))
    assert found.max() <= MAX_GUMBEL * (1 + 2**-23)


def test_noise_follows_the_distribution(rng) -> None:
    count = 1 << 16
    u = np.sort(np.exp(-np.exp(-gumbel(draws(rng, 1, 1), np.arange(count)).astype(np.float64))))
    distance = np.abs(u - (np.arange(count) + 0.5) / count).max()
    assert distance < 3 / math.sqrt(count)  # Kolmogorov's: exceeded once in 30 million runs


@pytest.mark.parametrize("vocab", [1, 33, 2049, *slow(5, 31, 32, 100, 1000, 2048, 5000)])
def test_greedy_takes_the_first_of_the_largest(vocab: int, dtype: torch.dtype, rng) -> None:
    logits = torch.tensor(rng.integers(-3, 4, (6, vocab)), dtype=dtype)
    logits[4] = 0
    logits[5] = -100
    tokens = check(logits, draws(rng, 6, vocab, top_k=3, top_p=0.5))
    assert torch.equal(tokens.long(), logits.float().argmax(-1))


@pytest.mark.parametrize("vocab", [33, *slow(1, 2048, 5000)])
def test_normalisers(vocab: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(5, vocab) * torch.logspace(-1, 2, 5)[:, None]).to(dtype)
    logits[3, : vocab // 2] = -torch.inf
    out = log_normaliser(padded(logits, vocab + 3), vocab)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), logits.double().logsumexp(-1), atol=LOGPROB, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_one_allowed_token_is_taken(temperature: float, rng) -> None:
    """Each token of a vocabulary of two words and a part: all 32 bits, and the last word's few."""
    vocab = 70
    how = draws(rng, vocab, vocab, temperature, mask_row=np.arange(vocab), allowed=np.eye(vocab, dtype=bool))
    for extra_bits in (False, True):
        tokens = check(torch.randn(vocab, vocab) * 10, how, extra_bits)
        assert tokens.tolist() == list(range(vocab))


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 0.9)])
def test_a_row_that_is_no_numbers_has_no_finite_log_probability(temperature: float, top_p: float, rng) -> None:
    """And its token exists: the next step reads its embedding before anybody has looked at it."""
    logits = torch.randn(4, 70)
    logits[0, 3], logits[1, 5], logits[2] = torch.nan, torch.inf, -torch.inf
    tokens, logprobs = sample(logits, draws(rng, 4, 70, temperature, top_p=top_p).rows(), 70)
    assert logprobs.isfinite().tolist() == [False, False, False, True]
    assert ((tokens >= 0) & (tokens < 70)).all()


@pytest.mark.parametrize("vocab", [20, 64, *slow(2050)])
def test_masks(vocab: int, rng) -> None:
    """Rows with and without, several rows with one mask; top-k and top-p choose among what is allowed."""
    count = 24
    allowed = rng.random((5, vocab)) < 0.3
    allowed[:, rng.integers(vocab)] = True
    mask_row = rng.integers(-1, 5, count)
    how = draws(rng, count, vocab, rng.choice([0, 0.7, 2], count), rng.choice([0, 3], count),
                rng.choice([1, 0.6], count), mask_row, allowed)  # fmt: skip
    tokens = check(torch.randn(count, vocab) * 3, how, extra_bits=True).cpu().numpy()
    assert all(allowed[mask_row[i], tokens[i]] for i in range(count) if mask_row[i] >= 0)
    everything = draws(rng, 4, vocab, 1.0, mask_row=0, allowed=np.ones((1, vocab), dtype=bool))
    logits = torch.randn(4, vocab)
    free = Draws(everything.noise, everything.temperature, everything.top_k, everything.top_p, np.full(4, -1),
                 everything.allowed)  # fmt: skip
    assert torch.equal(check(logits, everything), check(logits, free))


@pytest.mark.parametrize(("count", "vocab"), [(40, 2100), *slow((600, 40), (250, 300))])
def test_plain_draws(count: int, vocab: int, rng) -> None:
    logits = torch.randn(count, vocab) * torch.tensor(rng.choice([0.1, 1, 6], (count, 1)), dtype=torch.float32)
    check(logits, draws(rng, count, vocab, rng.lognormal(0, 0.7, count)))


@pytest.mark.parametrize(("count", "vocab"), [(40, 300), *slow((70, 40), (10, 2100))])
def test_top_k_and_top_p(count: int, vocab: int, rng) -> None:
    logits = torch.randn(count, vocab) * 3
    logits[::2] = logits[::2].round()  # many ties, and with them at the thresholds
    logits[::5, : vocab // 2] = -torch.inf
    top_k = rng.choice([0, 1, 2, 10, vocab - 1, vocab, vocab + 5], count)
    top_p = rng.choice([1, 1e-6, 0.1, 0.5, 0.9, 0.999], count)
    check(logits, draws(rng, count, vocab, rng.lognormal(0, 0.7, count), top_k, top_p))


def test_the_smallest_top_p_keeps_the_likeliest(rng) -> None:
    """Even one that is nothing in single precision."""
    logits = torch.randn(6, 100)
    tokens = check(logits, draws(rng, 6, 100, 1.0, [0, 0, 5, 5, 0, 0], [1e-50, 1e-30, 1e-50, 1e-7, 1e-45, 1e-38]))
    assert torch.equal(tokens.long(), logits.argmax(-1))


def test_both_zeros_tie(rng) -> None:
    """A threshold of zero keeps minus zero, which equals it."""
    logits = torch.tensor([[1.0, 0.0, -0.0, -0.0, -0.0, -0.0, -0.0, -0.0, -0.0, -5.0]]).expand(40, -1).contiguous()
    tokens = check(logits, draws(rng, 40, 10, 5.0, 2))
    assert ((tokens > 1) & (tokens < 9)).any()


def test_forbidden_logits_are_never_drawn(rng) -> None:
    logits = torch.full((40, 50), -torch.inf)
    only = torch.tensor(rng.integers(0, 50, 40))
    logits[torch.arange(40), only] = torch.randn(40) * 100
    how = draws(rng, 40, 50, rng.choice([0, 1, 3], 40), rng.choice([0, 4], 40), rng.choice([1, 0.5], 40))
    assert torch.equal(check(logits, how).long(), only)


@pytest.mark.slow
def test_draws_follow_the_probabilities(rng) -> None:
    count = 300
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -20.0])
    tokens = check(logits.expand(count, -1).contiguous(), draws(rng, count, 5, 1.0))
    expected = logits.softmax(-1).cpu().numpy()
    found = np.bincount(tokens.cpu().numpy(), minlength=5) / count
    assert (np.abs(found - expected) <= 6 * np.sqrt(expected * (1 - expected) / count) + 1e-9).all()


def test_a_row_does_not_see_the_others(rng) -> None:
    count, vocab = 40, 200
    logits = torch.randn(count, vocab) * 2
    how = draws(rng, count, vocab, rng.choice([0, 1], count), rng.choice([0, 9], count), rng.choice([1, 0.8], count))
    rows = how.rows()
    tokens, logprobs = sample(logits, rows, vocab)
    order = torch.randperm(count)[:17]
    moved = SamplingRows(rows.ints[order], rows.floats[order], rows.masks)
    found = sample(padded(logits[order], vocab + 30), moved, vocab)
    assert torch.equal(found[0], tokens[order])
    assert torch.equal(found[1], logprobs[order])
