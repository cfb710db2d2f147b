"""Top-k: the elements of largest magnitude."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import sparse_kernels as kernels
from .codec import Bytes, Codec, Contract, DenseCodec, Floats, Residual, frozen, non_finite
from .header import HEADER_BYTES, Header
from .indices import Positions, index_bound, write_index
from .kernels import INFINITY, largest_bits
from .sparse import SPARSE

_EXACT_BELOW = 4096
_SAMPLE_SHARE = 64
_LARGEST_SAMPLE = 16384
_SLACK = 1024


@dataclass(frozen=True, slots=True)
class TopK(Codec):
    """Sends the `density` * n elements of largest magnitude, ties to the lowest index, written by another
    codec.

    The selection is exact. In large blocks a strided sample gives a threshold that a few elements too many
    reach, and only those are ranked; if the sample misleads, all are.
    """

    density: float
    values: DenseCodec

    @property
    def spec(self) -> str:
        return f"topk:{repr(self.density).removesuffix('.0')}+{self.values.spec}"

    @property
    def contract(self) -> Contract:
        inner = self.values.contract
        return Contract(
            unbiased=False,
            deterministic=inner.deterministic,
            relative_error=inner.relative_error,
            squared_error=inner.squared_error,
            absolute_error=inner.absolute_error,
            density=self.density,
        )

    def frame_bound(self, num_elements: int) -> int:
        num_sent = self.contract.num_sent(num_elements)
        return HEADER_BYTES + index_bound(num_elements, num_sent) + self.values.section_bytes(num_sent)

    def dense(self) -> DenseCodec:
        return self.values

    def _encode(self, values: Floats, out: Bytes, seed: np.uint32, residual: Residual | None) -> int:
        total = values if residual is None else frozen(residual[1])
        if residual is None:
            finite = bool(largest_bits(values) < INFINITY)
        else:
            finite = kernels.add_finite(values, *residual)
        if not finite:
            raise non_finite(values, residual)
        chosen = _largest(total, self.contract.num_sent(values.size))
        kept: Floats = np.empty(chosen.size, np.float32)
        kernels.gather(total, chosen, kept)
        index, index_bytes = write_index(chosen, values.size, out[HEADER_BYTES:])
        start = HEADER_BYTES + index_bytes
        num_bytes = start + self.values.section_bytes(chosen.size)
        section = out[start:num_bytes]
        self.values.encode_section(frozen(kept), section, seed, None)
        if residual is not None:
            self.values.decode_section(frozen(section), kept, np.float32(1))
            kernels.scatter_subtract(kept, chosen, residual[1])
        Header(SPARSE, self.values.value_id, index, self.values.block_log2, values.size, chosen.size).write(out)
        return num_bytes


def _largest(values: Floats, count: int) -> Positions:
    """Positions of the `count` largest magnitudes, ties to the lowest, ascending."""
    positions = _candidates(values, count)
    magnitudes: NDArray[np.int32] = np.empty(positions.size, np.int32)
    kernels.gather_magnitudes(values, positions, magnitudes)
    chosen: Positions = np.empty(count, np.uint32)
    if count:
        rank = magnitudes.size - count
        threshold = np.partition(magnitudes, rank)[rank]
        kernels.choose(positions, magnitudes, threshold, chosen)
    return chosen


def _candidates(values: Floats, count: int) -> Positions:
    """Positions, ascending, of elements that are sure to hold the `count` largest."""
    sample_size = min(values.size // _SAMPLE_SHARE, _LARGEST_SAMPLE)
    hits = count * sample_size / values.size if values.size else 0.0
    rank = math.ceil(hits + 4.0 * math.sqrt(hits) + 4.0)
    if values.size >= _EXACT_BELOW and rank < sample_size // 2:
        threshold = _sampled_threshold(values, sample_size, rank)
        positions: Positions = np.empty(2 * rank * values.size // sample_size + _SLACK, np.uint32)
        found = int(kernels.collect(values, max(threshold, np.int32(1)), positions))
        if found >= count:
            return positions[:found]
        if found >= 0 and not threshold:
            # These are all that are not zero. Of the zeros the lowest are sent: those among the first `count`.
            first = np.arange(count, dtype=np.uint32)
            return np.concatenate([first, positions[np.searchsorted(positions[:found], count) : found]])
    return np.arange(values.size, dtype=np.uint32)


def _sampled_threshold(values: Floats, sample_size: int, rank: int) -> np.int32:
    """The magnitude of that rank, from the largest, in a strided sample."""
    sample: NDArray[np.int32] = np.empty(sample_size, np.int32)
    # An odd stride does not fall into step with rows whose length is a power of two.
    kernels.sample_magnitudes(values, (values.size // sample_size - 1) | 1, sample)
    threshold: np.int32 = np.partition(sample, sample_size - rank)[sample_size - rank]
    return threshold
