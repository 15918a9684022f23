"""Random choices that depend on what they are for and on nothing else.

Each comes from a counter-based generator whose key is made of (seed, purpose, step, sample, module), never from a
stream that earlier choices advanced. So cutting a batch in other pieces, training two personas at once or continuing
an interrupted run changes none of them; and personas share them, so that they differ by their data only.

Philox4x64-10 (Salmon, Moraes, Dror and Shaw, SC 2011) as NumPy has it, read as raw words: NumPy promises those for
good, other than the distributions made of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Of the numbers that dropout compares: the rate is kept to within 1 / 131072.
_LEVELS = 1 << 16


def generator(*key: int | str) -> np.random.Philox:
    """Return the generator of a key."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64))


def order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """Return the order of an epoch's samples, a permutation of 0 to count - 1."""
    words: Any = generator(seed, "order", epoch).random_raw(count)
    return np.argsort(words, kind="stable")


def uniform(seed: int, module: str, shape: tuple[int, ...], bound: float) -> Tensor:
    """Return float32 numbers between -bound and bound, keyed by module."""
    words: Any = generator(seed, "init", module).random_raw(int(np.prod(shape)))
    unit = ((words >> np.uint64(40)).astype(np.float64) + 0.5) / (1 << 24)
    return torch.from_numpy(((2 * unit - 1) * bound).astype(np.float32)).view(shape)


@dataclass(frozen=True)
class Dropout:
    """The dropout of one pass: which numbers of each module's input are kept.

    Attributes:
        rate: the share that is dropped, 0 for none.
        seed, step: of the run, and of the optimiser counted from 0.
        samples: the sample that each run of rows belongs to, by its place in its persona's data.
        lengths: the rows of each.
    """

    rate: float
    seed: int
    step: int
    samples: Sequence[int]
    lengths: Sequence[int]

    @property
    def gain(self) -> float:
        """What kept numbers are multiplied by."""
        return 1 / (1 - self.rate)

    @property
    def _dropped(self) -> int:
        return round(self.rate * _LEVELS)

    def keep(self, layer: int, target: str, width: int, device: torch.device) -> Tensor:
        """Return bool [rows, width], False where dropped; the same for the same arguments on the same kind of device.

        A GPU draws with its own generator, also Philox, so its masks are not those of the CPU.
        """
        out = torch.empty(sum(self.lengths), width, dtype=torch.bool, device=device)
        for sample, rows in zip(self.samples, torch.split(out, list(self.lengths)), strict=True):
            if device.type == "cpu":
                source = generator(self.seed, "dropout", self.step, sample, layer, target)
                words: Any = source.random_raw(-(-rows.numel() // 4))
                drawn = torch.from_numpy(words.view(np.int16)[: rows.numel()]).view(rows.shape)
                torch.ge(drawn, self._dropped - _LEVELS // 2, out=rows)
            else:
                digest = hashlib.sha256(f"{self.seed} {self.step} {sample} {layer} {target}".encode()).digest()
                source_gpu = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))
                rows.bernoulli_(1 - self._dropped / _LEVELS, generator=source_gpu)
        return out
