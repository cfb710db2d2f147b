"""Values of blocks that several ranks hold: pulled by their owner, handed on to the others.

Ranks must not pull copies for themselves: unless steps go in rounds, two of them could be sent different versions, and the
worker would compute with two models.
"""

from collections.abc import Iterator, Sequence
from itertools import compress

import numpy as np
import torch
from numpy.typing import NDArray

from ..plan import PlanBlock, portions
from ..tensor_memory import TensorMemory
from .group import Ranks
from .ownership import Holders
from .rank_blocks import CopiedBlocks

BUFFER_ELEMENTS = 1 << 22


class BlockCopies:
    """Keeps copies alike. Used by the training thread, between the last value that was pulled and `publish`."""

    def __init__(self, ranks: Ranks, copies: Sequence[CopiedBlocks], memory: TensorMemory) -> None:
        self._ranks = ranks
        self._copies = copies
        self._memory = memory

    def hand_on(self, entries: frozenset[int]) -> None:
        """Copies what the owners were sent of these plan entries into every copy. What did not change is not touched."""
        for copied in self._copies:
            wanted = [block for block in copied.blocks if block.entry in entries]
            for part in portions(self._changed(copied.holders, wanted), BUFFER_ELEMENTS):
                self._hand_on(CopiedBlocks(copied.holders, tuple(part)))

    def _changed(self, holders: Holders, blocks: Sequence[PlanBlock]) -> Iterator[PlanBlock]:
        """Those of the blocks that the owner was sent: it says which, so that all of its holders agree."""
        if not blocks:
            return iter(())
        changed = np.array([self._memory.has_changed(block) for block in blocks], dtype=np.uint8)
        self._ranks.broadcast(torch.from_numpy(changed), holders.owner, holders.ranks)
        return compress(blocks, changed.tolist())

    def _hand_on(self, copied: CopiedBlocks) -> None:
        own = copied.holders.owner == self._ranks.rank
        values = np.empty(copied.num_elements, np.float32)
        if own:
            for block, place in _places(copied, values):
                place[:] = self._memory.values(block)
        self._ranks.broadcast(torch.from_numpy(values), copied.holders.owner, copied.holders.ranks)
        if not own:
            for block, place in _places(copied, values):
                self._memory.copy(block, place)


def _places(copied: CopiedBlocks, values: NDArray[np.float32]) -> Iterator[tuple[PlanBlock, NDArray[np.float32]]]:
    start = 0
    for block in copied.blocks:
        yield block, values[start : start + block.num_elements]
        start += block.num_elements
