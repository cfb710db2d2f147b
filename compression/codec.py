"""What a codec is and what it promises."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..protos.errors import FrameError, NonFiniteError
from . import kernels
from .contract import Contract
from .header import DENSE, HEADER_BYTES, MAX_ELEMENTS, Header

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Positions = NDArray[np.uint32]
Residual = tuple[Floats, Floats]
"""(committed, pending), each float32 [n]: what earlier frames left out, and what this one leaves out."""


Memo = dict[type, Any]
"""What an encoder keeps of one block between frames; each codec puts there what it likes, under its own class.

It makes the next frame better or sooner ready; what a frame means never depends on it. Owned by whoever encodes
the block, one thread at a time.
"""


class Codec(ABC):
    """Turns float32 values into self-describing bytes. A stateless, hashable value; threads may share it."""

    @property
    @abstractmethod
    def spec(self) -> str:
        """Canonical specification: `parse_codec(codec.spec) == codec`."""

    @property
    @abstractmethod
    def contract(self) -> Contract:
        """What decoded frames promise."""

    @property
    def lossless(self) -> bool:
        """Decoding gives the same bits."""
        return False

    @abstractmethod
    def frame_bound(self, num_elements: int) -> int:
        """Most bytes that a frame of `num_elements` may take; a multiple of four."""

    def frame_least(self, num_elements: int) -> int:
        """Fewest bytes that a frame of `num_elements` may take: with `frame_bound`, the band that a plan prints."""
        return HEADER_BYTES

    @abstractmethod
    def dense(self) -> "DenseCodec":
        """The codec for small and one-dimensional tensors: this one, or the value codec of a sparse one."""

    def with_density(self, share: float) -> "Codec | None":
        """The same codec with this share of the elements sent; None if it has no density that can be changed."""
        return None

    def encode(
        self,
        values: Floats,
        out: Bytes,
        *,
        seed: int = 0,
        residual: Residual | None = None,
        memo: Memo | None = None,
    ) -> int:
        """Encode y = values (+ committed) into `out` and return the bytes written, a multiple of four.

        `values` is float32 [n], `out` uint8 [>= frame_bound(n)], both C-contiguous; they must not overlap.
        With `residual`, pending becomes y - D in the same pass and committed is only read. `memo` is that of
        this block, if it has one. The same arguments, without a memo, give the same bytes; a codec that draws
        random numbers draws them from (`seed`, element index), so different blocks, steps and workers need
        different seeds. Raises NonFiniteError if y has a NaN or an infinity: pending is then undefined.
        """
        check_floats("values", values, values.size)
        if out.dtype != np.uint8 or out.ndim != 1 or not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError("out must be a contiguous one-dimensional uint8 array that may be written")
        if values.size > MAX_ELEMENTS:
            raise ValueError(f"{values.size} values do not fit one frame of at most {MAX_ELEMENTS}")
        if out.size < self.frame_bound(values.size):
            raise ValueError(f"out has {out.size} bytes; a frame may take {self.frame_bound(values.size)}")
        if residual is not None:
            check_floats("committed residual", residual[0], values.size)
            check_floats("pending residual", residual[1], values.size, written=True)
            if any(_overlap(residual[1], other) for other in (values, residual[0])):
                raise ValueError("the pending residual must not overlap the values or the committed residual")
            residual = (frozen(residual[0]), residual[1])
        target = out if out.ctypes.data % 4 == 0 else np.empty(out.size, np.uint8)
        num_bytes = self._encode(frozen(values), target, seed_word(seed), residual, memo)
        if target is not out:
            out[:num_bytes] = target[:num_bytes]
        return num_bytes

    @abstractmethod
    def _encode(self, values: Floats, out: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None) -> int:
        """`encode` behind its checks: arrays fit, `out` is aligned to four bytes."""

    @abstractmethod
    def reference_frame(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """The frame of float32 [n] in plain torch operations, on any device, uint8: slow and obvious.

        Kernels equal it by bits. `seed` is the word that `seed_word` makes. See `exact_bytes` for codecs that
        promise equal decoding only.
        """

    @property
    def exact_bytes(self) -> bool:
        """Kernels and reference give the same bytes, not only frames that decode within the same contract."""
        return True


def _overlap(one: Floats, other: Floats) -> bool:
    """Whether two contiguous arrays do: where their bounds do. numpy's own answer gives the interpreter's lock away."""
    first: int = one.__array_interface__["data"][0]
    second: int = other.__array_interface__["data"][0]
    return first < second + other.nbytes and second < first + one.nbytes


class Body(Protocol):
    """What stands behind the header, checked."""

    def decode_into(self, out: Floats, scale: np.float32) -> None:
        """out = fl(scale * D)."""

    def add_to(self, accumulator: Floats, scale: np.float32) -> None:
        """accumulator = fl(accumulator + fl(scale * D))."""

    def sent_positions(self) -> Positions:
        """The positions of the elements that were sent, uint32 [num_sent]."""


class DenseCodec(Codec):
    """A codec that sends every element, and the value section of the sparse ones.

    The section methods work on uint8 arrays of exactly `section_bytes(count)` bytes that are aligned to four.
    """

    @property
    @abstractmethod
    def value_id(self) -> int:
        """Number of the value format in a header."""

    @property
    def parameter(self) -> int:
        """The byte of a header that tells members of the format apart, e.g. log2 of the quantiser's block."""
        return 0

    @property
    def says_zero(self) -> bool:
        """A value that is zero is decoded to zero."""
        return True

    @abstractmethod
    def section_bytes(self, count: int) -> int:
        """Bytes of the section of `count` values, a multiple of four."""

    @abstractmethod
    def encode_section(
        self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None = None
    ) -> bool:
        """Encode values (+ committed); False if a value is not finite."""

    @abstractmethod
    def check_section(self, section: Bytes, count: int) -> None:
        """Raise FrameError or NonFiniteError unless every decoded value is finite. Allocates nothing."""

    @abstractmethod
    def decode_section(self, section: Bytes, out: Floats, scale: np.float32) -> None:
        """out = fl(scale * D), float32 [count]."""

    @abstractmethod
    def add_section(self, section: Bytes, accumulator: Floats, scale: np.float32) -> None:
        """accumulator = fl(accumulator + fl(scale * D)), float32 [count]."""

    @abstractmethod
    def reference_section(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """The section of float32 [count] in plain torch operations, uint8."""

    @abstractmethod
    def reference_values(self, section: torch.Tensor, count: int) -> torch.Tensor:
        """D of a checked section in plain torch operations, float32 [count]."""

    def dense(self) -> "DenseCodec":
        return self

    def frame_bound(self, num_elements: int) -> int:
        return HEADER_BYTES + self.section_bytes(num_elements)

    def frame_least(self, num_elements: int) -> int:
        return self.frame_bound(num_elements)

    def _encode(self, values: Floats, out: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None) -> int:
        num_bytes = self.frame_bound(values.size)
        self._header(values.size).write(out)
        if not self.encode_section(values, out[HEADER_BYTES:num_bytes], seed, residual, memo):
            raise non_finite(values, residual)
        return num_bytes

    def reference_frame(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        header = self._header(values.numel()).tensor(values.device)
        return torch.cat([header, self.reference_section(values, seed)])

    def _header(self, num_elements: int) -> Header:
        return Header(DENSE, self.value_id, 0, self.parameter, num_elements, num_elements)


def encode_then_leave(
    codec: DenseCodec, values: Floats, section: Bytes, residual: Residual, encode: Callable[[Floats], bool]
) -> bool:
    """The residual of a codec whose kernels do not know it: encode values + committed, take D off again."""
    committed, pending = residual
    kernels.add(values, committed, pending)
    if not encode(frozen(pending)):
        return False
    codec.add_section(frozen(section), pending, np.float32(-1))
    return True


def check_padding(padding: Bytes) -> None:
    """Raise FrameError unless the bytes behind a section are zero."""
    if padding.any():
        raise FrameError("a frame's padding is not zero")


def padded(num_bytes: int) -> int:
    """The next multiple of four."""
    return (num_bytes + 3) & ~3


Array = TypeVar("Array", bound=NDArray[Any])


def frozen(values: Array) -> Array:
    """A read-only view: kernels that only read are compiled for this one kind of array."""
    view = values.view()
    view.flags.writeable = False
    return view


def check_floats(what: str, values: Floats, size: int, *, written: bool = False) -> None:
    """Raise ValueError unless `values` is a contiguous, aligned float32 [size], and may be written if it will be."""
    if values.dtype != np.float32 or values.ndim != 1 or not values.flags.c_contiguous or not values.flags.aligned:
        raise ValueError(
            f"{what} must be a contiguous one-dimensional float32 array, "
            f"not {values.dtype} {list(values.shape)} with strides {list(values.strides)}"
        )
    if values.size != size:
        raise ValueError(f"{what} has {values.size} elements instead of {size}")
    if written and not values.flags.writeable:
        raise ValueError(f"{what} may not be written")


def seed_word(seed: int) -> np.uint32:
    """A 64-bit seed mixed down to 32 bits."""
    low, high = int(seed) & 0xFFFFFFFF, (int(seed) >> 32) & 0xFFFFFFFF
    return np.uint32(mix(low ^ mix(high ^ 0x9E3779B9)))


def mix(word: int) -> int:
    """A 32-bit integer hash (lowbias32); the kernels have the same one."""
    word ^= word >> 16
    word = word * 0x7FEB352D & 0xFFFFFFFF
    word ^= word >> 15
    word = word * 0x846CA68B & 0xFFFFFFFF
    return word ^ word >> 16


def non_finite(values: Floats, residual: Residual | None) -> NonFiniteError:
    """The error that names the first value, or first sum with the residual, that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = values if residual is None else values + residual[0]
    place = int(np.argmin(np.isfinite(total)))
    cause = "" if residual is None or not np.isfinite(values[place]) else " once the residual is added"
    return NonFiniteError(f"value {place} of {values.size} is {total[place]}{cause}; nothing was encoded")
