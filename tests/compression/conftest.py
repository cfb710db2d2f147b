"""Fixtures of the codec tests: every specification worth testing, and encoding with one call."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pushpull.compression.codec import Codec
from pushpull.compression.frame import parse_frame
from pushpull.compression.spec import FAMILIES, SelectionFamily, StageFamily, ValueFamily, example_specs, parse_codec
from pushpull.compression.warm_up import warm_up
from pushpull.protos.errors import CodecError

Floats = NDArray[np.float32]

TOPK_DENSITIES = ("0.004", "0.05", "0.4", "1")


def every_spec() -> list[str]:
    """Every example of the table; every selection before every example of the values that it takes; top-k at more
    densities; and every last stage behind every value format."""
    values = [family.examples for family in FAMILIES if isinstance(family, ValueFamily)]
    selections = [
        example.partition("+")[0]
        for family in FAMILIES
        if isinstance(family, SelectionFamily)
        for example in family.examples
    ]
    stages = [family.name for family in FAMILIES if isinstance(family, StageFamily)]
    combined = [f"{selection}+{example}" for selection in selections for examples in values for example in examples[:2]]
    combined += [f"topk:{density}+{examples[0]}" for density in TOPK_DENSITIES for examples in values]
    combined += [f"{examples[0]}+{stage}" for examples in values for stage in stages]
    return sorted({*example_specs(), *filter(is_accepted, combined)})


def is_accepted(spec: str) -> bool:
    """Whether the parts go together; what is refused has its reasons in test_codec_spec.py."""
    try:
        parse_codec(spec)
    except CodecError:
        return False
    return True


def warm(spec: str) -> Codec:
    codec = parse_codec(spec)
    warm_up(codec)
    return codec


@pytest.fixture(scope="session", params=every_spec())
def codec(request: pytest.FixtureRequest) -> Codec:
    return warm(request.param)


@pytest.fixture(scope="session", params=[spec for spec in every_spec() if not parse_codec(spec).contract.deterministic])
def drawing_codec(request: pytest.FixtureRequest) -> Codec:
    return warm(request.param)


@pytest.fixture(
    scope="session", params=[spec for spec in every_spec() if parse_codec(spec).contract.admits_error_feedback]
)
def contracting_codec(request: pytest.FixtureRequest) -> Codec:
    return warm(request.param)


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
