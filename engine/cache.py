"""The paged key-value cache: which blocks are whose, and which hold a prefix that can be used again.

A full block of a prompt is named by the hash of the adapter's content, its tokens and all tokens before it. Blocks
that no
sequence uses keep their content until they are needed, oldest first. Host work only: the tensors are the runner's.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

NULL_BLOCK = 0  # takes the keys and values of padding tokens; never given out


def block_hashes(tokens: Sequence[int], adapter_hash: str, block_size: int) -> list[bytes]:
    """Name each full block of ``tokens``: 16 bytes, chained, so that equal names mean equal prefixes."""
    name = blake2b(adapter_hash.encode(), digest_size=16).digest()
    data = np.asarray(tokens, dtype=np.int64)
    names = []
    for end in range(block_size, len(tokens) + 1, block_size):
        name = blake2b(name + data[end - block_size : end].tobytes(), digest_size=16).digest()
        names.append(name)
    return names


class BlockPool:
    """Hands out blocks, counts their users and finds cached ones by name.

    Low block ids are given out first, so that the blocks in use lie together in memory.
    """

    def __init__(self, num_blocks: int, max_idle: int | None = None) -> None:
        """``num_blocks`` counts the null block; ``max_idle`` bounds the unused blocks that keep a cached prefix."""
        if num_blocks < 2:
            raise ValueError(f"num_blocks is {num_blocks}, expected at least 2: one is the null block")
        self.num_blocks = num_blocks
        self.max_idle = num_blocks if max_idle is None else max_idle
        self._free = list(range(1, num_blocks))
        self._users = [0] * num_blocks
        self._name_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

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
            self._forget(block)
        else:
            raise IndexError("no block is available")
        self._users[block] = 1
        return block

    def find(self, name: bytes) -> int | None:
        """Return the block that holds this prefix, with one user more, or None."""
        block = self._block_of.get(name)
        if block is None:
            return None
        self._idle.pop(block, None)
        self._users[block] += 1
        return block

    def is_idle(self, name: bytes) -> bool:
        """Tell whether the prefix lies in a block without users: taking it makes one block less available."""
        return self._block_of.get(name) in self._idle

    def cached(self, name: bytes) -> bool:
        """Tell whether a block holds this prefix."""
        return name in self._block_of

    def publish(self, block: int, name: bytes) -> None:
        """Make a block findable. A prefix that another block already holds stays there."""
        if name not in self._block_of and block not in self._name_of:
            self._block_of[name] = block
            self._name_of[block] = name

    def unpublish(self, block: int) -> None:
        """Make a block no longer findable: it doesn't hold what its name says. Its users keep it."""
        self._forget(block)

    def release(self, block: int) -> None:
        """Take one user away. A block without users is kept while it holds a prefix, else it is free."""
        assert self._users[block] > 0, f"block {block} has no user"
        self._users[block] -= 1
        if self._users[block]:
            return
        if block in self._name_of:
            self._idle[block] = None
            if len(self._idle) > self.max_idle:
                oldest, _ = self._idle.popitem(last=False)
                self._forget(oldest)
                heapq.heappush(self._free, oldest)
        else:
            heapq.heappush(self._free, block)

    def forget_idle(self) -> None:
        """Drop all cached prefixes that no sequence uses."""
        while self._idle:
            block, _ = self._idle.popitem(last=False)
            self._forget(block)
            heapq.heappush(self._free, block)

    def _forget(self, block: int) -> None:
        name = self._name_of.pop(block, None)
        if name is not None:
            del self._block_of[name]
