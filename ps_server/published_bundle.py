"""The published frames of one bundle: the newest of each block, kept in the messages that they were published in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .encoded_values import EncodedValues, joined

Chosen = NDArray[np.bool_]

WASTE = 0.25
"""Bytes of frames that newer ones have replaced, to those that are still the newest, beyond which a message is made anew
from the latter. So what is kept stays within this much of what is published, and what is copied for that, within 1/WASTE of
what was encoded."""


@dataclass
class _Piece:
    """One message, and which of its frames are still the newest of their blocks."""

    encoded: EncodedValues
    places: NDArray[np.int64]
    """Of its blocks, in the bundle."""
    newest: Chosen

    def replace(self, places: Chosen) -> None:
        """These blocks of the bundle have newer frames elsewhere."""
        self.newest &= ~places[self.places]

    def tidy(self) -> "_Piece":
        """Itself, or if too much of it is of no use any more, the rest of it."""
        kept = int(self.encoded.lengths[self.newest].sum())
        if int(self.encoded.lengths.sum()) - kept <= WASTE * kept:
            return self
        rest = joined([(self.encoded, self.newest)])
        return _Piece(rest, self.places[self.newest], np.ones(len(rest.versions), dtype=np.bool_))


class PublishedBundle:
    """Blocks stand at places 0, 1, ... of the bundle. Whoever holds the version before gets the message of what was published
    last, the same bytes as everybody; others get theirs put together of the frames that they lack.
    """

    def __init__(self, num_blocks: int) -> None:
        self._pieces: list[_Piece] = []
        """The newest first."""
        self._versions: NDArray[np.int64] = np.full(num_blocks, -1, dtype=np.int64)
        self._last: Chosen = np.zeros(num_blocks, dtype=np.bool_)
        """Places of the newest piece."""

    @property
    def num_bytes(self) -> int:
        """What is kept."""
        return sum(len(piece.encoded.message) for piece in self._pieces)

    def put(self, encoded: EncodedValues, places: Sequence[int]) -> None:
        """New frames of the blocks at these places, in the order of the message."""
        piece = _Piece(encoded, np.array(places, dtype=np.int64), np.ones(len(places), dtype=np.bool_))
        self._last = np.zeros(len(self._versions), dtype=np.bool_)
        self._last[piece.places] = True
        self._versions[piece.places] = encoded.versions
        for older in self._pieces:
            older.replace(self._last)
        self._pieces = [piece, *(older.tidy() for older in self._pieces if older.newest.any())]

    def message(self, held: NDArray[np.int64]) -> bytes:
        """What brings a holder of these versions, one for each block, to the newest: blocks of which it holds older ones."""
        lacking = held < self._versions
        if self._pieces and np.array_equal(lacking, self._last):
            return self._pieces[0].encoded.message
        chosen = list(self._chosen(lacking))
        if len(chosen) == 1:
            encoded, of_it = chosen[0]
            return encoded.cut(of_it)
        return joined(chosen).message

    def _chosen(self, lacking: Chosen) -> Iterator[tuple[EncodedValues, Chosen]]:
        for piece in self._pieces:
            of_it = lacking[piece.places] & piece.newest
            if of_it.any():
                yield piece.encoded, of_it
