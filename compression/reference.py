"""Bits and bytes in plain torch operations, for the references of codecs: obvious, on any device, never fast."""

import torch
from torch import Tensor


def filled(section: Tensor) -> Tensor:
    """With zeros up to a multiple of four bytes."""
    return torch.nn.functional.pad(section, (0, -section.numel() % 4))


def raw(values: Tensor) -> Tensor:
    """The bytes of a tensor, uint8."""
    return values.reshape(-1, 1).contiguous().view(torch.uint8).view(-1)


def cast(section: Tensor, kind: torch.dtype) -> Tensor:
    """Bytes read as numbers of a type; torch views only aligned storage, so they are copied first."""
    return section.clone().view(-1, kind.itemsize).view(kind).view(-1)


def blocks_of(values: Tensor, block: int) -> Tensor:
    """[num_blocks, block], zeros behind the last value."""
    return torch.nn.functional.pad(values, (0, -values.numel() % block)).view(-1, block)


def largest_bits(blocks: Tensor) -> Tensor:
    """The largest magnitude of each row as a bit pattern, int32 [num_blocks, 1]."""
    return (blocks.view(torch.int32) & 0x7FFFFFFF).amax(1, keepdim=True)


def folded_sum(blocks: Tensor) -> Tensor:
    """Sum of each row of a power of two, float32 [num_blocks, 1]: the upper half is added to the lower, again
    and again. The one order of additions that all kernels share."""
    while blocks.shape[1] > 1:
        half = blocks.shape[1] // 2
        blocks = blocks[:, :half] + blocks[:, half:]
    return blocks


def power_of_two(exponents: Tensor) -> Tensor:
    """float32 2^exponent of int32 exponents -126..127."""
    return ((exponents + 127) << 23).view(torch.float32)


def hashed(seed: int, count: int, device: torch.device) -> Tensor:
    """32 random bits for each index, int64 [count], from a hash of (seed, index)."""
    return mixed(torch.arange(count, dtype=torch.int64, device=device) * 0x9E3779B9 & 0xFFFFFFFF ^ seed)


def mixed(word: Tensor) -> Tensor:
    """The 32-bit integer hash lowbias32 of int64 words below 2^32."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        word = (word ^ word >> shift) * factor & 0xFFFFFFFF
    return word ^ word >> 16


def drawn(seed: int, count: int, device: torch.device) -> Tensor:
    """Uniform in [0, 1) in steps of 2^-24, float32 [count]."""
    return (hashed(seed, count, device) >> 8).to(torch.float32) * 2.0**-24


def packed_blocks(codes: Tensor, count: int, bits: int) -> Tensor:
    """The first `count` codes of [num_blocks, block], packed block by block, uint8.

    Of a block of m codes, byte j of P = ceil(m * bits / 8) holds codes j, j + P, j + 2P, ... low bits first, zeros
    behind the last.
    """
    whole, tail = divmod(count, codes.shape[1])
    parts = [_planes(codes[:whole], bits)]
    if tail:
        parts.append(_planes(codes[whole:, :tail], bits))
    return torch.cat([part.view(-1) for part in parts])


def unpacked_blocks(packed: Tensor, count: int, block: int, bits: int) -> Tensor:
    """The codes of `packed_blocks`, unsigned, int64 [count]."""
    whole, tail = divmod(count, block)
    end = whole * block * bits // 8
    shifts = torch.arange(8 // bits, device=packed.device)[None, :, None] * bits
    parts = []
    for part, num_rows, width in ((packed[:end], whole, block), (packed[end:], 1 if tail else 0, tail)):
        rows = part.to(torch.int64).view(num_rows, 1, -(-width * bits // 8))
        parts.append((rows >> shifts & (1 << bits) - 1).flatten(1)[:, :width].reshape(-1))
    return torch.cat(parts)


def _planes(codes: Tensor, bits: int) -> Tensor:
    num_rows, width = codes.shape
    num_planes = 8 // bits
    num_bytes = -(-width // num_planes)
    planes = torch.nn.functional.pad(codes.to(torch.int64), (0, num_planes * num_bytes - width))
    planes = (planes & (1 << bits) - 1).view(num_rows, num_planes, num_bytes)
    shifts = torch.arange(num_planes, device=codes.device)[None, :, None] * bits
    return (planes << shifts).sum(1).to(torch.uint8)


def bits_of_words(words: Tensor, width: int) -> Tensor:
    """The lowest `width` bits of each word, low bits first, int64 [count, width]."""
    return words[:, None] >> torch.arange(width, device=words.device) & 1


def packed_bits(bits: Tensor) -> Tensor:
    """Bits packed low first, with zeros up to four bytes, uint8."""
    bits = torch.nn.functional.pad(bits, (0, -bits.numel() % 32)).view(-1, 8)
    return (bits << torch.arange(8, device=bits.device)).sum(1).to(torch.uint8)
