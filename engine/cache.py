"""The paged key-value cache: who holds which block, and which blocks keep a prefix that can be used again.

A full block of a prompt is named by its hash: of the adapters' contents with their coefficients, its tokens and all
tokens before them. Where a device copies slots, a block is also found by what it begins with. Blocks without a user
keep their content until they are needed; the oldest is given away first.
This is host work only: the tensors belong to the runner.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

# This block takes the keys and values of padding tokens. It is never given out.
NULL_BLOCK = 0


def hash_blocks(tokens: Sequence[int], adapter_key: str, block_size: int) -> list[bytes]:
    """Return the hash of each full block of ``tokens``: 16 bytes, chained, so that equal hashes mean equal prefixes."""
    block_hash = blake2b(adapter_key.encode(), digest_size=16).digest()
    data = np.asarray(tokens, dtype=np.int64)
    hashes = []
    for end in range(block_size, len(tokens) + 1, block_size):
        block_hash = blake2b(block_hash + data[end - block_size : end].tobytes(), digest_size=16).digest()
        hashes.append(block_hash)
    return hashes


class BlockPool:
    """Hands out blocks, counts their users and finds cached ones by hash.

    Low block ids are given out first, so that the blocks in use lie together in memory.
    """

    def __init__(self, num_blocks: int, max_idle: int | None = None) -> None:
        """``num_blocks`` counts the null block; ``max_idle`` bounds the unused blocks that keep a cached prefix."""
        if num_blocks < 2:
            raise ValueError(f"num_blocks is {num_blocks}, expected at least 2: one is the null block")
        self.num_blocks = num_blocks
        self.max_idle = num_blocks if max_idle is None else max_idle
        self._free = list(range(1, num_blocks))
        self._ref_counts = [0] * num_blocks
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        # By what lies before a block and its first tokens, one or more but not all.
        self._beginning: dict[tuple[bytes, tuple[int, ...]], int] = {}
        self._beginnings_of: dict[int, list[tuple[bytes, tuple[int, ...]]]] = {}

    @property
    def available(self) -> int:
        """Blocks that can be handed out now, cached but unused ones included."""
        return len(self._free) + len(self._idle)

    def allocate(self) -> int:
        """Hand out a block with one user. Raises IndexError where none is available: ask ``available`` first."""
        if self._free:
            block = heapq.heappop(self._free)
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            self.unpublish(block)
        else:
            raise IndexError("no block is available")
        self._ref_counts[block] = 1
        return block

    def acquire(self, block_hash: bytes) -> int | None:
        """Return the block that holds this prefix, with one user more, or None."""
        block = self._block_of.get(block_hash)
        if block is not None:
            self.lend(block)
        return block

    def is_idle(self, block_hash: bytes) -> bool:
        """Tell whether the prefix lies in a block without users: taking it makes one block less available."""
        return self._block_of.get(block_hash) in self._idle

    def is_cached(self, block_hash: bytes) -> bool:
        """Tell whether a block holds this prefix."""
        return block_hash in self._block_of

    def publish(self, block: int, block_hash: bytes) -> None:
        """Let ``acquire`` find a block. A prefix that another block already holds stays there."""
        if block_hash not in self._block_of and block not in self._hash_of:
            self._block_of[block_hash] = block
            self._hash_of[block] = block_hash

    def publish_beginnings(self, block: int, before: bytes, tokens: Sequence[int]) -> None:
        """Let ``find_beginning`` find a published block by what lies before it and each beginning of its tokens."""
        if block not in self._hash_of or block in self._beginnings_of:
            return
        keys = [(before, tuple(tokens[:count])) for count in range(1, len(tokens))]
        self._beginnings_of[block] = new = [key for key in keys if key not in self._beginning]
        self._beginning.update(dict.fromkeys(new, block))

    def find_beginning(self, before: bytes, tokens: Sequence[int]) -> tuple[int, int]:
        """Return the block with the longest beginning in common with ``tokens``, and its length; (0, 0) without any."""
        for count in range(len(tokens), 0, -1):
            block = self._beginning.get((before, tuple(tokens[:count])))
            if block is not None:
                return block, count
        return NULL_BLOCK, 0

    def lend(self, block: int) -> None:
        """Give a published block one user more, until it is released."""
        self._idle.pop(block, None)
        self._ref_counts[block] += 1

    def unpublish(self, block: int) -> None:
        """Let a block be found no longer: it does not hold what its hash says. Its users keep it."""
        block_hash = self._hash_of.pop(block, None)
        if block_hash is not None:
            del self._block_of[block_hash]
        for key in self._beginnings_of.pop(block, ()):
            del self._beginning[key]

    def release(self, block: int) -> None:
        """Take one user away. A block without users is kept while it holds a prefix, else it is free."""
        assert self._ref_counts[block] > 0, f"block {block} has no user"
        self._ref_counts[block] -= 1
        if self._ref_counts[block]:
            return
        if block in self._hash_of:
            self._idle[block] = None
            if len(self._idle) > self.max_idle:
                self._free_oldest_idle()
        else:
            heapq.heappush(self._free, block)

    def forget_idle(self) -> None:
        """Drop all cached prefixes that no sequence uses."""
        while self._idle:
            self._free_oldest_idle()

    def _free_oldest_idle(self) -> None:
        block, _ = self._idle.popitem(last=False)
        self.unpublish(block)
        heapq.heappush(self._free, block)
