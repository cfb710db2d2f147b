"""Frames of one shard, gathered into messages."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Gathered:
    """Frames behind one another. `payload` is valid until the bundle is used again."""

    blocks: list[int]
    lengths: list[int]
    payload: memoryview


class Bundle:
    """A buffer that encoders write frames into. Used by one thread at a time.

    `room` may have to be made by taking what is gathered; afterwards `add` says what was written.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._buffer: NDArray[np.uint8] = np.empty(capacity_bytes, np.uint8)
        self._blocks: list[int] = []
        self._lengths: list[int] = []
        self._used = 0

    @property
    def empty(self) -> bool:
        return not self._blocks

    def fits(self, num_bytes: int) -> bool:
        """Whether a frame of so many bytes still has room."""
        return self._used + num_bytes <= self._buffer.size

    def room(self) -> NDArray[np.uint8]:
        """Where the next frame goes."""
        return self._buffer[self._used :]

    def add(self, block: int, num_bytes: int) -> None:
        """A frame was written into `room`."""
        self._blocks.append(block)
        self._lengths.append(num_bytes)
        self._used += num_bytes

    def take(self) -> Gathered:
        """Everything gathered; the bundle is empty afterwards."""
        gathered = Gathered(self._blocks, self._lengths, self._buffer[: self._used].data)
        self.clear()
        return gathered

    def clear(self) -> None:
        """Forgets what was gathered."""
        self._blocks, self._lengths, self._used = [], [], 0
