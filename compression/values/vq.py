"""vq: vectors of elements replaced by the nearest of a few that are learned from the block and sent with it."""

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from ...protos.errors import CodecError, FrameError, NonFiniteError
from ..codec import Bytes, DenseCodec, Floats, Memo, Residual, check_padding, frozen, padded
from ..contract import Contract
from ..kernels import FINITE, INFINITY, NOT_FINITE, largest_bits
from ..reference import blocks_of, cast, filled, packed_blocks, raw, unpacked_blocks
from . import vq_kernels as kernels
from .packing import packed_bytes
from .vq_kernels import CHUNK
from .vq_learning import Block, codebook_of, normalised
from .without_zero import HAS_ZERO, WithoutZero

VALUE_ID = 7

_DIMS = {1 << log2: log2 for log2 in range(1, 5)}
_CODEWORDS = {1 << log2: log2 for log2 in range(2, 9)}
_VECTORS_PER_CODEWORD = 8
"""At least, so that the codebook of a small block takes no more than an eighth of its bytes."""
_REFERENCE_ROUNDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorContract(Contract):
    """No vector is further from its codeword than from zero, and the vector of largest norm is exact."""

    dim: int

    def delta(self, num_elements: int) -> float | None:
        return 1.0 / max(1, -(-num_elements // self.dim))


@dataclass(frozen=True, slots=True)
class VectorQuantiser(WithoutZero):
    """D = for each vector of `dim` elements, zeros behind the last, the nearest codeword. Elements that are zero belong to no
    vector (values/without_zero.py).

    Codewords come from Lloyd's algorithm (k-means, 1957) on a sample of the block's vectors, but for two: the
    first is zero, so that no vector is replaced by something further away, and the second is the vector of
    largest norm, without any error. So every block contracts, by 1 / (number of vectors) at worst; no bound holds
    for all sizes, and selections, which need one, refuse these values. With the memory of a block its codebook is
    kept, in units of the block's root mean square, and learned again now and then or when it does not fit any more.

    Section: the codewords, float32 [num_codewords(count), dim], then for each vector the number of its codeword:
    in two, four or eight bits, packed (packing.py) in chunks of `CHUNK` vectors; zeros up to four bytes.
    """

    dim_log2: int
    codewords_log2: int

    @property
    def spec(self) -> str:
        return f"vq:{self.dim}x{1 << self.codewords_log2}"

    @property
    def contract(self) -> Contract:
        # The factor is for the rounding of this number itself: no vector's error exceeds its norm.
        return VectorContract(relative_error=math.sqrt(self.dim) * (1.0 + 2.0**-40), squared_error=1.0, dim=self.dim)

    @property
    def exact_bytes(self) -> bool:
        return False

    @property
    def value_id(self) -> int:
        return VALUE_ID

    @property
    def parameter(self) -> int:
        return self.dim_log2 << 4 | self.codewords_log2

    @property
    def dim(self) -> int:
        """Elements of a vector."""
        return 1 << self.dim_log2

    @property
    def bits(self) -> int:
        """Of a code: those that pack into bytes."""
        return 2 if self.codewords_log2 <= 2 else 4 if self.codewords_log2 <= 4 else 8

    def num_vectors(self, count: int) -> int:
        return -(-count // self.dim)

    def num_codewords(self, count: int) -> int:
        """Codewords in the section of `count` values: an even number, fewer than the specification says if the
        block is small, none for none."""
        most = self.num_vectors(count) // _VECTORS_PER_CODEWORD & ~1
        return min(1 << self.codewords_log2, max(2, most)) if count else 0

    def section_bytes(self, count: int) -> int:
        num_code_bytes = packed_bytes(self.num_vectors(count), CHUNK, self.bits)
        return 4 * self.num_codewords(count) * self.dim + padded(num_code_bytes)

    def write_section(
        self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None
    ) -> int:
        return self.write_then_leave(frozen(values), section, residual, lambda total: self._write(total, section, memo))

    def check_section(self, section: Bytes, count: int) -> None:
        book, packed, padding = self._parts(section, count)
        check_padding(padding)
        finding = kernels.check(book, packed, self.num_vectors(count), self.num_codewords(count), self.bits)
        if finding == NOT_FINITE:
            raise NonFiniteError(f"a {self.spec} frame has a codeword that is not finite")
        if finding != FINITE:
            raise FrameError(
                f"a {self.spec} frame of {self.num_codewords(count)} codewords has a code beyond the last of them, "
                "or one behind the last vector"
            )

    def decode_section(self, section: Bytes, out: Floats, scale: np.float32) -> None:
        book, packed, _ = self._parts(section, out.size)
        kernels.decode(book, packed, out, scale, self.dim, self.bits)

    def add_section(self, section: Bytes, accumulator: Floats, scale: np.float32) -> None:
        book, packed, _ = self._parts(section, accumulator.size)
        kernels.add_to(book, packed, accumulator, scale, self.dim, self.bits)

    def reference_section(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        vectors = blocks_of(values, self.dim).double()
        if not len(vectors):
            return values.new_empty(0, dtype=torch.uint8)
        norms = vectors.square().sum(1)
        largest, order = norms.argmax(), norms.argsort()
        quantiles = torch.linspace(0, len(vectors) - 1, self.num_codewords(values.numel()), device=values.device)
        book = vectors[order[quantiles.long()]]
        for _ in range(_REFERENCE_ROUNDS):
            book[0], book[1] = 0.0, vectors[largest]
            codes = _nearest(vectors, book)
            sums = torch.zeros_like(book).index_add_(0, codes, vectors)
            counts = codes.bincount(minlength=len(book))[:, None]
            book = torch.where(counts > 0, sums / counts.clamp(min=1), book)
        book[0], book[1] = 0.0, vectors[largest]
        book = book.float()
        codes = _nearest(vectors, book.double())
        codes[largest] = 1
        packed = packed_blocks(blocks_of(codes, CHUNK), len(vectors), self.bits)
        return torch.cat([raw(book), filled(packed)])

    def reference_values(self, section: torch.Tensor, count: int) -> torch.Tensor:
        num_vectors, end = self.num_vectors(count), 4 * self.num_codewords(count) * self.dim
        book = cast(section[:end], torch.float32).view(-1, self.dim)
        packed = section[end : end + packed_bytes(num_vectors, CHUNK, self.bits)]
        return book[unpacked_blocks(packed, num_vectors, CHUNK, self.bits)].view(-1)[:count]

    def _parts(self, section: Bytes, count: int) -> tuple[Floats, NDArray[np.int8], Bytes]:
        """The codewords one behind the other, the packed codes, and the padding."""
        end = 4 * self.num_codewords(count) * self.dim
        used = end + packed_bytes(self.num_vectors(count), CHUNK, self.bits)
        return section[:end].view(np.float32), section[end:used].view(np.int8), section[used:]

    def _write(self, values: Floats, section: Bytes, memo: Memo | None) -> int:
        bits = largest_bits(values)
        if bits >= INFINITY:
            return NOT_FINITE
        if not values.all():
            return HAS_ZERO
        if not values.size:
            return FINITE
        flat, packed, padding = self._parts(section, values.size)
        padding[:] = 0
        block = Block.of(values, float(np.int32(bits).view(np.float32)), self.dim)
        known = None if memo is None else memo.get(VectorQuantiser)
        codebook = codebook_of(values, block, self.num_codewords(values.size), known)
        book = flat.reshape(-1, self.dim)
        codebook.write(book, values, block)
        score = kernels.encode(
            values, self.dim, np.float32(block.factor), normalised(book, block), packed, self.bits, block.largest
        )
        if memo is not None:
            memo[VectorQuantiser] = codebook.after(block.relative_error(score))
        return FINITE


def _nearest(vectors: torch.Tensor, book: torch.Tensor) -> torch.Tensor:
    """The number of the nearest codeword, the lowest of several; int64 [num_vectors]."""
    parts = [vectors[first : first + CHUNK] for first in range(0, len(vectors), CHUNK)]
    return torch.cat([(part[:, None] - book).square().sum(2).argmin(1) for part in parts])


def build(arguments: list[str]) -> DenseCodec:
    match = re.fullmatch(r"([1-9][0-9]{0,2})x([1-9][0-9]{0,2})", ":".join(arguments))
    sizes = [int(part) for part in match.groups()] if match else [0, 0]
    if sizes[0] not in _DIMS or sizes[1] not in _CODEWORDS:
        raise CodecError(
            f"vq takes the elements of a vector ({', '.join(map(str, _DIMS))}) and the number of codewords "
            f"({', '.join(map(str, _CODEWORDS))}), e.g. vq:4x256, not {':'.join(arguments)!r}"
        )
    return VectorQuantiser(_DIMS[sizes[0]], _CODEWORDS[sizes[1]])


@lru_cache
def read(parameter: int) -> DenseCodec:
    dim_log2, codewords_log2 = parameter >> 4, parameter & 15
    if dim_log2 not in _DIMS.values() or codewords_log2 not in _CODEWORDS.values():
        raise FrameError(f"a vq frame has 2^{codewords_log2} codewords of 2^{dim_log2} elements")
    return VectorQuantiser(dim_log2, codewords_log2)
