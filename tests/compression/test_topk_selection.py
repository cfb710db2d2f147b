"""Top-k selects exactly the largest magnitudes, whatever the sample says, and names them in few bits."""

import numpy as np
import pytest

from pushpull.compression.selections.indices import BITMAP, GAPS, index_bound, read_index, write_index
from pushpull.compression.spec import parse_codec
from pushpull.protos.errors import NonFiniteError


def shuffled(size):
    return np.random.default_rng(3).standard_normal(size)


def all_equal(size):
    return np.ones(size)


def two_levels(size):
    return np.where(np.arange(size) % 3, 1.0, 2.0)


def sorted_up(size):
    return np.arange(size, dtype=float)


def large_where_nobody_samples(size):
    """Periodic, so that a strided sample may see only one phase."""
    return np.where(np.arange(size) % 64 == 63, 5.0 + np.arange(size) / size, 0.1)


def large_where_everybody_samples(size):
    stride = size // max(1, min(size // 64, 16384))
    return np.where(np.arange(size) % ((stride - 1) | 1) == 0, 5.0, np.arange(size) / size)


@pytest.mark.parametrize("density", [0.0001, 0.001, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 100, 4095, 4096, 70_001, 1 << 18])
@pytest.mark.parametrize(
    "make",
    [shuffled, all_equal, two_levels, sorted_up, large_where_nobody_samples, large_where_everybody_samples],
)
def test_the_largest_magnitudes_are_sent_ties_to_the_lowest_index(make, size, density, encoded, decoded):
    codec = parse_codec(f"topk:{density}+fp32")
    signs = np.where(np.random.default_rng(size).random(size) < 0.5, -1, 1)
    values = (signs * (make(size) + 1e-3)).astype(np.float32)
    num_sent = max(1, int(density * size + 0.5))
    expected = np.sort(np.argsort(-np.abs(values), kind="stable")[:num_sent])
    result = decoded(encoded(codec, values), size)
    np.testing.assert_array_equal(np.flatnonzero(result), expected)
    np.testing.assert_array_equal(result[expected], values[expected])


@pytest.mark.parametrize("spec", ["topk:0.001+fp32", "topk:0.01+int8", "topk:0.2+sign", "threshold:0.5+fp16"])
@pytest.mark.parametrize("change", [1.0, 1.02, 1.3, 50.0, 0.97, 0.1, 0.0])
def test_what_is_remembered_of_the_last_step_changes_nothing(spec, change, encoded):
    """Sums with a residual, while magnitudes stay, grow, fall or vanish."""
    codec, size, memo = parse_codec(spec), 70_001, {}
    committed = np.random.default_rng(1).standard_normal(size).astype(np.float32) * np.float32(0.1)
    for step in range(4):
        scale = np.float32(change**step)
        values = np.random.default_rng(step).standard_normal(size).astype(np.float32) * scale
        held = committed * scale
        pending, expected = np.empty_like(values), np.empty_like(values)
        out = np.empty(codec.frame_bound(size), np.uint8)
        num_bytes = codec.encode(values, out, residual=(held, pending), memo=memo)
        assert out[:num_bytes].tobytes() == encoded(codec, values, residual=(held, expected))
        np.testing.assert_array_equal(pending, expected)


@pytest.mark.parametrize("spec", ["topk:0.01+int8", "threshold:0.5+fp16"])
@pytest.mark.parametrize("place", [0, 4095, 4096, 9_999])
def test_a_sum_that_is_not_finite_is_found_also_with_a_memo(spec, place):
    codec, memo = parse_codec(spec), {}
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    residual = np.zeros_like(values), np.empty_like(values)
    out = np.empty(codec.frame_bound(values.size), np.uint8)
    codec.encode(values, out, residual=residual, memo=memo)
    values[place] = np.nan
    with pytest.raises(NonFiniteError, match=f"value {place} of 10000"):
        codec.encode(values, out, residual=residual, memo=memo)


@pytest.mark.parametrize(
    ("density", "value_bits", "most_bits"), [(0.001, 16, 30.5), (0.01, 16, 26), (0.01, 8, 18), (0.1, 8, 15)]
)
def test_an_element_that_is_sent_takes_few_bits(density, value_bits, most_bits, encoded):
    size = 1 << 20
    values = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    frame = encoded(parse_codec(f"topk:{density}+{'fp16' if value_bits == 16 else 'int8'}"), values)
    assert 8 * len(frame) / (density * size) < most_bits


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000, 40_000])
@pytest.mark.parametrize("density", [0.0, 0.002, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("pattern", ["first", "last", "spread", "random"])
def test_positions_survive_in_the_shorter_form(size, density, pattern):
    count = int(size * density)
    chosen = {
        "first": np.arange(count),
        "last": np.arange(size - count, size),
        "spread": np.linspace(0, size - 1, count).astype(int),
        "random": np.sort(np.random.default_rng(count).permutation(size)[:count]),
    }[pattern].astype(np.uint32)
    out = np.full(index_bound(size, count), 0xFF, np.uint8)
    index, num_bytes = write_index(chosen, size, out)
    assert num_bytes <= min(out.size, -(-size // 32) * 4)
    section = read_index(index, size, count, out[:num_bytes])
    np.testing.assert_array_equal(section.positions(), chosen)


def test_gaps_are_used_where_elements_are_rare_and_a_bitmap_where_they_are_not():
    def form(count):
        chosen = np.sort(np.random.default_rng(0).permutation(100_000)[:count]).astype(np.uint32)
        return write_index(chosen, 100_000, np.empty(index_bound(100_000, count), np.uint8))[0]

    assert (form(1000), form(40_000)) == (GAPS, BITMAP)


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_of_the_index_holds_for_the_widest_gaps(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 200_000))
    count = int(rng.integers(1, max(2, size // 50)))
    # One long gap in each run is what costs most.
    far = np.sort(rng.permutation(size)[:count])
    chosen = np.unique(np.where(np.arange(count) % 128 == 0, far, far - far % 97)).astype(np.uint32)
    out = np.empty(index_bound(size, chosen.size), np.uint8)
    assert write_index(chosen, size, out)[1] <= out.size
