"""Learning the codebook of vector quantisation from a sample of a block's vectors, and keeping it between frames."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..kernels import Floats, draw, kernel
from .vq_kernels import CHUNK, WIDTH, half_norms, measure, nearest, squared_norms

_SAMPLES_PER_CODEWORD = 32
_FEWEST_SAMPLES = 8192
_FIRST_ROUNDS, _REFRESH_ROUNDS = 8, 3
"""Of Lloyd's algorithm: from new codewords, and from those of the frames before."""
_REFRESH_FRAMES = 32
_WORSE_FACTOR, _WORSE_TERM = 1.2, 1e-3
"""How far the relative squared error may rise above what it was."""
_SEED = np.uint32(0x5EED)
"""The same for all frames: what is learned depends on the values only."""

_LARGEST_FLOAT = float(np.finfo(np.float32).max)

_F = np.float32
_U = np.uint32


@dataclass(frozen=True, slots=True)
class Block:
    """What is known of values before they are encoded; not all of them are zero."""

    absmax: float
    squares: float
    """Sum of squares."""
    root_mean_square: float
    dim: int
    largest: int
    """Number of the vector of largest norm."""

    @classmethod
    def of(cls, values: Floats, absmax: float, dim: int) -> "Block":
        squares, largest = measure(values, dim)
        return cls(absmax, squares, math.sqrt(squares / values.size), dim, largest)

    @property
    def factor(self) -> float:
        """The power of two that brings the largest magnitude to about one: then no product overflows, and those
        that underflow do not matter."""
        return 2.0 ** -min(max(math.frexp(self.absmax)[1] - 1, -126), 126)

    def relative_error(self, score: float) -> float:
        """||D - x||^2 / ||x||^2 from the sum of scores that `encode` gives."""
        return 1.0 + 2.0 * score / (self.factor**2 * self.squares)


@dataclass(frozen=True, slots=True)
class Codebook:
    """What an encoder keeps of a block: codewords in units of its root mean square, float64 [codewords, dim].

    The first is zero, the second is replaced in every frame by the vector of largest norm.
    """

    codewords: NDArray[np.float64]
    first_error: float = math.inf
    """Relative squared error of the first frame."""
    last_error: float = 0.0
    num_frames: int = 0

    @property
    def is_old(self) -> bool:
        return self.num_frames >= _REFRESH_FRAMES

    @property
    def fits(self) -> bool:
        """Whether the last frame was about as good as the first."""
        return self.last_error <= max(_WORSE_FACTOR * self.first_error, self.first_error + _WORSE_TERM)

    def after(self, error: float) -> "Codebook":
        """After one more frame with that relative squared error."""
        first = self.first_error if self.num_frames else error
        return replace(self, first_error=first, last_error=error, num_frames=self.num_frames + 1)

    def write(self, out: Floats, values: Floats, block: Block) -> None:
        """The codewords as they are sent, float32 [codewords, dim]."""
        out[:] = np.clip(self.codewords * block.root_mean_square, -block.absmax, block.absmax)
        first = block.largest * block.dim
        exact = values[first : first + block.dim]
        out[:2] = 0.0
        out[1, : exact.size] = exact


def codebook_of(values: Floats, block: Block, num_codewords: int, known: Codebook | None) -> Codebook:
    """The one that is known, or one learned from it if it is old, or from nothing if it does not fit any more."""
    if known is None or known.codewords.shape != (num_codewords, block.dim) or not known.fits:
        start, num_rounds = Codebook(np.zeros((num_codewords, block.dim))), _FIRST_ROUNDS
    elif known.is_old:
        start, num_rounds = known, _REFRESH_ROUNDS
    else:
        return known
    book: Floats = np.empty((num_codewords, block.dim), np.float32)
    start.write(book, values, block)
    book = normalised(book, block)
    most, num_vectors = max(_FEWEST_SAMPLES, _SAMPLES_PER_CODEWORD * num_codewords), -(-values.size // block.dim)
    vectors = sample(values, block.dim, book.shape[1], -(-min(most, num_vectors) // CHUNK), np.float32(block.factor))
    if start is not known:
        spread(vectors, book, _SEED)
    learn(vectors, book, num_rounds)
    return Codebook(book[:, : block.dim].astype(np.float64) / (block.factor * block.root_mean_square))


def normalised(book: Floats, block: Block) -> Floats:
    """Codewords times the block's factor, with zeros up to the width that the kernels work with.

    All zero, so that none is chosen, next to the largest float: what they leave out could overflow.
    """
    out: Floats = np.zeros((len(book), max(WIDTH, block.dim)), np.float32)
    if block.absmax <= _LARGEST_FLOAT / 2:
        np.multiply(book, np.float32(block.factor), out=out[:, : block.dim])
    return out


@kernel
def sample(values: Floats, dim: int, width: int, num_chunks: int, factor: np.float32) -> Floats:
    """A strided sample of the vectors, times `factor`, float32 [num_chunks, width >= dim, CHUNK]; if there are
    fewer, all of them, then zeros."""
    chosen = np.zeros((num_chunks, width, CHUNK), np.float32)
    num_vectors = (values.size + dim - 1) // dim
    # An odd stride does not fall into step with rows whose length is a power of two.
    stride = (max(1, num_vectors // (num_chunks * CHUNK)) - 1) | 1
    for place in range(min(num_vectors, num_chunks * CHUNK)):
        start = place * stride * dim
        for d in range(min(dim, values.size - start)):
            chosen[place // CHUNK, d, place % CHUNK] = values[start + d] * factor
    return chosen


@kernel
def spread(vectors: Floats, book: Floats, seed: np.uint32) -> None:
    """Start from the first two codewords: each further one is a vector drawn with a chance that grows with its
    distance to those before (k-means++, Arthur and Vassilvitskii 2007, but each vector draws once)."""
    distances, weights = np.empty((len(vectors), CHUNK), np.float32), np.empty((len(vectors), CHUNK), np.float32)
    for chunk in range(len(vectors)):
        squared_norms(vectors[chunk], distances[chunk])
        for j in range(CHUNK):
            chance = draw(seed, _U(chunk * CHUNK + j))
            weights[chunk, j] = _F(1) / _F(_F(2.0**-24) - np.log(_F(1) - chance))
    keys = np.empty((len(vectors), CHUNK), np.float32)
    for c in range(1, len(book)):
        if c > 1:
            _take(vectors, keys, book[c])
        for chunk in range(len(vectors)):
            _approach(vectors[chunk], book[c], distances[chunk])
            for j in range(CHUNK):
                keys[chunk, j] = distances[chunk, j] * weights[chunk, j]


@kernel
def learn(vectors: Floats, book: Floats, num_rounds: int) -> None:
    """Lloyd's algorithm on vectors float32 [num_chunks, width, CHUNK]: each codeword of `book` [even, width] but
    the first two, which stay, moves to the mean of the vectors it is nearest to; if there are none, to the vector
    that is furthest from its codeword."""
    errors = np.empty((len(vectors), CHUNK), np.float32)
    sums, counts = np.empty((len(book), book.shape[1])), np.empty(len(book), np.int64)
    scores, codes = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.int32)
    for _ in range(num_rounds):
        halves = half_norms(book)
        sums[:], counts[:] = 0.0, 0
        for chunk in range(len(vectors)):
            planes = vectors[chunk]
            nearest(planes, book, halves, scores, codes)
            squared_norms(planes, errors[chunk])
            for j in range(CHUNK):
                errors[chunk, j] += _F(2) * scores[j]
                counts[codes[j]] += 1
                for d in range(book.shape[1]):
                    sums[codes[j], d] += planes[d, j]
        for c in range(2, len(book)):
            if counts[c]:
                for d in range(book.shape[1]):
                    book[c, d] = sums[c, d] / counts[c]
            else:
                _take(vectors, errors, book[c])


@kernel
def _approach(planes: Floats, codeword: Floats, distances: Floats) -> None:
    """distances = min(distances, |vector - codeword|^2)."""
    sums = np.zeros(CHUNK, np.float32)
    for d in range(len(planes)):
        plane = planes[d]
        for j in range(CHUNK):
            gap = _F(plane[j] - codeword[d])
            sums[j] += gap * gap
    for j in range(CHUNK):
        distances[j] = sums[j] if sums[j] < distances[j] else distances[j]


@kernel
def _take(vectors: Floats, keys: Floats, codeword: Floats) -> None:
    """The vector of the largest key becomes the codeword, and its key zero."""
    place = np.argmax(keys)
    chunk, column = place // CHUNK, place % CHUNK
    for d in range(codeword.size):
        codeword[d] = vectors[chunk, d, column]
    keys[chunk, column] = _F(0)
