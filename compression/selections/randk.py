"""Rand-k: elements drawn by a seed, which the frame carries instead of their positions."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ...protos.errors import CodecError, FrameError
from ..arguments import decimal, density
from ..codec import Bytes, Codec, DenseCodec, Floats, Memo, Positions, mix
from ..contract import Contract, share_of
from ..header import HEADER_BYTES, Header
from ..kernels import kernel
from ..kernels import mix as kernel_mix
from ..reference import mixed
from .sparse import SparseBody, SparseCodec, check_values
from .sparse_kernels import put
from .topk import LargestContract, ShareContract, check_contracting

DRAWN = 2
"""The selection of elements that a seed names."""

_NUM_ROUNDS = 4
_U = np.uint32


@dataclass(frozen=True, slots=True, kw_only=True)
class RescaledContract(ShareContract):
    """That of elements drawn uniformly and multiplied by n / k, so that nothing is missing in the mean."""

    def factor(self, num_elements: int) -> float:
        return num_elements / share_of(self.density, num_elements) if num_elements else 1.0

    def delta(self, num_elements: int) -> float | None:
        return None

    def omega(self, num_elements: int) -> float | None:
        return self.factor(num_elements) * (1.0 + self.squared_error) - 1.0

    @property
    def admits_error_feedback(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class RandK(SparseCodec):
    """Sends `density` * n elements drawn uniformly by the seed, written by another codec.

    They are multiplied by n / k, which makes the mean exact and is used without memory; `unscaled`, they are sent
    as they are, which contracts and needs error feedback. Position i of the frame is the image of i under a
    permutation of 0..n-1: a Feistel network of four rounds on the next even number of bits, repeated until the
    result is below n (Black and Rogaway 2002), so that any place can be had without the others.
    """

    density: float
    values: DenseCodec
    unscaled: bool = False

    @property
    def spec(self) -> str:
        return f"randk:{decimal(self.density)}{':unscaled' if self.unscaled else ''}+{self.values.spec}"

    @property
    def contract(self) -> Contract:
        inner = self.values.contract
        kind = LargestContract if self.unscaled else RescaledContract
        return kind(
            unbiased=not self.unscaled,
            deterministic=False,
            relative_error=inner.relative_error,
            squared_error=inner.squared_error,
            absolute_error=inner.absolute_error,
            density=self.density,
            sends_zeros=self.values.says_zero,
        )

    def with_density(self, share: float) -> Codec | None:
        return replace(self, density=share) if self.unscaled else None

    def frame_bound(self, num_elements: int) -> int:
        if not self.values.says_zero:
            return SparseCodec.frame_bound(self, num_elements)
        return HEADER_BYTES + self.values.section_bytes(share_of(self.density, num_elements))

    def select(self, values: Floats, seed: np.uint32, memo: Memo | None) -> Positions:
        return SeededPositions(share_of(self.density, values.size), values.size, int(seed)).positions()

    def reference_select(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        return _reference_positions(share_of(self.density, values.numel()), values.numel(), seed, values.device)

    def write_positions(self, chosen: Positions, num_elements: int, seed: np.uint32, out: Bytes) -> tuple[Header, int]:
        return self._header(DRAWN, 0, num_elements, chosen.size, int(seed)), 0

    def reference_index(self, chosen: torch.Tensor, num_elements: int, seed: int) -> tuple[Header, torch.Tensor]:
        empty = torch.zeros(0, dtype=torch.uint8, device=chosen.device)
        return self._header(DRAWN, 0, num_elements, chosen.numel(), seed), empty


@dataclass(frozen=True, slots=True)
class SeededPositions:
    """Positions that a seed names."""

    num_chosen: int
    num_elements: int
    seed: int

    def positions(self) -> Positions:
        chosen: Positions = np.empty(self.num_chosen, np.uint32)
        if self.num_chosen:
            _permute(*self._permutation(), chosen)
        return chosen

    def scatter(self, kept: Floats, out: Floats, is_added: bool) -> None:
        if self.num_chosen:
            _scatter(*self._permutation(), kept, out, is_added)

    def _permutation(self) -> tuple[np.uint32, int, Positions]:
        keys = np.array(_round_keys(self.seed), np.uint32)
        return _U(self.num_elements), _half_bits(self.num_elements), keys


def _half_bits(num_elements: int) -> int:
    return max(1, ((num_elements - 1).bit_length() + 1) // 2)


def _round_keys(seed: int) -> list[int]:
    return [mix((seed + (round_ + 1) * 0x9E3779B9) & 0xFFFFFFFF) for round_ in range(_NUM_ROUNDS)]


@kernel
def _image(place: np.uint32, num_elements: np.uint32, half_bits: int, keys: Positions) -> np.uint32:
    shift, mask = _U(half_bits), _U((1 << half_bits) - 1)
    while True:
        left, right = _U(place >> shift), _U(place & mask)
        for j in range(keys.size):
            left, right = right, _U(left ^ _U(kernel_mix(_U(right ^ keys[j])) & mask))
        place = _U(_U(left << shift) | right)
        if place < num_elements:
            return place


@kernel
def _permute(num_elements: np.uint32, half_bits: int, keys: Positions, out: Positions) -> None:
    for i in range(out.size):
        out[i] = _image(_U(i), num_elements, half_bits, keys)


@kernel
def _scatter(
    num_elements: np.uint32, half_bits: int, keys: Positions, kept: Floats, out: Floats, is_added: bool
) -> None:
    for i in range(kept.size):
        put(out, np.uint64(_image(_U(i), num_elements, half_bits, keys)), kept[i], is_added)


def _reference_positions(count: int, num_elements: int, seed: int, device: torch.device) -> torch.Tensor:
    half_bits = _half_bits(num_elements)
    mask = (1 << half_bits) - 1
    place = torch.arange(count, dtype=torch.int64, device=device)
    is_open = torch.ones(count, dtype=torch.bool, device=device)
    while bool(is_open.any()):
        left, right = place >> half_bits, place & mask
        for key in _round_keys(seed):
            left, right = right, left ^ mixed(right ^ key) & mask
        place = torch.where(is_open, left << half_bits | right, place)
        is_open = place >= num_elements
    return place


def read_drawn(header: Header, values: DenseCodec, sections: Bytes) -> SparseBody:
    """Check what stands behind the header of a frame of drawn elements; raises FrameError or NonFiniteError."""
    if header.index:
        raise FrameError("frame of drawn elements with an index")
    check_values(header, values, sections)
    return SparseBody(SeededPositions(header.num_sent, header.num_elements, header.seed), values, sections)


def reference_drawn(header: Header, sections: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The positions of a checked frame of drawn elements; it has no index section."""
    return _reference_positions(header.num_sent, header.num_elements, header.seed, sections.device), 0


def build(arguments: list[str], values: DenseCodec) -> Codec:
    unscaled = arguments[1:] == ["unscaled"]
    if len(arguments) != 1 + unscaled:
        raise CodecError("randk takes the share of elements to send and may be unscaled, e.g. randk:0.01:unscaled+fp16")
    share = density("randk", arguments[0])
    if unscaled:
        check_contracting("randk", values)
    elif not values.contract.unbiased:
        raise CodecError(
            f"randk keeps the mean exact and needs values that do too, not {values.spec}: use fp32 or a stochastic "
            f"rounding, or randk:{arguments[0]}:unscaled+{values.spec}, which works with error feedback"
        )
    return RandK(share, values, unscaled)
