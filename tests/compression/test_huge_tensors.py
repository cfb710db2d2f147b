"""Tensors of a thousand million elements: 32-bit places, lengths beyond 2^31 bytes. Needs about 10 GiB."""

import numpy as np
import pytest

from pushpull.compression.frame import parse_frame
from pushpull.compression.spec import parse_codec

SIZE = 1_000_000_007
PERIOD = 1 << 20


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    filled = np.empty(SIZE, np.float32)
    pattern = np.random.default_rng(0).standard_normal(PERIOD).astype(np.float32)
    for start in range(0, SIZE, PERIOD):
        filled[start : start + PERIOD] = pattern[: SIZE - start]
    filled[-1] = 9.0
    return filled


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["fp16", "int8", "int4", "int2", "sign", "topk:0.001+int8", "randk:0.001+fp32"])
def test_a_thousand_million_elements_are_encoded_like_any_others(spec, values):
    codec = parse_codec(spec)
    out = np.empty(codec.frame_bound(SIZE), np.uint8)
    num_bytes = codec.encode(values, out, seed=3)
    frame = parse_frame(out[:num_bytes].data, SIZE)
    total = np.zeros(SIZE, np.float32)
    frame.add_to(total)
    sent = frame.sent_positions() if spec.startswith(("topk", "randk")) else np.arange(SIZE - 1000, SIZE)
    expected = values[sent].astype(np.float64) * codec.contract.factor(SIZE)
    allowed = codec.contract.max_error(9.0)
    assert np.abs(total[sent] - expected).max() <= allowed + 1e-6 * np.abs(expected).max()
    if spec.startswith("topk"):
        assert sent[-1] == SIZE - 1
        assert sent.size == codec.contract.band(SIZE)[0]
