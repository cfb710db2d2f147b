"""Sparse frames: an index section that names the elements, and their values. The others are zero."""

import numpy as np

from ..protos.errors import FrameError
from . import sparse_kernels as kernels
from .codec import Bytes, DenseCodec, Floats
from .header import Header
from .indices import IndexSection, read_index

SPARSE = 1


class SparseBody:
    """The checked sections of a sparse frame; scratch is proportional to the elements sent."""

    __slots__ = ("_index", "_section", "_values")

    def __init__(self, index: IndexSection, values: DenseCodec, section: Bytes) -> None:
        self._index = index
        self._values = values
        self._section = section

    def decode_into(self, out: Floats, scale: np.float32) -> None:
        out[:] = 0
        kernels.scatter(self._kept(scale), self._index.positions(), out)

    def add_to(self, accumulator: Floats, scale: np.float32) -> None:
        kernels.scatter_add(self._kept(scale), self._index.positions(), accumulator)

    def _kept(self, scale: np.float32) -> Floats:
        kept: Floats = np.empty(self._index.num_chosen, np.float32)
        self._values.decode_section(self._section, kept, scale)
        return kept


def read_sparse(header: Header, values: DenseCodec, sections: Bytes) -> SparseBody:
    """Check what stands behind the header of a sparse frame; raises FrameError or NonFiniteError."""
    if header.seed:
        raise FrameError("sparse frame with a seed, which only drawn selections have")
    index = read_index(header.index, header.num_elements, header.num_sent, sections)
    section = sections[index.num_bytes :]
    expected = values.section_bytes(header.num_sent)
    if section.size != expected:
        raise FrameError(f"sparse frame of {header.num_sent} values has {section.size} bytes of them, not {expected}")
    values.check_section(section, header.num_sent)
    return SparseBody(index, values, section)
