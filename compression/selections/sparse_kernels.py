"""CPU kernels that select elements, name them in few bits, and put them back.

Chosen positions are uint32 [k], ascending. Gaps are the numbers of elements skipped before each of them,
packed in runs of 128 with as many bits each as the largest of the run needs; a run starts at a 32-bit word,
low bits first.
"""

import numpy as np
from numpy.typing import NDArray

from ..kernels import (
    INFINITY,
    MAGNITUDE,
    add,
    add_block,
    bits_of,
    kernel,
    largest_bits,
    largest_bits_of,
    trailing_zeros,
)

Floats = NDArray[np.float32]
Positions = NDArray[np.uint32]
Words = NDArray[np.uint32]
Widths = NDArray[np.uint8]
Magnitudes = NDArray[np.int32]
Flags = NDArray[np.uint8]

RUN = 128
TOO_MANY, NOT_FINITE = -1, -2
"""What collecting returns instead of a count."""

SPARE_ROOM = 127
"""Positions that collecting needs room for besides those it finds."""

_CHUNK = 4096
_GROUP = np.uint64(128)
_I = np.int32
_U = np.uint32
_L = np.uint64
_WORD_BITS = np.uint64(32)


@kernel
def add_finite(values: Floats, committed: Floats, total: Floats) -> bool:
    """total = values + committed; False if a sum is not finite."""
    for start in range(0, values.size, _CHUNK):
        stop = min(start + _CHUNK, values.size)
        part = total[start:stop]
        add(values[start:stop], committed[start:stop], part)
        if largest_bits(part) >= INFINITY:
            return False
    return True


@kernel
def sample_magnitudes(values: Floats, stride: int, out: Magnitudes) -> None:
    for i in range(out.size):
        out[i] = bits_of(values[i * stride]) & MAGNITUDE


@kernel
def gather_magnitudes(values: Floats, positions: Positions, out: Magnitudes) -> None:
    for i in range(out.size):
        out[i] = bits_of(values[positions[i]]) & MAGNITUDE


@kernel
def _append(mask: np.uint64, start: int, positions: Positions, count: np.int64) -> np.int64:
    while mask:
        positions[count] = start + trailing_zeros(mask)
        count += 1
        mask &= mask - _L(1)
    return count


@kernel
def collect(values: Floats, threshold: np.int32, positions: Positions) -> np.int64:
    """Positions of the elements at or above the threshold, ascending; TOO_MANY if they might not fit.

    Needs room for SPARE_ROOM positions more than it finds.
    """
    flags = np.empty(_GROUP, np.uint8)
    return _collect(values, _L(0), _L(values.size), threshold, positions, np.int64(0), flags)


@kernel
def _collect(
    values: Floats,
    start: np.uint64,
    stop: np.uint64,
    threshold: np.int32,
    positions: Positions,
    count: np.int64,
    flags: Flags,
) -> np.int64:
    """Append to the `count` positions found so far. One comparison a byte, so that whole vectors are compared, and
    eight bytes are passed over at once where none is set."""
    found, words = _L(count), flags.view(np.uint64)
    while start + _GROUP <= stop:
        if found + _GROUP > _L(positions.size):
            return np.int64(TOO_MANY)
        for i in range(_GROUP):
            flags[i] = np.uint8(_I(bits_of(values[start + i]) & MAGNITUDE) >= threshold)
        for i in range(_GROUP >> _L(3)):
            word = words[i]
            while word:
                positions[found] = _U(start + (i << _L(3)) + (trailing_zeros(word) >> _L(3)))
                found += _L(1)
                word &= word - _L(1)
        start += _GROUP
    if found + (stop - start) > _L(positions.size):
        return np.int64(TOO_MANY)
    for i in range(start, stop):
        if _I(bits_of(values[i]) & MAGNITUDE) >= threshold:
            positions[found] = _U(i)
            found += _L(1)
    return np.int64(found)


@kernel
def add_collect(
    values: Floats, committed: Floats, total: Floats, threshold: np.int32, positions: Positions
) -> np.int64:
    """`add_finite` and `collect` while each part is in the first cache; NOT_FINITE if a sum is not.

    Where the positions might not fit, all sums have been made nevertheless.
    """
    flags, count = np.empty(_GROUP, np.uint8), np.int64(0)
    start, end = _L(0), _L(values.size)
    while start < end:
        size = min(_L(_CHUNK), end - start)
        add_block(values, committed, total, start, size)
        if largest_bits_of(total, start, size) >= INFINITY:
            return np.int64(NOT_FINITE)
        if count >= 0:
            count = _collect(total, start, start + size, threshold, positions, count, flags)
        start += size
    return count


@kernel
def choose(positions: Positions, magnitudes: Magnitudes, threshold: np.int32, chosen: Positions) -> None:
    """All positions above the threshold and, lowest first, as many at the threshold as `chosen` has room
    for."""
    ties = chosen.size
    for i in range(positions.size):
        ties -= magnitudes[i] > threshold
    count = 0
    for i in range(positions.size):
        tied = magnitudes[i] == threshold and ties > 0
        if tied or magnitudes[i] > threshold:
            chosen[count] = positions[i]
            count += 1
            ties -= tied


@kernel
def gather(values: Floats, chosen: Positions, out: Floats) -> None:
    for i in range(chosen.size):
        out[i] = values[chosen[i]]


@kernel
def put(out: Floats, position: np.uint64, value: np.float32, is_added: bool) -> None:
    if is_added:
        out[position] += value
    else:
        out[position] = value


@kernel
def scatter_subtract(kept: Floats, chosen: Positions, out: Floats) -> None:
    for i in range(chosen.size):
        out[chosen[i]] -= kept[i]


@kernel
def measure_gaps(chosen: Positions, widths: Widths) -> None:
    """Bits that the largest gap of each run needs."""
    following = _L(0)
    for run in range(widths.size):
        seen = _L(0)
        for i in range(run * RUN, min((run + 1) * RUN, chosen.size)):
            seen |= _L(chosen[i]) - following
            following = _L(chosen[i]) + _L(1)
        width = 0
        while seen:
            seen >>= _L(1)
            width += 1
        widths[run] = width


@kernel
def count_words(widths: Widths, count: int) -> np.int64:
    """Words of the packed gaps; -1 if a width is impossible."""
    words = np.int64(0)
    for run in range(widths.size):
        if widths[run] > 32:
            return np.int64(TOO_MANY)
        words += (min(RUN, count - run * RUN) * np.int64(widths[run]) + 31) // 32
    return words


@kernel
def pack_gaps(chosen: Positions, widths: Widths, words: Words) -> None:
    following = _L(0)
    place = 0
    for run in range(widths.size):
        width = _L(widths[run])
        held = _L(0)
        num_held = _L(0)
        for i in range(run * RUN, min((run + 1) * RUN, chosen.size)):
            held |= (_L(chosen[i]) - following) << num_held
            following = _L(chosen[i]) + _L(1)
            num_held += width
            if num_held >= _WORD_BITS:
                words[place] = _U(held)
                place += 1
                held >>= _WORD_BITS
                num_held -= _WORD_BITS
        if num_held:
            words[place] = _U(held)
            place += 1


@kernel
def unpack_gaps(widths: Widths, words: Words, chosen: Positions) -> None:
    following = _L(0)
    place = 0
    for run in range(widths.size):
        width = _L(widths[run])
        mask = (_L(1) << width) - _L(1)
        held = _L(0)
        num_held = _L(0)
        for i in range(run * RUN, min((run + 1) * RUN, chosen.size)):
            if num_held < width:
                held |= _L(words[place]) << num_held
                place += 1
                num_held += _WORD_BITS
            position = following + (held & mask)
            held >>= width
            num_held -= width
            chosen[i] = _U(position)
            following = position + _L(1)


@kernel
def scatter_gaps(widths: Widths, words: Words, kept: Floats, out: Floats, is_added: bool) -> None:
    """Put each value where it belongs, or add it, without the positions in between."""
    following = _L(0)
    place = 0
    for run in range(widths.size):
        width = _L(widths[run])
        mask = (_L(1) << width) - _L(1)
        held = _L(0)
        num_held = _L(0)
        for i in range(run * RUN, min((run + 1) * RUN, kept.size)):
            if num_held < width:
                held |= _L(words[place]) << num_held
                place += 1
                num_held += _WORD_BITS
            position = following + (held & mask)
            held >>= width
            num_held -= width
            put(out, position, kept[i], is_added)
            following = position + _L(1)


@kernel
def scatter_bitmap(words: Words, kept: Floats, out: Floats, is_added: bool) -> None:
    """`scatter_gaps` of a bitmap."""
    count = 0
    for place in range(words.size):
        mask = _L(words[place])
        while mask:
            put(out, _L(place * 32) + trailing_zeros(mask), kept[count], is_added)
            count += 1
            mask &= mask - _L(1)


@kernel
def end_of_gaps(widths: Widths, words: Words, count: int) -> np.uint64:
    """One past the last position. Cannot overflow: fewer than 2^32 gaps below 2^32 each."""
    end = _L(count)
    place = 0
    for run in range(widths.size):
        width = _L(widths[run])
        mask = (_L(1) << width) - _L(1)
        held = _L(0)
        num_held = _L(0)
        for _ in range(min(RUN, count - run * RUN)):
            if num_held < width:
                held |= _L(words[place]) << num_held
                place += 1
                num_held += _WORD_BITS
            end += held & mask
            held >>= width
            num_held -= width
    return end


@kernel
def write_bitmap(chosen: Positions, words: Words) -> None:
    words[:] = _U(0)
    for i in range(chosen.size):
        words[chosen[i] >> _U(5)] |= _U(1) << (chosen[i] & _U(31))


@kernel
def read_bitmap(words: Words, chosen: Positions) -> None:
    count = np.int64(0)
    for place in range(words.size):
        count = _append(_L(words[place]), place * 32, chosen, count)


@kernel
def count_bits(words: Words) -> np.int64:
    count = np.int64(0)
    for place in range(words.size):
        word = words[place]
        word = _U(word - (_U(word >> _U(1)) & _U(0x55555555)))
        word = _U((word & _U(0x33333333)) + (_U(word >> _U(2)) & _U(0x33333333)))
        word = _U((word + _U(word >> _U(4))) & _U(0x0F0F0F0F))
        count += np.int64(_U(word * _U(0x01010101)) >> _U(24))
    return count
