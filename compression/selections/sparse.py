"""Sparse frames: an index section that names the elements, and their values. The others are zero."""

from abc import abstractmethod
from functools import partial
from typing import Protocol

import numpy as np
import torch

from ...protos.errors import FrameError
from ..codec import Bytes, Codec, DenseCodec, Floats, Memo, Positions, Residual, frozen, non_finite
from ..header import HEADER_BYTES, Header
from ..kernels import INFINITY, LARGEST, largest_bits
from . import sparse_kernels as kernels
from .indices import index_bound, read_index, reference_index, reference_positions, write_index

SPARSE = 1
"""The selection of elements that an index section names, whatever chose them."""


class SparseCodec(Codec):
    """A codec that sends some elements, whose values another codec writes. Those that are zero are not sent if that codec
    has no code for zero."""

    values: DenseCodec

    @property
    def selection_id(self) -> int:
        """Number of the selection in a header, of frames with an index section."""
        return SPARSE

    @abstractmethod
    def select(self, values: Floats, seed: np.uint32, memo: Memo | None) -> Positions:
        """The positions to send of finite values, uint32 [k]."""

    def add_and_select(self, values: Floats, residual: Residual, seed: np.uint32, memo: Memo | None) -> Positions:
        """pending = values + committed, and the positions to send of it. Raises NonFiniteError."""
        if not kernels.add_finite(values, *residual):
            raise non_finite(values, residual)
        return self.select(frozen(residual[1]), seed, memo)

    @abstractmethod
    def reference_select(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """`select` in plain torch operations, int64 [k]."""

    def write_positions(self, chosen: Positions, num_elements: int, seed: np.uint32, out: Bytes) -> tuple[Header, int]:
        """Write the index section to the start of `out`; the frame's header, and the bytes written."""
        index, num_bytes = write_index(chosen, num_elements, out)
        return self._header(self.selection_id, index, num_elements, chosen.size), num_bytes

    def reference_index(self, chosen: torch.Tensor, num_elements: int, seed: int) -> tuple[Header, torch.Tensor]:
        """`write_positions` in plain torch operations."""
        index, section = reference_index(chosen, num_elements)
        return self._header(self.selection_id, index, num_elements, chosen.numel()), section

    def frame_bound(self, num_elements: int) -> int:
        most = self.contract.band(num_elements)[1]
        return HEADER_BYTES + index_bound(num_elements, most) + self.values.section_bytes(most)

    def frame_least(self, num_elements: int) -> int:
        return HEADER_BYTES + self.values.section_bytes(self.contract.band(num_elements)[0])

    def dense(self) -> DenseCodec:
        return self.values

    def _encode(self, values: Floats, out: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None) -> int:
        if residual is None:
            if largest_bits(values) >= INFINITY:
                raise non_finite(values, None)
            total, chosen = values, self.select(values, seed, memo)
        else:
            total, chosen = frozen(residual[1]), self.add_and_select(values, residual, seed, memo)
        kept: Floats = np.empty(chosen.size, np.float32)
        kernels.gather(total, chosen, kept)
        write_positions = self.write_positions
        if not self.values.says_zero and not kept.all():
            chosen = np.sort(chosen[kept != 0])
            kept = total[chosen]
            write_positions = partial(SparseCodec.write_positions, self)
        factor = np.float32(self.contract.factor(values.size))
        if factor != 1:
            with np.errstate(over="ignore"):
                kept = np.clip(kept * factor, -LARGEST, LARGEST)
        header, index_bytes = write_positions(chosen, values.size, seed, out[HEADER_BYTES:])
        start = HEADER_BYTES + index_bytes
        num_bytes = start + self.values.section_bytes(chosen.size)
        section = out[start:num_bytes]
        self.values.encode_section(frozen(kept), section, seed, None, memo)
        if residual is not None:
            self.values.decode_section(frozen(section), kept, np.float32(1))
            kernels.scatter_subtract(kept, chosen, residual[1])
        header.write(out)
        return num_bytes

    def reference_frame(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        chosen = self.reference_select(values, seed)
        reference_index = self.reference_index
        if not self.values.says_zero and (values[chosen] == 0).any():
            chosen = chosen[values[chosen] != 0].sort().values
            reference_index = partial(SparseCodec.reference_index, self)
        header, index = reference_index(chosen, values.numel(), seed)
        kept = (values[chosen] * self.contract.factor(values.numel())).clamp(-float(LARGEST), float(LARGEST))
        section = self.values.reference_section(kept, seed)
        return torch.cat([header.tensor(values.device), index, section])

    def _header(self, selection: int, index: int, num_elements: int, num_sent: int, seed: int = 0) -> Header:
        inner = self.values
        return Header(selection, inner.value_id, index, inner.parameter, num_elements, num_sent, seed)


class PositionSource(Protocol):
    """Where a frame's elements are; its own size does not depend on how many."""

    @property
    def num_chosen(self) -> int:
        """Elements that are sent."""

    def positions(self) -> Positions:
        """uint32 [num_chosen]."""

    def scatter(self, kept: Floats, out: Floats, is_added: bool) -> None:
        """Put the values, float32 [num_chosen], at the positions of `out`, or add them. Allocates nothing."""


class SparseBody:
    """The checked sections of a sparse frame; scratch is one float32 for each element sent."""

    __slots__ = ("index", "section", "values")

    def __init__(self, index: PositionSource, values: DenseCodec, section: Bytes) -> None:
        self.index = index
        self.values = values
        self.section = section

    def decode_into(self, out: Floats, scale: np.float32) -> None:
        out[:] = 0
        self.index.scatter(self._kept(scale), out, is_added=False)

    def add_to(self, accumulator: Floats, scale: np.float32) -> None:
        self.index.scatter(self._kept(scale), accumulator, is_added=True)

    def sent_positions(self) -> Positions:
        return self.index.positions()

    def _kept(self, scale: np.float32) -> Floats:
        kept: Floats = np.empty(self.index.num_chosen, np.float32)
        self.values.decode_section(self.section, kept, scale)
        return kept


def read_sparse(header: Header, values: DenseCodec, sections: Bytes) -> SparseBody:
    """Check what stands behind the header of a sparse frame; raises FrameError or NonFiniteError."""
    if header.seed:
        raise FrameError("sparse frame with a seed, which only drawn selections have")
    index = read_index(header.index, header.num_elements, header.num_sent, sections)
    section = sections[index.num_bytes :]
    check_values(header, values, section)
    return SparseBody(index, values, section)


def check_values(header: Header, values: DenseCodec, section: Bytes) -> None:
    """Check the value section of a frame that sends some elements."""
    expected = values.section_bytes(header.num_sent)
    if section.size != expected:
        raise FrameError(f"sparse frame of {header.num_sent} values has {section.size} bytes of them, not {expected}")
    values.check_section(section, header.num_sent)


def reference_sparse(header: Header, sections: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The positions of a checked sparse frame, and the bytes of its index section."""
    return reference_positions(header.index, sections, header.num_elements, header.num_sent)
