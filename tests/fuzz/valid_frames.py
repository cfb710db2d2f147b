"""Valid frames of every codec, small and large: what the mutations start from."""

from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np
from numpy.typing import NDArray

from pushpull.compression.header import seal
from pushpull.compression.spec import example_specs, parse_codec

Floats = NDArray[np.float32]

SIZES = (0, 1, 2, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1000, 5000)
"""Elements: around the edges of words, runs and quantiser blocks, and one block of several of each."""

DENSER_SPECS = ("topk:0.4+int8", "topk:1+fp32", "topk:1+fp32+zstd")
"""Dense enough for a bitmap in place of gaps, and for the most memory that a reader may want."""


@dataclass(frozen=True)
class ValidFrame:
    """A frame that its codec wrote."""

    spec: str
    num_elements: int
    values: str
    """What the encoded values were like, one of `VALUES`."""
    contents: bytes

    def __str__(self) -> str:
        return f"{self.spec} frame of {self.num_elements} {self.values} values"

    @cached_property
    def sealed(self) -> bytes:
        """The same frame with a checksum."""
        return sealed(self.contents)


def sealed(contents: bytes | bytearray) -> bytes:
    """The frame with a checksum of what it holds now."""
    frame = np.frombuffer(contents, np.uint8).copy()
    seal(frame)
    return frame.tobytes()


def _normal(rng: np.random.Generator, size: int) -> Floats:
    return rng.standard_normal(size).astype(np.float32)


def _heavy_tailed(rng: np.random.Generator, size: int) -> Floats:
    return rng.standard_cauchy(size).clip(-1e30, 1e30).astype(np.float32)


def _zeros(rng: np.random.Generator, size: int) -> Floats:
    return np.zeros(size, np.float32)


def _huge(rng: np.random.Generator, size: int) -> Floats:
    return rng.choice(np.array([3.4028235e38, -3.4028235e38, 6e4, -0.0], np.float32), size)


def _subnormal(rng: np.random.Generator, size: int) -> Floats:
    return (rng.integers(-9, 10, size) * 2.0**-149).astype(np.float32)


def _rows(rng: np.random.Generator, size: int) -> Floats:
    """Some of them zero: of an embedding."""
    return (rng.standard_normal(size) * (np.arange(size) // 40 % 3 == 1)).astype(np.float32)


VALUES = {
    "normal": _normal,
    "heavy": _heavy_tailed,
    "zeros": _zeros,
    "huge": _huge,
    "subnormal": _subnormal,
    "rows": _rows,
}


def encode_frame(spec: str, num_elements: int, values: str) -> ValidFrame:
    """The frame of `num_elements` values of this kind."""
    codec = parse_codec(spec)
    out = np.empty(codec.frame_bound(num_elements), np.uint8)
    num_bytes = codec.encode(VALUES[values](np.random.default_rng(num_elements), num_elements), out, seed=7)
    return ValidFrame(spec, num_elements, values, out[:num_bytes].tobytes())


class Pool:
    """Frames to draw from: each codec as often as any other, whatever the number of its frames."""

    def __init__(self, specs: list[str], sizes: tuple[int, ...] = SIZES) -> None:
        self.frames = [encode_frame(spec, size, kind) for spec in specs for size in sizes for kind in VALUES]
        self.most_bytes = max(len(frame.contents) for frame in self.frames)

    def draw(self, rng: Random) -> ValidFrame:
        return self.frames[int(rng.random() * len(self.frames))]


def every_frame() -> Pool:
    """The pool of all codecs of the table."""
    return Pool([*example_specs(), *DENSER_SPECS])
