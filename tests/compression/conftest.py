"""Fixtures of the codec tests: every specification worth testing, and encoding with one call."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pushpull.compression.codec import Codec
from pushpull.compression.frame import parse_frame
from pushpull.compression.spec import DECODERS, example_specs, parse_codec
from pushpull.compression.warm_up import warm_up

Floats = NDArray[np.float32]

DENSITIES = ("0.004", "0.05", "0.4", "1")


def every_spec() -> list[str]:
    """All examples of the table, and top-k at several densities over every value format."""
    sparse = [f"topk:{density}+{values.spec}" for density in DENSITIES for values in DECODERS.values()]
    return sorted({*example_specs(), *sparse, "topk:0.05+int8:stochastic"})


@pytest.fixture(scope="session", params=every_spec())
def codec(request: pytest.FixtureRequest) -> Codec:
    codec = parse_codec(request.param)
    warm_up(codec)
    return codec


@pytest.fixture(scope="session", params=[spec for spec in example_specs() if "+" not in spec])
def dense_codec(request: pytest.FixtureRequest) -> Codec:
    codec = parse_codec(request.param)
    warm_up(codec)
    return codec


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    def encode(codec: Codec, values: Floats, seed: int = 0, residual: tuple[Floats, Floats] | None = None) -> bytes:
        out = np.empty(codec.frame_bound(values.size), np.uint8)
        return out[: codec.encode(values, out, seed=seed, residual=residual)].tobytes()

    return encode


@pytest.fixture(scope="session")
def decoded() -> Callable[..., Floats]:
    def decode(frame: bytes, num_elements: int) -> Floats:
        out = np.full(num_elements, np.nan, np.float32)
        parse_frame(frame, num_elements).decode_into(out)
        return out

    return decode
