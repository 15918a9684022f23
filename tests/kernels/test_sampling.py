"""Noise, top-k, top-p and the Gumbel-argmax rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from warmeng.kernels.sampling import MAX_GUMBEL, Noise, gumbel_argmax, keep_top, philox4x32, top_tokens


def words(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint32)


def noise(rows: int, seed: int = 0, item: int = 0, position: int | None = None) -> Noise:
    places = np.arange(rows) if position is None else np.full(rows, position)
    return Noise(
        np.full(rows, seed, np.uint32), np.full((rows, 2), item, np.uint32), np.zeros(rows, np.uint32),
        places.astype(np.uint32),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that the authors publish with their generator
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, expected) -> None:
    c = [words(value) for value in counter]
    found = philox4x32((c[0], c[1], c[2], c[3]), (words(key[0]), words(key[1])))
    assert tuple(int(word[0]) for word in found) == expected


def test_pruned_choice_equals_the_full_one() -> None:
    torch.manual_seed(0)
    rows, vocab = 40, 3000
    scaled = torch.randn(rows, vocab) * torch.linspace(0.1, 12, rows)[:, None]
    scaled[5] = -torch.inf
    scaled[5, 17] = 0.0
    source = noise(rows, seed=3, item=9)
    chosen = gumbel_argmax(scaled, source)
    for row in range(rows):
        all_tokens = np.arange(vocab)
        sums = scaled[row].double().numpy() + source.gumbel(np.full(vocab, row), all_tokens)
        assert int(chosen[row]) == int(sums.argmax())


def test_draws_follow_the_probabilities() -> None:
    draws = 20000
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -20.0])
    tokens = gumbel_argmax(logits.expand(draws, -1), noise(draws, seed=1))
    expected = logits.softmax(-1).numpy()
    found = np.bincount(tokens.numpy(), minlength=5) / draws
    error = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(found - expected) <= 4 * error + 1e-9).all()


def test_noise_is_bounded_and_depends_on_each_part_of_its_key() -> None:
    tokens = np.arange(100_000) % 49152
    rows = np.zeros(100_000, dtype=np.int64)
    base = noise(1, seed=1, item=2, position=3).gumbel(rows, tokens)
    assert base.max() <= MAX_GUMBEL
    assert abs(base[:49152].mean() - 0.5772) < 0.03  # the mean of a Gumbel variable is Euler's constant
    for other in (noise(1, 2, 2, 3), noise(1, 1, 3, 3), noise(1, 1, 2, 4)):
        assert abs(np.corrcoef(base, other.gumbel(rows, tokens))[0, 1]) < 0.02


def test_top_k_and_top_p_keep_the_smallest_sets() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0]]).log_softmax(-1)
    row = logits[0].exp()

    def kept(k: int, p: float) -> list[int]:
        out = keep_top(logits, torch.tensor([k]), torch.tensor([p]))
        return torch.isfinite(out[0]).nonzero().flatten().tolist()

    assert kept(0, 1.0) == [0, 1, 2, 3]
    assert kept(2, 1.0) == [0, 2]
    assert kept(0, float(row[0]) - 0.01) == [0]
    assert kept(0, float(row[0]) + 0.01) == [0, 2]
    assert kept(1, 0.99) == [0]
    assert kept(0, 1e-6) == [0]


def test_the_likeliest_tokens_come_in_order_and_of_equal_ones_the_lowest_id() -> None:
    logits = torch.tensor([[-1.0, 3.0, -0.0, 3.0, 0.0, -torch.inf, 2.5], [-5.0, -4.0, -4.0, -6.0, -4.0, -7.0, -9.0]])
    ids, values = top_tokens(logits, 5)
    assert ids.tolist() == [[1, 3, 6, 2, 4], [1, 2, 4, 0, 3]]
    assert torch.equal(values, logits.gather(1, ids))
    drawn = torch.randn(50, 300, generator=torch.Generator().manual_seed(3)).mul(4).round()
    for row, found in zip(drawn.tolist(), top_tokens(drawn, 20)[0].tolist(), strict=True):
        assert found == sorted(range(300), key=lambda k: (-row[k], k))[:20]
