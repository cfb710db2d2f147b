"""Checksums notice what scripts do to tensors, wherever the tensors lie."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pushpull.compression.checksum import RUN, checksum, checksum_of_tensor

SIZES = (0, 1, 2, 7, RUN - 1, RUN, RUN + 1, 5 * RUN + 3)


def values_of(size: int) -> np.ndarray:
    return np.random.default_rng(size).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("size", [*SIZES, (1 << 20) + 5])
def test_the_kernel_and_torch_give_the_same_number(size: int) -> None:
    values = values_of(size)
    assert checksum(values) == checksum_of_tensor(torch.from_numpy(values))


def scaled(values: np.ndarray) -> None:
    values *= np.float32(0.5)


def negated(values: np.ndarray) -> None:
    values *= np.float32(-1)


def zeroed(values: np.ndarray) -> None:
    values[:] = 0


def reversed_in_place(values: np.ndarray) -> None:
    values[:] = values[::-1].copy()


def shifted(values: np.ndarray) -> None:
    values[:] = np.roll(values, 1)


def runs_swapped(values: np.ndarray) -> None:
    values[: 2 * RUN] = np.roll(values[: 2 * RUN], RUN)


def clipped(values: np.ndarray) -> None:
    np.clip(values, -1.5, 1.5, out=values)


def one_to_nan(values: np.ndarray) -> None:
    values[values.size // 2] = np.nan


@pytest.mark.parametrize(
    "change", [scaled, negated, zeroed, reversed_in_place, shifted, runs_swapped, clipped, one_to_nan]
)
def test_what_scripts_do_to_a_tensor_is_noticed(change: Callable[[np.ndarray], None]) -> None:
    values = values_of(5 * RUN + 3)
    before = checksum(values)
    change(values)
    assert checksum(values) != before


def test_any_one_bit_and_any_two_neighbours_that_change_places_are_noticed() -> None:
    values = values_of(2 * RUN + 9)
    before, words = checksum(values), values.view(np.uint32)
    for place in range(values.size):
        words[place] ^= np.uint32(1 << (place % 32))
        assert checksum(values) != before
        words[place] ^= np.uint32(1 << (place % 32))
    for place in range(values.size - 1):
        words[[place, place + 1]] = words[[place + 1, place]]
        assert checksum(values) != before
        words[[place, place + 1]] = words[[place + 1, place]]
    assert checksum(values) == before


def test_minus_zero_is_not_zero_and_equal_bits_have_equal_checksums() -> None:
    assert checksum(np.zeros(5, np.float32)) != checksum(-np.zeros(5, np.float32))
    nan = np.full(5, np.nan, np.float32)
    assert checksum(nan) == checksum(nan.copy())


@pytest.mark.parametrize("pattern", ["constant", "ramp", "alternating"])
def test_regular_values_hide_no_regular_change(pattern: str) -> None:
    size = 4 * RUN
    ramp = np.arange(size, dtype=np.float32)
    values = {"constant": np.ones(size, np.float32), "ramp": ramp, "alternating": np.where(ramp % 2, 1, -1)}[pattern]
    values = values.astype(np.float32)
    changed = [values + 1, values * 2, -values, values[::-1].copy(), np.roll(values, 1), np.abs(values)]
    different = [other for other in changed if not np.array_equal(other, values)]
    assert all(checksum(other) != checksum(values) for other in different)
