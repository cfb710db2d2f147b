"""CPU kernels of vector quantisation: measuring a block, choosing codes, looking them up.

Vectors are worked on in chunks of `CHUNK`, transposed to one row for each of their elements ("planes"), so that
one instruction compares several vectors with a codeword.
"""

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..kernels import FINITE, INFINITY, MALFORMED, NOT_FINITE, Floats, fold, kernel, largest_bits
from .packing import Codes, pack, unpack

CHUNK = 512
"""Vectors whose codes are packed together."""
WIDTH = 4
"""Elements of a vector that are compared at once; shorter ones have zeros behind them."""

Integers = NDArray[np.int32]

_F = np.float32
_I = np.int32
_L = np.uint64

_ROUNDING = _F(2.0**-20)
"""Of |vector|^2 and of |codeword|^2: twice what the roundings of 16 products and their sum can hide.

The distance to a codeword has to be shorter than to zero by that much before it is chosen, so that no vector is
ever replaced by one that is further away than zero.
"""
_SMALLEST = _F(2.0**-100)
"""Of |codeword|^2, where the largest element is about one: below it products lose bits to underflow."""


def _fused(typing_context: Any, factor: Any, other: Any, term: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    kind = numba.types.float32
    return kind(kind, kind, kind), generate


fused = cast(Callable[[Any, Any, Any], Any], intrinsic(_fused))
"""fl(factor * other + term). For choosing codes only: what a frame decodes to has no fused products."""


@kernel
def _load(values: Floats, first: int, planes: Floats, factor: np.float32) -> None:
    """Vectors from number `first` on, times `factor`, as columns of `planes` [dim, CHUNK]; zeros behind the last."""
    dim, width = planes.shape
    whole = max(0, min(width, values.size // dim - first))
    start, step = _L(first * dim), _L(dim)
    for d in range(dim):
        plane = planes[d]
        for j in range(_L(whole)):
            plane[j] = values[start + j * step + _L(d)] * factor
        plane[whole:] = _F(0)
    if whole < width:
        for i in range((first + whole) * dim, values.size):
            planes[i - (first + whole) * dim, whole] = values[i] * factor


@kernel
def measure(values: Floats, dim: int) -> tuple[float, int]:
    """The sum of squares, and the number of the vector of largest norm; both in float64, which cannot overflow."""
    planes, norms, totals = np.empty((dim, CHUNK), np.float32), np.empty(CHUNK), np.zeros(CHUNK)
    most, place = -1.0, 0
    for first in range(0, (values.size + dim - 1) // dim, CHUNK):
        _load(values, first, planes, _F(1))
        norms[:] = 0.0
        for d in range(dim):
            plane = planes[d]
            for j in range(CHUNK):
                norms[j] += np.float64(plane[j]) * np.float64(plane[j])
        for j in range(CHUNK):
            totals[j] += norms[j]
        for j in range(CHUNK):
            if norms[j] > most:
                most, place = norms[j], first + j
    return totals.sum(), place


@kernel
def half_norms(book: Floats) -> Floats:
    """|codeword|^2 / 2; infinite for one too small to be compared, which is then never chosen."""
    halves = np.empty(len(book), np.float32)
    for c in range(len(book)):
        norm = _F(0)
        for d in range(book.shape[1]):
            norm += book[c, d] * book[c, d]
        halves[c] = norm * _F(_F(0.5) + _ROUNDING) if norm >= _SMALLEST else _F(np.inf)
    return halves


@kernel
def squared_norms(planes: Floats, out: Floats) -> None:
    out[:] = _F(0)
    for d in range(len(planes)):
        plane = planes[d]
        for j in range(out.size):
            out[j] += plane[j] * plane[j]


@kernel
def nearest(planes: Floats, book: Floats, halves: Floats, scores: Floats, codes: Integers) -> None:
    """For each vector v the codeword c with the least |c|^2 / 2 - <v, c>, and that score; codeword 0 is zero.

    Two codewords at a time, four planes at a time: what has been loaded is used twice.
    """
    squared_norms(planes, scores)
    for j in range(CHUNK):
        scores[j] *= -_ROUNDING
        codes[j] = _I(0)
    width = book.shape[1]
    sums, others = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    for c in range(0, len(book), 2):
        if width == 4:
            _choose(planes, book[c], book[c + 1], halves[c], halves[c + 1], scores, codes, _I(c))
        else:
            sums[:], others[:] = halves[c], halves[c + 1]
            for d in range(0, width, 4):
                _subtract(planes[d : d + 4], book[c, d:], sums)
                _subtract(planes[d : d + 4], book[c + 1, d:], others)
            _keep(sums, others, scores, codes, _I(c))


@kernel
def _choose(
    planes: Floats,
    one: Floats,
    two: Floats,
    half_one: np.float32,
    half_two: np.float32,
    scores: Floats,
    codes: Integers,
    code: np.int32,
) -> None:
    p, q, r, s = planes[0], planes[1], planes[2], planes[3]
    a, b, c, d = -one[0], -one[1], -one[2], -one[3]
    e, f, g, h = -two[0], -two[1], -two[2], -two[3]
    next_code = _I(code + _I(1))
    for j in range(CHUNK):
        first = fused(p[j], a, fused(q[j], b, fused(r[j], c, fused(s[j], d, half_one))))
        second = fused(p[j], e, fused(q[j], f, fused(r[j], g, fused(s[j], h, half_two))))
        score = second if second < first else first
        found = next_code if second < first else code
        codes[j] = found if score < scores[j] else codes[j]
        scores[j] = score if score < scores[j] else scores[j]


@kernel
def _subtract(planes: Floats, codeword: Floats, sums: Floats) -> None:
    """sums -= <v, c> over four elements."""
    p, q, r, s = planes[0], planes[1], planes[2], planes[3]
    a, b, c, d = -codeword[0], -codeword[1], -codeword[2], -codeword[3]
    for j in range(CHUNK):
        sums[j] = fused(p[j], a, fused(q[j], b, fused(r[j], c, fused(s[j], d, sums[j]))))


@kernel
def _keep(one: Floats, two: Floats, scores: Floats, codes: Integers, code: np.int32) -> None:
    next_code = _I(code + _I(1))
    for j in range(CHUNK):
        score = two[j] if two[j] < one[j] else one[j]
        found = next_code if two[j] < one[j] else code
        codes[j] = found if score < scores[j] else codes[j]
        scores[j] = score if score < scores[j] else scores[j]


@kernel
def encode(values: Floats, dim: int, factor: np.float32, book: Floats, packed: Codes, bits: int, largest: int) -> float:
    """Write the code of the nearest codeword of each vector times `factor`; number `largest` gets code 1.

    Returns the sum of the scores: half of what the squared error, times factor^2, differs from the sum of squares.
    """
    width = book.shape[1]
    planes, halves = np.zeros((width, CHUNK), np.float32), half_norms(book)
    scores, codes, narrow = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.int32), np.empty(CHUNK, np.int8)
    total = 0.0
    num_vectors = (values.size + dim - 1) // dim
    for first in range(0, num_vectors, CHUNK):
        _load(values, first, planes[:dim], factor)
        nearest(planes, book, halves, scores, codes)
        for j in range(CHUNK):
            narrow[j] = np.int8(codes[j])
        if first <= largest < first + CHUNK:
            narrow[largest - first] = np.int8(1)
        size = min(CHUNK, num_vectors - first)
        if bits == 8:
            packed[first : first + size] = narrow[:size]
        else:
            pack(narrow, _L(size), packed, _L(first), bits)
        total += np.float64(fold(scores, _L(CHUNK)))
    return total


@kernel
def _codes(packed: Codes, first: int, num_vectors: int, bits: int, codes: Codes) -> int:
    """The codes of a chunk, of which the lowest `bits` count; returns how many there are."""
    count = min(CHUNK, num_vectors - first)
    if bits == 8:
        codes[:count] = packed[first : first + count]
    else:
        unpack(packed, _L(first), _L(count), codes, bits)
    return count


@kernel
def check(book: Floats, packed: Codes, num_vectors: int, num_codewords: int, bits: int) -> int:
    if largest_bits(book) >= INFINITY:
        return NOT_FINITE
    mask, codes = (1 << bits) - 1, np.empty(CHUNK, np.int8)
    for first in range(0, num_vectors, CHUNK):
        count = _codes(packed, first, num_vectors, bits, codes)
        most = np.int64(0)
        for j in range(count):
            most = max(most, np.int64(np.int64(codes[j]) & mask))
        if most >= num_codewords:
            return MALFORMED
        for j in range(count, (count * bits + 7) // 8 * 8 // bits):
            if codes[j] & mask:
                return MALFORMED
    return FINITE


@kernel
def decode(book: Floats, packed: Codes, out: Floats, scale: np.float32, dim: int, bits: int) -> None:
    """out = scale * the codewords, one behind the other in `book`."""
    codes, scaled = np.empty(CHUNK, np.int8), scale * book
    num_vectors, mask, width = (out.size + dim - 1) // dim, _L((1 << bits) - 1), _L(dim)
    for first in range(0, num_vectors, CHUNK):
        count = _L(_codes(packed, first, num_vectors, bits, codes))
        whole = min(count, _L(out.size // dim - first))
        start = _L(first * dim)
        if dim == 2:
            for j in range(whole):
                place, to = (_L(codes[j]) & mask) * width, start + j * width
                out[to], out[to + _L(1)] = scaled[place], scaled[place + _L(1)]
        else:
            for j in range(whole):
                place, to = (_L(codes[j]) & mask) * width, start + j * width
                for d in range(_L(0), width, _L(4)):
                    i, k = to + d, place + d
                    out[i], out[i + _L(1)] = scaled[k], scaled[k + _L(1)]
                    out[i + _L(2)], out[i + _L(3)] = scaled[k + _L(2)], scaled[k + _L(3)]
        for j in range(whole, count):
            place, to = (_L(codes[j]) & mask) * width, start + j * width
            for d in range(_L(out.size) - to):
                out[to + d] = scaled[place + d]


@kernel
def add_to(book: Floats, packed: Codes, out: Floats, scale: np.float32, dim: int, bits: int) -> None:
    """out += scale * the codewords, one behind the other in `book`."""
    codes, scaled = np.empty(CHUNK, np.int8), scale * book
    num_vectors, mask, width = (out.size + dim - 1) // dim, _L((1 << bits) - 1), _L(dim)
    for first in range(0, num_vectors, CHUNK):
        count = _L(_codes(packed, first, num_vectors, bits, codes))
        whole = min(count, _L(out.size // dim - first))
        start = _L(first * dim)
        if dim == 2:
            for j in range(whole):
                place, to = (_L(codes[j]) & mask) * width, start + j * width
                a, b = out[to] + scaled[place], out[to + _L(1)] + scaled[place + _L(1)]
                out[to], out[to + _L(1)] = a, b
        else:
            for j in range(whole):
                place, to = (_L(codes[j]) & mask) * width, start + j * width
                for d in range(_L(0), width, _L(4)):
                    i, k = to + d, place + d
                    a, b = out[i] + scaled[k], out[i + _L(1)] + scaled[k + _L(1)]
                    e, f = out[i + _L(2)] + scaled[k + _L(2)], out[i + _L(3)] + scaled[k + _L(3)]
                    out[i], out[i + _L(1)], out[i + _L(2)], out[i + _L(3)] = a, b, e, f
        for j in range(whole, count):
            place, to = (_L(codes[j]) & mask) * width, start + j * width
            for d in range(_L(out.size) - to):
                out[to + d] += scaled[place + d]
