"""Telling whether memory was changed, without keeping a copy of it.

A checksum is taken of bit patterns, by place. One changed element, and two that change places within a run, always change
it; anything else (scaling, zeroing, signs, other values) goes unnoticed once in 2^32 times or so, unless somebody means to.
Values are cut into runs. A run's sum is that of its words times the keys of their places, so that the processor's vectors
multiply; sums are mixed and added up, each times an odd number of its own. All of it modulo 2^64.

Nothing here travels: both checksums that are compared are this process's.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from .kernels import Floats, bits_of, kernel, mix

RUN = 1024
"""Elements of a run: its keys stay in the processor's first cache."""
_MULTIPLIER = 0x9E3779B97F4A7C15
_SIGNED_MULTIPLIER = _MULTIPLIER - (1 << 64)
_TENSOR_ELEMENTS = 1 << 20
"""Elements that torch widens to 64 bits at a time."""


def checksum(values: Floats) -> int:
    """Of float32 [n], contiguous, in this computer's memory."""
    return int(_checksum(values, _keys()))


def checksum_of_tensor(values: torch.Tensor) -> int:
    """The same number, of float32 [n], contiguous, on the device where they lie."""
    words = values.detach().view(torch.int32)
    keys = torch.from_numpy(_keys().astype(np.int64)).to(words.device)
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for start in range(0, words.numel(), _TENSOR_ELEMENTS):
        part = words[start : start + _TENSOR_ELEMENTS].to(torch.int64) & 0xFFFFFFFF
        runs = torch.nn.functional.pad(part, (0, -part.numel() % RUN)).view(-1, RUN)
        sums = (runs * keys).sum(1)
        sums = (sums ^ ((sums >> 32) & 0xFFFFFFFF)) * _SIGNED_MULTIPLIER
        first = start // RUN
        places = torch.arange(first, first + len(sums), device=words.device) * 2 + 1
        total = total + (sums * places).sum()
    return int(total) & 0xFFFFFFFFFFFFFFFF


@cache
def _keys() -> NDArray[np.uint32]:
    """One odd number for each place in a run."""
    keys = np.empty(RUN, np.uint32)
    _fill(keys)
    return keys


@kernel
def _fill(keys: NDArray[np.uint32]) -> None:
    for i in range(keys.size):
        keys[i] = mix(np.uint32(i + 1)) | np.uint32(1)


@kernel
def _checksum(values: Floats, keys: NDArray[np.uint32]) -> np.uint64:
    total, place = np.uint64(0), np.uint64(1)
    start, size = np.uint64(0), np.uint64(values.size)
    while start < size:
        total += np.uint64(_sum_of_run(values, keys, start, min(np.uint64(RUN), size - start)) * place)
        place += np.uint64(2)
        start += np.uint64(RUN)
    return total


@kernel
def _sum_of_run(values: Floats, keys: NDArray[np.uint32], start: np.uint64, size: np.uint64) -> np.uint64:
    total = np.uint64(0)
    for i in range(size):
        total += np.uint64(np.uint32(bits_of(values[start + i]))) * np.uint64(keys[i])
    total = np.uint64(total ^ np.uint64(total >> np.uint64(32)))
    return np.uint64(total * np.uint64(_MULTIPLIER))
