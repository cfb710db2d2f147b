"""What every codec means, in plain torch operations: the oracle that kernels equal by bits, on any device.

Slow and obvious where the kernels are fast. Nothing but the header is shared with them.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .cast import Bf16, Fp16, Fp32
from .codec import Codec, DenseCodec, padded, seed_word
from .header import DENSE, HEADER_BYTES, Header, read_header
from .indices import BITMAP, GAPS
from .int8 import Int8
from .sparse import SPARSE
from .topk import TopK

_BLOCK = 256
_RUN = 128


def encode(codec: Codec, values: Tensor, seed: int = 0, committed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The frame of y = values (+ committed), uint8 [num_bytes], and what it leaves out, float32 [n]."""
    total = values if committed is None else values + committed
    word = int(seed_word(seed))
    if isinstance(codec, TopK):
        frame = _encode_sparse(codec, total, word)
    else:
        assert isinstance(codec, DenseCodec)
        section = _FORMATS[codec.value_id].encode(codec, total, word)
        header = Header(DENSE, codec.value_id, 0, codec.block_log2, total.numel(), total.numel())
        frame = _joined(header, section)
    return frame, total - decode(frame, total.numel())


def decode(frame: Tensor, num_elements: int) -> Tensor:
    """D, float32 [num_elements], of a valid frame, uint8 [num_bytes]."""
    header = read_header(frame.cpu().numpy().data, num_elements)
    sections = frame[HEADER_BYTES:]
    if header.selection == DENSE:
        return _FORMATS[header.values].decode(sections, num_elements)
    assert header.selection == SPARSE
    read = _read_bitmap if header.index == BITMAP else _read_gaps
    positions, num_bytes = read(sections, num_elements, header.num_sent)
    out = torch.zeros(num_elements, device=frame.device)
    out[positions] = _FORMATS[header.values].decode(sections[num_bytes:], header.num_sent)
    return out


class _Format(Protocol):
    def encode(self, codec: DenseCodec, values: Tensor, seed: int) -> Tensor:
        """The value section, uint8."""

    def decode(self, section: Tensor, count: int) -> Tensor:
        """Float32 [count]."""


class _Fp32:
    def encode(self, codec: DenseCodec, values: Tensor, seed: int) -> Tensor:
        return _raw(values)

    def decode(self, section: Tensor, count: int) -> Tensor:
        return _cast(section, torch.float32)


class _Bf16:
    def encode(self, codec: DenseCodec, values: Tensor, seed: int) -> Tensor:
        largest = torch.finfo(torch.bfloat16).max
        return _filled(_raw(values.clamp(-largest, largest).to(torch.bfloat16)))

    def decode(self, section: Tensor, count: int) -> Tensor:
        return _cast(section[: 2 * count], torch.bfloat16).to(torch.float32)


class _Fp16:
    def encode(self, codec: DenseCodec, values: Tensor, seed: int) -> Tensor:
        blocks = _blocks(values)
        exponents = ((_largest_bits(blocks) >> 23) - 141).clamp(min=-126)
        largest = torch.where(exponents == 113, 32752.0, 65504.0)
        halves = (blocks * _power_of_two(-exponents)).clamp(-largest, largest).to(torch.float16)
        codes = _raw(halves.view(-1)[: values.numel()])
        return _filled(torch.cat([codes, _raw(exponents.to(torch.int8))]))

    def decode(self, section: Tensor, count: int) -> Tensor:
        halves = _blocks(_cast(section[: 2 * count], torch.float16).to(torch.float32))
        exponents = section[2 * count : 2 * count + halves.shape[0]].view(torch.int8).to(torch.int32)
        return (halves * _power_of_two(exponents[:, None])).view(-1)[:count]


class _Int8:
    def encode(self, codec: DenseCodec, values: Tensor, seed: int) -> Tensor:
        assert isinstance(codec, Int8)
        blocks = _blocks(values)
        scales = _largest_bits(blocks).view(torch.float32) / 127.0
        scales = torch.where((127.0 * scales).isinf(), (scales.view(torch.int32) - 1).view(torch.float32), scales)
        quotients = torch.where(scales >= 2.0**-126, blocks * (1.0 / scales), blocks / scales)
        quotients = torch.where(scales > 0.0, quotients, 0.0)
        if codec.stochastic:
            below = quotients.floor()
            levels = below + (_drawn(seed, blocks.numel(), values.device).view_as(blocks) < quotients - below)
        else:
            levels = quotients.round()
        codes = levels.clamp(-127.0, 127.0).to(torch.int8).view(-1)[: values.numel()]
        return torch.cat([_filled(_raw(codes)), _raw(scales)])

    def decode(self, section: Tensor, count: int) -> Tensor:
        blocks = _blocks(section[:count].view(torch.int8).to(torch.float32))
        scales = _cast(section[padded(count) :], torch.float32)
        return (blocks * scales[:, None]).view(-1)[:count]


_FORMATS: dict[int, _Format] = {
    Fp32().value_id: _Fp32(),
    Fp16().value_id: _Fp16(),
    Bf16().value_id: _Bf16(),
    Int8().value_id: _Int8(),
}


def _encode_sparse(codec: TopK, values: Tensor, seed: int) -> Tensor:
    num_elements = values.numel()
    count = codec.contract.num_sent(num_elements)
    magnitudes = values.view(torch.int32) & 0x7FFFFFFF
    positions = magnitudes.sort(descending=True, stable=True).indices[:count].sort().values
    inner = codec.values
    section = _FORMATS[inner.value_id].encode(inner, values[positions], seed)
    gaps, bitmap = _write_gaps(positions), _write_bitmap(positions, num_elements)
    index, chosen = (GAPS, gaps) if gaps.numel() <= bitmap.numel() else (BITMAP, bitmap)
    header = Header(SPARSE, inner.value_id, index, inner.block_log2, num_elements, count)
    return _joined(header, torch.cat([chosen, section]))


def _write_gaps(positions: Tensor) -> Tensor:
    gaps = positions.diff(prepend=positions.new_full((1,), -1)) - 1
    runs = torch.split(gaps, _RUN) if gaps.numel() else ()
    widths = [int(run.max()).bit_length() for run in runs]
    words = [_packed_bits(_bits(run, width).view(-1)) for run, width in zip(runs, widths, strict=True)]
    return torch.cat([_filled(torch.tensor(widths, dtype=torch.uint8, device=positions.device)), *words])


def _read_gaps(sections: Tensor, num_elements: int, count: int) -> tuple[Tensor, int]:
    widths = sections[: -(-count // _RUN)].tolist()
    start = padded(len(widths))
    gaps = [torch.zeros(0, dtype=torch.int64, device=sections.device)]
    for run, width in enumerate(widths):
        length = min(_RUN, count - run * _RUN)
        num_bytes = 4 * (-(-length * width // 32))
        bits = _bits(sections[start : start + num_bytes].to(torch.int64), 8).view(-1)[: length * width]
        gaps.append((bits.view(length, width) << torch.arange(width, device=sections.device)).sum(1))
        start += num_bytes
    return (torch.cat(gaps) + 1).cumsum(0) - 1, start


def _write_bitmap(positions: Tensor, num_elements: int) -> Tensor:
    bits = torch.zeros(num_elements, dtype=torch.int64, device=positions.device)
    bits[positions] = 1
    return _packed_bits(bits)


def _read_bitmap(sections: Tensor, num_elements: int, count: int) -> tuple[Tensor, int]:
    num_bytes = 4 * (-(-num_elements // 32))
    return _bits(sections[:num_bytes].to(torch.int64), 8).view(-1).nonzero().view(-1), num_bytes


def _bits(words: Tensor, width: int) -> Tensor:
    """The lowest `width` bits of each word, low bits first, int64 [count, width]."""
    return words[:, None] >> torch.arange(width, device=words.device) & 1


def _packed_bits(bits: Tensor) -> Tensor:
    """Bits packed low first, with zeros up to four bytes, uint8."""
    bits = torch.nn.functional.pad(bits, (0, -bits.numel() % 32)).view(-1, 8)
    return (bits << torch.arange(8, device=bits.device)).sum(1).to(torch.uint8)


def _joined(header: Header, sections: Tensor) -> Tensor:
    start = np.empty(HEADER_BYTES, np.uint8)
    header.write(start)
    return torch.cat([torch.from_numpy(start).to(sections.device), sections])


def _filled(section: Tensor) -> Tensor:
    """With zeros up to a multiple of four bytes."""
    return torch.nn.functional.pad(section, (0, -section.numel() % 4))


def _raw(values: Tensor) -> Tensor:
    """The bytes of a tensor, uint8."""
    return values.reshape(-1, 1).contiguous().view(torch.uint8).view(-1)


def _cast(section: Tensor, kind: torch.dtype) -> Tensor:
    """Bytes read as numbers of a type; torch views only aligned storage, so they are copied first."""
    return section.clone().view(-1, kind.itemsize).view(kind).view(-1)


def _blocks(values: Tensor) -> Tensor:
    """[num_blocks, 256], zeros behind the last value."""
    return torch.nn.functional.pad(values, (0, -values.numel() % _BLOCK)).view(-1, _BLOCK)


def _largest_bits(blocks: Tensor) -> Tensor:
    """The largest magnitude of each block as a bit pattern, int32 [num_blocks, 1]."""
    return (blocks.view(torch.int32) & 0x7FFFFFFF).amax(1, keepdim=True)


def _power_of_two(exponents: Tensor) -> Tensor:
    return ((exponents + 127) << 23).view(torch.float32)


def _drawn(seed: int, count: int, device: torch.device) -> Tensor:
    """Uniform in [0, 1) in steps of 2^-24, from a 32-bit hash of (seed, index)."""
    word = torch.arange(count, dtype=torch.int64, device=device) * 0x9E3779B9 & 0xFFFFFFFF ^ seed
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        word = (word ^ word >> shift) * factor & 0xFFFFFFFF
    return ((word ^ word >> 16) >> 8).to(torch.float32) * 2.0**-24
