"""What this worker holds of the model: which version of each block, in which tensors."""

import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..compression.frame import parse_frame
from ..protos.errors import BadRequestError, FrameError
from ..protos.shard_pb2 import Values
from .followed_values import Receiver
from .ranks.rank_blocks import RankBlocks
from .tensor_memory import TensorMemory

NOTHING_HELD = (1 << 64) - 1
"""In place of a version."""


class HeldValues:
    """Takes published values of this rank's blocks as they arrive, from one thread for each shard.

    What no optimizer touches (buffers, parameters in no group) is taken once and is the script's own afterwards.
    """

    def __init__(self, blocks: RankBlocks, memory: TensorMemory, receiver: Receiver) -> None:
        self._receiver = receiver
        self._decode_seconds = 0.0
        self._blocks = blocks
        self._memory = memory
        self._versions: NDArray[np.uint64] = np.zeros(len(blocks.plan.blocks), np.uint64)
        self._owned = [np.array(ids, np.int64) for ids in blocks.blocks_of_shard]
        self._complete = False
        self._again: frozenset[int] = frozenset()
        self._lock = threading.Lock()

    def versions(self, shard: int) -> list[int]:
        """Held version of each of the rank's blocks on this shard, in id order."""
        return self.versions_of(self._owned[shard])

    def versions_of(self, blocks: Sequence[int] | NDArray[np.int64]) -> list[int]:
        """Held version of each of these blocks."""
        versions: list[int] = self._versions[np.asarray(blocks, np.int64)].tolist()
        return versions

    def forget(self, blocks: Sequence[int]) -> None:
        """What the tensors have of these blocks is of no version."""
        self._versions[np.asarray(blocks, np.int64)] = NOTHING_HELD

    def expect(self) -> None:
        """Values are about to come."""
        self._memory.refresh()

    @property
    def complete_before(self) -> bool:
        """Whether everything was there once."""
        return self._complete

    def take_again(self, entries: frozenset[int]) -> None:
        """Until `complete`, values of these are taken although they are the script's own: it has asked for them."""
        self._again = entries

    def complete(self) -> None:
        """All values that were asked for are here: makes them visible to autograd."""
        self._memory.publish()
        self._complete, self._again = True, frozenset()

    def take(self, shard: int, values: Values, payload: memoryview) -> None:
        """Decodes one message of values, whose frames are `payload`, into the tensors.

        Raises:
            FrameError, NonFiniteError: not a valid frame of its block.
            BadRequestError: a message that does not fit the plan.
        """
        started = time.perf_counter()
        self._check(shard, values, payload)
        first = 0
        for number, version, length in zip(values.blocks, values.versions, values.lengths, strict=True):
            block = self._blocks.blocks[number]
            local = self._blocks.entries[block.entry].group < 0
            if not (self._complete and local) or block.entry in self._again:
                frame = parse_frame(payload[first : first + length], block.num_elements, any_bits=local)
                if values.delta:
                    self._receiver.add(block, frame, int(version) - int(self._versions[number]))
                else:
                    self._receiver.replace(block, frame)
            self._versions[number] = version
            first += length
        with self._lock:
            self._decode_seconds += time.perf_counter() - started

    def take_decode_seconds(self) -> float:
        """Time spent decoding since the last call, summed over threads."""
        with self._lock:
            seconds, self._decode_seconds = self._decode_seconds, 0.0
        return seconds

    def _check(self, shard: int, values: Values, payload: memoryview) -> None:
        if not len(values.blocks) == len(values.versions) == len(values.lengths):
            raise BadRequestError(f"shard {shard} sent values whose lists differ in length")
        if sum(values.lengths) != payload.nbytes:
            raise FrameError(f"shard {shard} sent {payload.nbytes} bytes for frames of {sum(values.lengths)}")
        _check_owner(self._blocks, shard, values.blocks)


def _check_owner(own: RankBlocks, shard: int, blocks: Sequence[int]) -> None:
    for number in blocks:
        block = own.blocks.get(number)
        if block is None or block.shard != shard:
            raise BadRequestError(f"shard {shard} sent values of block {number}, which nobody asked it for")
