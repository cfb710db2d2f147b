"""Which elements a sparse frame sends, chosen and named on the device. Equal by bits to the CPU's."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..codec import padded
from ..contract import share_of
from ..header import Header
from ..selections.indices import BITMAP, GAPS
from ..selections.nonzero import NONZERO
from ..selections.sparse import SPARSE, SparseCodec
from ..selections.sparse_kernels import RUN
from ..selections.topk import TopK
from ..spec import REFERENCE_POSITIONS

_SAMPLE_SHARE = 64
_LARGEST_SAMPLE = 1 << 20
_WORD = 0xFFFFFFFF


def chosen_on_device(codec: SparseCodec, values: Tensor, seed: int) -> Tensor:
    """The positions that `codec` sends of finite float32 [n], int64 [k]."""
    choose = SELECTORS.get(type(codec))
    return choose(codec, values) if choose is not None else codec.reference_select(values, seed)


def index_on_device(
    codec: SparseCodec, chosen: Tensor, num_elements: int, seed: int, named: bool = False
) -> tuple[Header, Tensor]:
    """The header of the frame that sends `chosen`, and its index section, uint8; `named`: by their positions in any case."""
    if not named and type(codec).reference_index is not SparseCodec.reference_index:
        return codec.reference_index(chosen, num_elements, seed)
    index, section = _index_section(chosen, num_elements)
    inner = codec.values
    return Header(codec.selection_id, inner.value_id, index, inner.parameter, num_elements, chosen.numel()), section


def positions_on_device(header: Header, sections: Tensor) -> tuple[Tensor, int]:
    """The positions of a checked sparse frame, int64 [k], and the bytes of its index section."""
    if header.selection in (SPARSE, NONZERO) and header.index == GAPS:
        return _positions_of_gaps(sections, header.num_sent)
    return REFERENCE_POSITIONS[header.selection](header, sections)


def _largest(codec: Any, values: Tensor) -> Tensor:
    """The share of largest magnitudes, ties to the lowest position, ascending.

    As on the CPU, a threshold from a strided sample leaves few candidates to rank.
    """
    magnitudes = values.view(torch.int32) & 0x7FFFFFFF
    count = share_of(codec.density, values.numel())
    candidates = _candidates(magnitudes, count)
    if candidates is None:
        return _ranked(magnitudes, count)
    return candidates[_ranked(magnitudes[candidates], count)]


def _candidates(magnitudes: Tensor, count: int) -> Tensor | None:
    """Positions, ascending, that are sure to hold the `count` largest; None if sampling finds no short list."""
    size = magnitudes.numel()
    sample_size = min(size // _SAMPLE_SHARE, _LARGEST_SAMPLE)
    hits = count * sample_size / size if size else 0.0
    rank = math.ceil(hits + 4.0 * math.sqrt(hits) + 4.0)
    if rank >= sample_size // 2:
        return None
    # An odd stride does not fall into step with rows whose length is a power of two.
    sample = magnitudes[:: (size // sample_size - 1) | 1][:sample_size]
    threshold = sample.topk(rank).values[-1]
    found = (magnitudes >= threshold).nonzero().view(-1)
    return found if found.numel() >= count else None


def _ranked(magnitudes: Tensor, count: int) -> Tensor:
    """Places of the `count` largest, ties to the lowest, ascending."""
    if not count:
        return magnitudes.new_zeros(0, dtype=torch.int64)
    threshold = magnitudes.topk(count, sorted=False).values.min()
    above, ties = magnitudes > threshold, magnitudes == threshold
    return (above | ties & (ties.cumsum(0) <= count - above.sum())).nonzero().view(-1)


SELECTORS: dict[type[SparseCodec], Callable[[Any, Tensor], Tensor]] = {TopK: _largest}
"""Selections that are faster here than their references, which are right on any device."""


def _index_section(chosen: Tensor, num_elements: int) -> tuple[int, Tensor]:
    """`selections.indices.reference_index` without its loop over runs; waits for the device once."""
    count = chosen.numel()
    gaps = chosen.diff(prepend=chosen.new_full((1,), -1)) - 1
    runs = torch.nn.functional.pad(gaps, (0, -count % RUN)).view(-1, RUN)
    powers = 1 << torch.arange(32, device=chosen.device)
    widths = (runs.amax(1, keepdim=True) >= powers).sum(1) if count else runs.new_zeros(0)
    starts, num_words = _word_starts(widths, count)
    bitmap_words = -(-num_elements // 32)
    if padded(widths.numel()) + 4 * num_words > 4 * bitmap_words:
        bits = chosen.new_zeros(bitmap_words).index_add_(0, chosen >> 5, 1 << (chosen & 31))
        return BITMAP, _bytes_of(bits)
    words = chosen.new_zeros(num_words + 2)
    run, within = _places(count, chosen.device)
    offset = within * widths[run]
    word, shift = starts[run] + (offset >> 5), offset & 31
    # Bits of different gaps do not overlap: adding them is joining them. A gap spans two words at most.
    words.index_add_(0, word, gaps << shift & _WORD).index_add_(0, word + 1, gaps >> (32 - shift))
    head = torch.nn.functional.pad(widths.to(torch.uint8), (0, -widths.numel() % 4))
    return GAPS, torch.cat([head, _bytes_of(words[:num_words])])


def _positions_of_gaps(sections: Tensor, count: int) -> tuple[Tensor, int]:
    num_runs = -(-count // RUN)
    widths = sections[:num_runs].to(torch.int64)
    starts, num_words = _word_starts(widths, count)
    start = padded(num_runs)
    num_bytes = start + 4 * num_words
    read = sections[start:num_bytes].clone().view(torch.int32).to(torch.int64) & _WORD
    words = torch.nn.functional.pad(read, (0, 2))
    run, within = _places(count, sections.device)
    offset = within * widths[run]
    word, shift = starts[run] + (offset >> 5), offset & 31
    gaps = (words[word] >> shift | words[word + 1] << (32 - shift)) & ((1 << widths[run]) - 1)
    return (gaps + 1).cumsum(0) - 1, num_bytes


def _word_starts(widths: Tensor, count: int) -> tuple[Tensor, int]:
    """Where the packed gaps of each run begin, int64 [num_runs], and the words of all of them."""
    if not count:
        return widths, 0
    sizes = widths.new_full(widths.shape, RUN)
    sizes[-1] = count - (widths.numel() - 1) * RUN
    num_words = (sizes * widths + 31) >> 5
    return num_words.cumsum(0) - num_words, int(num_words.sum())


def _places(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The run of each position, and its place there."""
    place = torch.arange(count, device=device)
    return place // RUN, place % RUN


def _bytes_of(words: Tensor) -> Tensor:
    """uint8 [4 * n] of int64 words below 2^32, little-endian."""
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32).view(torch.uint8)
