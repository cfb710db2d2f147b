"""The order of an epoch's samples: the same on every worker. Pure."""

from collections.abc import Callable

import torch

Order = Callable[[int, int], list[int]]
"""first position, number of samples -> indices into the data set."""


def epoch_seed(seed: int, epoch: int) -> int:
    """Of everything random in one epoch of a job with this seed."""
    return (seed * 1_000_003 + epoch) % (1 << 63)


def epoch_order(num_samples: int, seed: int, epoch: int, shuffle: bool) -> Order:
    """A permutation that depends on (seed, epoch) only; without `shuffle` the data set's own order."""
    if not shuffle:
        return lambda first, size: list(range(first, first + size))
    generator = torch.Generator()
    generator.manual_seed(epoch_seed(seed, epoch))
    order = torch.randperm(num_samples, generator=generator)

    def indices(first: int, size: int) -> list[int]:
        positions: list[int] = order[first : first + size].tolist()
        return positions

    return indices
