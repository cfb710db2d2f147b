"""The index section of a sparse frame: packed gaps or a bitmap, whichever takes fewer bytes.

Gaps: one width byte for each run of 128, padded with zeros to four bytes, then the packed words. Bitmap: one
bit for each element of the block, low bits first, in 32-bit words whose surplus bits are zero.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...protos.errors import FrameError
from ..codec import Bytes, Floats, Positions, padded
from ..reference import bits_of_words, filled, packed_bits
from . import sparse_kernels as kernels

BITMAP = 1
GAPS = 2


@dataclass(frozen=True, slots=True)
class IndexSection:
    """A checked index section: views of the frame."""

    num_chosen: int
    num_bytes: int
    words: NDArray[np.uint32]
    widths: NDArray[np.uint8] | None
    """None for a bitmap."""

    def positions(self) -> Positions:
        """The chosen positions, uint32 [num_chosen], ascending."""
        chosen: Positions = np.empty(self.num_chosen, np.uint32)
        if self.widths is None:
            kernels.read_bitmap(self.words, chosen)
        else:
            kernels.unpack_gaps(self.widths, self.words, chosen)
        return chosen

    def scatter(self, kept: Floats, out: Floats, is_added: bool) -> None:
        """Put the values, float32 [num_chosen], at the chosen positions of `out`, or add them."""
        if self.widths is None:
            kernels.scatter_bitmap(self.words, kept, out, is_added)
        else:
            kernels.scatter_gaps(self.widths, self.words, kept, out, is_added)


def index_bound(num_elements: int, num_chosen: int) -> int:
    """Most bytes that the index section may take.

    A run whose gaps need w bits has one of at least 2^(w-1), and all gaps together are less than n: the
    widths sum up to at most runs * (1 + log2(n / runs)), the value for equal runs.
    """
    runs = _num_runs(num_chosen)
    if not runs:
        return 0
    sum_of_widths = runs * (1.0 + math.log2(max(1.0, num_elements / runs)))
    gaps = padded(runs) + 4 * (math.ceil(sum_of_widths * kernels.RUN / 32) + runs)
    return min(gaps, bitmap_bytes(num_elements))


def write_index(chosen: Positions, num_elements: int, out: Bytes) -> tuple[int, int]:
    """Write the shorter form to the start of `out`; returns its number (BITMAP or GAPS) and its bytes."""
    runs = _num_runs(chosen.size)
    widths: NDArray[np.uint8] = np.zeros(padded(runs), np.uint8)
    kernels.measure_gaps(chosen, widths[:runs])
    num_bytes = widths.size + 4 * int(kernels.count_words(widths[:runs], chosen.size))
    if num_bytes > bitmap_bytes(num_elements):
        num_bytes = bitmap_bytes(num_elements)
        kernels.write_bitmap(chosen, out[:num_bytes].view(np.uint32))
        return BITMAP, num_bytes
    out[: widths.size] = widths
    kernels.pack_gaps(chosen, widths[:runs], out[widths.size : num_bytes].view(np.uint32))
    return GAPS, num_bytes


def read_index(index: int, num_elements: int, num_chosen: int, sections: Bytes) -> IndexSection:
    """Check the index section at the start of `sections`; raises FrameError. Allocates nothing."""
    if index == BITMAP:
        return _read_bitmap(num_elements, num_chosen, sections)
    if index == GAPS:
        return _read_gaps(num_elements, num_chosen, sections)
    raise FrameError(f"sparse frame has an unknown index {index}")


def reference_index(chosen: torch.Tensor, num_elements: int) -> tuple[int, torch.Tensor]:
    """`write_index` in plain torch operations: the number of the shorter form, and the section, uint8."""
    gaps = chosen.diff(prepend=chosen.new_full((1,), -1)) - 1
    runs = torch.split(gaps, kernels.RUN) if gaps.numel() else ()
    widths = [int(run.max()).bit_length() for run in runs]
    words = [packed_bits(bits_of_words(run, width).view(-1)) for run, width in zip(runs, widths, strict=True)]
    packed = torch.cat([filled(torch.tensor(widths, dtype=torch.uint8, device=chosen.device)), *words])
    if packed.numel() <= bitmap_bytes(num_elements):
        return GAPS, packed
    bits = torch.zeros(num_elements, dtype=torch.int64, device=chosen.device)
    bits[chosen] = 1
    return BITMAP, packed_bits(bits)


def reference_positions(
    index: int, sections: torch.Tensor, num_elements: int, num_chosen: int
) -> tuple[torch.Tensor, int]:
    """The chosen positions of a checked index section, int64 [num_chosen], and the bytes of the section."""
    if index == BITMAP:
        num_bytes = bitmap_bytes(num_elements)
        return bits_of_words(sections[:num_bytes].to(torch.int64), 8).view(-1).nonzero().view(-1), num_bytes
    widths = sections[: _num_runs(num_chosen)].tolist()
    start = padded(len(widths))
    gaps = [torch.zeros(0, dtype=torch.int64, device=sections.device)]
    for run, width in enumerate(widths):
        length = min(kernels.RUN, num_chosen - run * kernels.RUN)
        num_bytes = 4 * (-(-length * width // 32))
        bits = bits_of_words(sections[start : start + num_bytes].to(torch.int64), 8).view(-1)[: length * width]
        gaps.append((bits.view(length, width) << torch.arange(width, device=sections.device)).sum(1))
        start += num_bytes
    return (torch.cat(gaps) + 1).cumsum(0) - 1, start


def _read_bitmap(num_elements: int, num_chosen: int, sections: Bytes) -> IndexSection:
    num_bytes = bitmap_bytes(num_elements)
    if sections.size < num_bytes:
        raise FrameError(f"sparse frame ends inside its bitmap of {num_bytes} bytes")
    words = sections[:num_bytes].view(np.uint32)
    found = kernels.count_bits(words)
    if found != num_chosen:
        raise FrameError(f"sparse frame has a bitmap of {found} elements, its header says {num_chosen}")
    if num_elements % 32 and int(words[-1]) >> num_elements % 32:
        raise FrameError(f"sparse frame names an element beyond the last of {num_elements}")
    return IndexSection(num_chosen, num_bytes, words, None)


def _read_gaps(num_elements: int, num_chosen: int, sections: Bytes) -> IndexSection:
    runs = _num_runs(num_chosen)
    start = padded(runs)
    if sections.size < start:
        raise FrameError(f"sparse frame ends inside its {runs} widths")
    widths = sections[:runs]
    if sections[runs:start].any():
        raise FrameError("sparse frame has padding that is not zero")
    num_words = int(kernels.count_words(widths, num_chosen))
    if num_words < 0:
        raise FrameError("sparse frame has gaps of more than 32 bits")
    num_bytes = start + 4 * num_words
    if sections.size < num_bytes:
        raise FrameError(f"sparse frame ends inside its index of {num_bytes} bytes")
    words = sections[start:num_bytes].view(np.uint32)
    if int(kernels.end_of_gaps(widths, words, num_chosen)) > num_elements:
        raise FrameError(f"sparse frame names an element beyond the last of {num_elements}")
    return IndexSection(num_chosen, num_bytes, words, widths)


def _num_runs(num_chosen: int) -> int:
    return -(-num_chosen // kernels.RUN)


def bitmap_bytes(num_elements: int) -> int:
    """Of an index section that is a bitmap: the most that any index of a block takes."""
    return 4 * (-(-num_elements // 32))
