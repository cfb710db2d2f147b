"""Frames that say which elements are zero, for values that have no code for zero."""

from dataclasses import dataclass

import numpy as np
import torch

from ..codec import Bytes, DenseCodec, Floats, Memo, Positions
from ..contract import Contract
from ..header import Header
from .sparse import SparseBody, SparseCodec, read_sparse

NONZERO = 3
"""The selection of all elements but those that are zero: it sends these too, without writing a value."""


@dataclass(frozen=True, slots=True)
class NonZero(SparseCodec):
    """Writes the elements that are not zero with another codec. The frame is that of a sparse codec, under a number of its
    own: the elements that it does not name are exact, and not left out."""

    values: DenseCodec

    @property
    def selection_id(self) -> int:
        return NONZERO

    @property
    def spec(self) -> str:
        return self.values.spec

    @property
    def contract(self) -> Contract:
        return self.values.contract

    def select(self, values: Floats, seed: np.uint32, memo: Memo | None) -> Positions:
        return np.flatnonzero(values).astype(np.uint32)

    def reference_select(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        return values.nonzero().view(-1)


class NonZeroBody(SparseBody):
    """The checked sections of such a frame."""

    __slots__ = ("_num_elements",)

    def __init__(self, body: SparseBody, num_elements: int) -> None:
        super().__init__(body.index, body.values, body.section)
        self._num_elements = num_elements

    def sent_positions(self) -> Positions:
        return np.arange(self._num_elements, dtype=np.uint32)


def read_nonzero(header: Header, values: DenseCodec, sections: Bytes) -> NonZeroBody:
    """Check what stands behind the header; raises FrameError or NonFiniteError."""
    return NonZeroBody(read_sparse(header, values, sections), header.num_elements)
