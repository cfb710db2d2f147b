"""Codes of moments: what a decoded value is, beside the one that was encoded."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pushpull.compression import moment_kernels as kernels

Floats = NDArray[np.float32]
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**120), max_value=2.0**120)
VALUES = arrays(np.float32, st.integers(1, 600), elements=FINITE)
SEEDS = st.integers(0, 2**32 - 1)


def through(values: Floats, seed: int, signed: bool) -> Floats:
    """Encoded and decoded."""
    codes = np.empty(values.size, dtype=np.uint8)
    tops = np.empty(kernels.num_groups(values.size), dtype=np.int16)
    decoded = np.empty_like(values)
    if signed:
        kernels.encode_signed(values, codes, tops, np.uint32(seed))
        kernels.decode_signed(codes, tops, decoded)
    else:
        kernels.encode_unsigned(values, codes, tops, np.uint32(seed))
        kernels.decode_unsigned(codes, tops, decoded)
    return decoded


def largest_of_group(values: Floats) -> Floats:
    """Of each element's group, in its place."""
    groups = range(0, values.size, kernels.GROUP)
    largest = [
        np.full(min(kernels.GROUP, values.size - start), abs(values[start : start + kernels.GROUP]).max())
        for start in groups
    ]
    return np.concatenate(largest).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(VALUES, SEEDS)
def test_a_second_moment_keeps_an_eighth_and_only_zero_becomes_zero(values: Floats, seed: int) -> None:
    values = abs(values)
    decoded, largest = through(values, seed, signed=False), largest_of_group(values).astype(np.float64)
    floor = np.maximum(largest * 2.0**-31, 2.0**-126)
    in_range = values >= floor
    assert (abs(decoded - values)[in_range] <= values[in_range] / 8).all()
    below = ~in_range & (values > 2.0**-126)
    assert (decoded[below] > 0).all()
    assert (decoded[below] <= 2 * floor[below]).all()
    assert (decoded[values == 0] == 0).all()


@settings(max_examples=60, deadline=None)
@given(VALUES, SEEDS)
def test_a_first_moment_keeps_an_eighth_and_its_sign(values: Floats, seed: int) -> None:
    decoded, largest = through(values, seed, signed=True), largest_of_group(values).astype(np.float64)
    floor = np.maximum(largest * 2.0**-15, 2.0**-126)
    in_range = abs(values) >= floor
    assert (abs(decoded - values)[in_range] <= abs(values)[in_range] / 8).all()
    assert (abs(decoded)[~in_range] <= 2 * floor[~in_range]).all()
    assert (decoded * np.sign(values) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(VALUES, SEEDS, SEEDS, st.booleans())
def test_what_was_decoded_is_stored_without_error(values: Floats, seed: int, other_seed: int, signed: bool) -> None:
    once = through(values if signed else abs(values), seed, signed)
    np.testing.assert_array_equal(through(once, other_seed, signed), once)


@settings(max_examples=30, deadline=None)
@given(VALUES, SEEDS, st.booleans())
def test_the_same_seed_gives_the_same_codes(values: Floats, seed: int, signed: bool) -> None:
    values = values if signed else abs(values)
    np.testing.assert_array_equal(through(values, seed, signed), through(values, seed, signed))


@pytest.mark.parametrize("signed", [True, False])
def test_rounding_keeps_the_mean(signed: bool) -> None:
    """The error of a mean of n draws falls as 1 / sqrt(n); the limit is six standard deviations."""
    values = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    values[1:10] = values.max() * 2.0**-17 if signed else values[1:10]
    values = values if signed else values**2
    count = 4000
    mean = sum(through(values, seed, signed).astype(np.float64) for seed in range(count)) / count
    step = np.maximum(abs(values) / 8, abs(values).max() * 2.0**-14)
    assert (abs(mean - values) <= 6 * step / 2 / np.sqrt(count)).all()


def follow(update: Callable[[float], float], start: float, num_steps: int) -> float:
    """The mean of 256 second moments that are stored in 8 bits between updates."""
    values = np.full(256, start, dtype=np.float32)
    for step in range(num_steps):
        values = through(np.array([update(float(value)) for value in values], dtype=np.float32), step, signed=False)
    return float(values.mean())


def test_a_second_moment_decays_by_a_thousandth_a_step_although_codes_are_further_apart() -> None:
    assert follow(lambda value: 0.999 * value, 1.0, 700) == pytest.approx(0.999**700, rel=0.1)
