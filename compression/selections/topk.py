"""Top-k: the elements of largest magnitude."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ...protos.errors import CodecError
from ..arguments import decimal, density
from ..codec import Codec, DenseCodec, Floats, Memo, Positions, Residual, frozen, non_finite
from ..contract import Contract, share_of
from . import sparse_kernels as kernels
from .sparse import SparseCodec
from .sparse_kernels import NOT_FINITE

_EXACT_BELOW = 4096
_SAMPLE_SHARE = 64
_LARGEST_SAMPLE = 16384
_SLACK = 1024
_MARGIN = np.int32(1 << 19)
"""Off the threshold that is expected, as a bit pattern: a sixteenth of an octave, so about 5 % of its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareContract(Contract):
    """That of codecs which send a fixed share of the elements."""

    density: float
    sends_zeros: bool = True
    """Also elements that are zero, where there are not enough others."""

    def band(self, num_elements: int) -> tuple[int, int]:
        count = share_of(self.density, num_elements)
        return count if self.sends_zeros else 0, count


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestContract(ShareContract):
    """The largest of them, or any if they are drawn."""

    def delta(self, num_elements: int) -> float | None:
        share = share_of(self.density, num_elements) / num_elements if num_elements else 1.0
        return (1.0 - self.squared_error) * share

    def omega(self, num_elements: int) -> float | None:
        return None


@dataclass(frozen=True, slots=True)
class TopK(SparseCodec):
    """Sends the `density` * n elements of largest magnitude, ties to the lowest index, written by another
    codec.

    The selection is exact: the declared band of k is one number. In large blocks a threshold that a few
    elements too many reach comes from the step before or from a strided sample, and only those are ranked; if
    it misleads, all are.
    """

    density: float
    values: DenseCodec

    @property
    def spec(self) -> str:
        return f"topk:{decimal(self.density)}+{self.values.spec}"

    @property
    def contract(self) -> Contract:
        inner = self.values.contract
        return LargestContract(
            deterministic=inner.deterministic,
            relative_error=inner.relative_error,
            squared_error=inner.squared_error,
            absolute_error=inner.absolute_error,
            density=self.density,
            sends_zeros=self.values.says_zero,
        )

    def with_density(self, share: float) -> Codec | None:
        return replace(self, density=share)

    def select(self, values: Floats, seed: np.uint32, memo: Memo | None) -> Positions:
        count = share_of(self.density, values.size)
        return _largest(values, _candidates(values, count), count, memo)

    def add_and_select(self, values: Floats, residual: Residual, seed: np.uint32, memo: Memo | None) -> Positions:
        count = share_of(self.density, values.size)
        room = _room(values.size, count)
        if memo is None or TopK not in memo or room is None:
            return SparseCodec.add_and_select(self, values, residual, seed, memo)
        threshold = max(_expected(*memo[TopK]), np.int32(1))
        found = int(kernels.add_collect(values, *residual, threshold, room))
        if found == NOT_FINITE:
            raise non_finite(values, residual)
        total = frozen(residual[1])
        return _largest(total, room[:found] if found >= count else _candidates(total, count), count, memo)

    def reference_select(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        magnitudes = values.view(torch.int32) & 0x7FFFFFFF
        count = share_of(self.density, values.numel())
        return magnitudes.sort(descending=True, stable=True).indices[:count].sort().values


def build(arguments: list[str], values: DenseCodec) -> Codec:
    if len(arguments) != 1:
        raise CodecError("topk takes one argument, the share of elements to send, e.g. topk:0.01+fp16")
    check_contracting("topk", values)
    return TopK(density("topk", arguments[0]), values)


def check_contracting(name: str, values: DenseCodec) -> None:
    """Raise CodecError if the values are so coarse that sending them may be worse than sending nothing."""
    error = values.contract.squared_error
    if error >= 1.0:
        nearest = "" if values.contract.deterministic else "its nearest rounding, or "
        raise CodecError(
            f"{name} needs values whose squared error is below 1, or error feedback would grow without bound; that of "
            f"{values.spec} is {error:.3g}: use {nearest}another value format, e.g. int8"
        )


def _largest(values: Floats, candidates: Positions, count: int, memo: Memo | None) -> Positions:
    """Of candidates, the positions of the `count` largest magnitudes, ties to the lowest, ascending."""
    magnitudes: NDArray[np.int32] = np.empty(candidates.size, np.int32)
    kernels.gather_magnitudes(values, candidates, magnitudes)
    chosen: Positions = np.empty(count, np.uint32)
    if count:
        rank = magnitudes.size - count
        threshold = np.partition(magnitudes, rank)[rank]
        kernels.choose(candidates, magnitudes, threshold, chosen)
        if memo is not None:
            memo[TopK] = threshold, memo.get(TopK, (threshold,))[0]
    return chosen


def _expected(last: np.int32, before: np.int32) -> np.int32:
    """A threshold that the next step's is likely to reach, from those of the last two steps, as bit patterns.

    While error feedback starts, what waits grows with the square root of the steps: in octaves, at most half as much
    again as from one step to the last.
    """
    return np.int32(last + (last - before) // 2 - _MARGIN)


def _sampling(num_elements: int, count: int) -> tuple[int, int]:
    """The size of a sample, and the rank in it of a threshold that more than `count` elements are sure to reach, or
    nearly."""
    size = min(num_elements // _SAMPLE_SHARE, _LARGEST_SAMPLE)
    hits = count * size / num_elements if num_elements else 0.0
    return size, math.ceil(hits + 4.0 * math.sqrt(hits) + 4.0)


def _room(num_elements: int, count: int) -> Positions | None:
    """Where candidates go; None if the block is small, or so much is sent, that all are ranked."""
    size, rank = _sampling(num_elements, count)
    if num_elements < _EXACT_BELOW or rank >= size // 2:
        return None
    return np.empty(2 * rank * num_elements // size + _SLACK, np.uint32)


def _candidates(values: Floats, count: int) -> Positions:
    """Positions, ascending, of elements that are sure to hold the `count` largest."""
    room = _room(values.size, count)
    if room is not None:
        threshold = _sampled_threshold(values, *_sampling(values.size, count))
        found = int(kernels.collect(values, max(threshold, np.int32(1)), room))
        if found >= count:
            return room[:found]
        if found >= 0 and not threshold:
            # These are all that are not zero. Of the zeros the lowest are sent: those among the first `count`.
            first = np.arange(count, dtype=np.uint32)
            return np.concatenate([first, room[np.searchsorted(room[:found], count) : found]])
    return np.arange(values.size, dtype=np.uint32)


def _sampled_threshold(values: Floats, sample_size: int, rank: int) -> np.int32:
    """The magnitude of that rank, from the largest, in a strided sample."""
    sample: NDArray[np.int32] = np.empty(sample_size, np.int32)
    # An odd stride does not fall into step with rows whose length is a power of two.
    kernels.sample_magnitudes(values, (values.size // sample_size - 1) | 1, sample)
    threshold: np.int32 = np.partition(sample, sample_size - rank)[sample_size - rank]
    return threshold
