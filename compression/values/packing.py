"""CPU kernels that pack the small codes of a block into bytes and back, and how many bytes that takes.

Of a block of m codes of b bits, byte j of P = ceil(m * b / 8) holds codes j, j + P, j + 2P, ..., low bits
first, zeros behind the last: planes, so that packing is arithmetic on whole vectors. `codes` is scratch, int8
[scratch_size]; `start` is the first element of the block, a multiple of 8.
"""

import numpy as np
from numpy.typing import NDArray

from ..kernels import kernel

Codes = NDArray[np.int8]

_B = np.int8
_L = np.uint64


def packed_bytes(count: int, block: int, bits: int) -> int:
    """Bytes of the packed codes of `count` values in blocks of `block`."""
    whole, tail = divmod(count, block)
    return whole * (block * bits // 8) + -(-tail * bits // 8)


@kernel
def scratch_size(block: int, count: int) -> int:
    """Elements of `codes`: those of a block, or of all values where they are fewer, up to a whole byte."""
    return min(block, (count + 7) // 8 * 8)


@kernel
def pack(codes: Codes, size: np.uint64, packed: Codes, start: np.uint64, bits: int) -> None:
    """Pack the first `size` codes of 4, 2 or 1 bits; those behind them up to a whole byte are overwritten."""
    first = (start * _L(bits)) >> _L(3)
    num_bytes = (size * _L(bits) + _L(7)) >> _L(3)
    for i in range(size, num_bytes * _L(8 // bits)):
        codes[i] = _B(0)
    if bits == 4:
        for j in range(num_bytes):
            packed[first + j] = _B(_B(codes[j] & _B(15)) | _B(codes[num_bytes + j] << _B(4)))
    elif bits == 2:
        second, third, fourth = num_bytes, num_bytes * _L(2), num_bytes * _L(3)
        for j in range(num_bytes):
            low = _B(_B(codes[j] & _B(3)) | _B(_B(codes[second + j] & _B(3)) << _B(2)))
            high = _B(_B(_B(codes[third + j] & _B(3)) << _B(4)) | _B(codes[fourth + j] << _B(6)))
            packed[first + j] = _B(low | high)
    else:
        _pack_bits(codes, num_bytes, packed, first)


@kernel
def _pack_bits(codes: Codes, num_bytes: np.uint64, packed: Codes, first: np.uint64) -> None:
    """Codes are 0 or 1."""
    b, c, d, e = num_bytes, num_bytes * _L(2), num_bytes * _L(3), num_bytes * _L(4)
    f, g, h = num_bytes * _L(5), num_bytes * _L(6), num_bytes * _L(7)
    for j in range(num_bytes):
        low = _B(codes[j] | _B(codes[b + j] << _B(1)) | _B(codes[c + j] << _B(2)) | _B(codes[d + j] << _B(3)))
        high = _B(_B(codes[e + j] << _B(4)) | _B(codes[f + j] << _B(5)) | _B(codes[g + j] << _B(6)))
        packed[first + j] = _B(low | high | _B(codes[h + j] << _B(7)))


@kernel
def unpack(packed: Codes, start: np.uint64, size: np.uint64, codes: Codes, bits: int) -> None:
    """The signed codes of 4 or 2 bits, and what stands behind them in the last byte."""
    first = (start * _L(bits)) >> _L(3)
    num_bytes = (size * _L(bits) + _L(7)) >> _L(3)
    if bits == 4:
        for j in range(num_bytes):
            code = packed[first + j]
            codes[j] = _B(_B(code << _B(4)) >> _B(4))
            codes[num_bytes + j] = _B(code >> _B(4))
    else:
        second, third, fourth = num_bytes, num_bytes * _L(2), num_bytes * _L(3)
        for j in range(num_bytes):
            code = packed[first + j]
            codes[j] = _B(_B(code << _B(6)) >> _B(6))
            codes[second + j] = _B(_B(code << _B(4)) >> _B(6))
            codes[third + j] = _B(_B(code << _B(2)) >> _B(6))
            codes[fourth + j] = _B(code >> _B(6))
