"""How a data loader's samples are divided by position: alike on every worker, whatever its sampler does."""

import contextlib
import itertools
import logging
import random
import zlib
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from ..protos.errors import SettingError
from .permutation import Order, epoch_order, epoch_seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Division:
    """What of one epoch is dealt. A lot of `size` units from position `first` on holds the samples `order(first, size)`."""

    num_units: int
    batch_size: int
    drop_last: bool
    order: Order
    fingerprint: int = 0
    """Of samples and order where they are not the data set's and the seed's: the same on every worker, or it is refused."""


class Divider(Protocol):
    """Makes the divisions of a loader's epochs."""

    def epoch(self, number: int) -> Division:
        """Of this epoch; the same on every worker of a job.

        Raises:
            SettingError: the sampler does not give what it says.
        """

    def num_lots(self) -> int:
        """Batches of an epoch, of all workers together."""


def divider_of(loader: DataLoader[Any], seed: int) -> Divider:
    """How this loader's data set is divided.

    Raises:
        SettingError: it cannot be, and the message says why and what to do.
    """
    batches = loader.batch_sampler
    if batches is None:
        raise SettingError("worker.share() needs a DataLoader that makes batches: give it a batch_size")
    if type(batches) is not BatchSampler:
        return DrawnBatches(_with_length(batches, "batch_sampler"), loader.dataset, seed)
    sampler = batches.sampler
    shape = batches.batch_size, batches.drop_last
    if isinstance(sampler, DistributedSampler) and type(sampler).__iter__ is DistributedSampler.__iter__:
        logger.warning("worker.share() divides the data itself; the loader's DistributedSampler is not used")
        return InOrder(len(cast(Sized, sampler.dataset)), *shape, loader.dataset, seed, shuffle=sampler.shuffle)
    if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
        raise SettingError(
            f"{type(sampler).__name__}, a DistributedSampler with an __iter__ of its own, gives one of {sampler.num_replicas} "
            "parts of the data, and worker.share() divides them itself: what it chooses for the other parts cannot be told. "
            "Make it with num_replicas=1, rank=0 on every worker, so that it gives all of them, in the same order everywhere"
        )
    if type(sampler) is SequentialSampler:
        return InOrder(len(sampler), *shape, loader.dataset, seed, shuffle=False)
    if type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source):
        return InOrder(len(sampler), *shape, loader.dataset, seed, shuffle=True)
    if type(sampler) is SubsetRandomSampler:
        return InOrder(len(sampler), *shape, loader.dataset, seed, shuffle=True, indices=sampler.indices)
    return DrawnSamples(_with_length(sampler, "sampler"), *shape, loader.dataset, seed)


class InOrder:
    """Positions of a permutation that depends on the seed and the epoch only, or of none."""

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        drop_last: bool,
        dataset: object,
        seed: int,
        *,
        shuffle: bool,
        indices: Sequence[int] | None = None,
    ) -> None:
        if num_samples == 0:
            raise SettingError("worker.share() was given a data set without samples")
        self._shape = num_samples, batch_size, drop_last
        self._seed, self._shuffle, self._indices = seed, shuffle, indices
        self._fingerprint = fingerprint_of(*_choices_behind(dataset), *([] if indices is None else [indices]))

    def epoch(self, number: int) -> Division:
        positions = epoch_order(self._shape[0], self._seed, number, self._shuffle)
        return Division(*self._shape, self._translated(positions), self._fingerprint)

    def num_lots(self) -> int:
        num_samples, batch_size, drop_last = self._shape
        return num_samples // batch_size if drop_last else -(-num_samples // batch_size)

    def _translated(self, positions: Order) -> Order:
        indices = self._indices
        if indices is None:
            return positions
        return lambda first, size: [int(indices[position]) for position in positions(first, size)]


class DrawnSamples:
    """A sampler that is not one of those that torch's loaders have by themselves: its order is drawn under one seed.

    One that is random in ways of its own gives another order on every worker; the registrar finds out by the fingerprint.
    """

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool, dataset: object, seed: int) -> None:
        self._sampler, self._dataset, self._seed = sampler, dataset, seed
        self._batch_size, self._drop_last = batch_size, drop_last

    def epoch(self, number: int) -> Division:
        drawn = _drawn(self._sampler, self._seed, number)
        indices = [int(index) if isinstance(index, torch.Tensor | np.integer) else index for index in drawn]
        return Division(
            len(indices),
            self._batch_size,
            self._drop_last,
            lambda first, size: indices[first : first + size],
            fingerprint_of(*_choices_behind(self._dataset), indices),
        )

    def num_lots(self) -> int:
        num_samples = len(self._sampler)
        return num_samples // self._batch_size if self._drop_last else -(-num_samples // self._batch_size)


class DrawnBatches:
    """A batch sampler of the user's own: whole batches are dealt, as it makes them under one seed."""

    def __init__(self, batches: Any, dataset: object, seed: int) -> None:
        self._batches, self._dataset, self._seed = batches, dataset, seed

    def epoch(self, number: int) -> Division:
        drawn = [list(batch) for batch in _drawn(self._batches, self._seed, number)]
        return Division(
            len(drawn),
            1,
            False,
            lambda first, size: drawn[first],
            fingerprint_of(*_choices_behind(self._dataset), *drawn),
        )

    def num_lots(self) -> int:
        return len(self._batches)


def fingerprint_of(*choices: Sequence[Any]) -> int:
    """Of lists of indices, never 0; 0 without any."""
    if not choices:
        return 0
    digest = 0
    for choice in choices:
        digest = zlib.crc32(_bytes_of(choice), digest)
    return digest or 1


def _bytes_of(choice: Sequence[Any]) -> bytes:
    try:
        return np.asarray(choice, dtype=np.int64).tobytes()
    except (TypeError, ValueError):  # keys, or tuples of unlike lengths
        return repr(list(choice)).encode()


def _choices_behind(dataset: object) -> Iterator[Sequence[int]]:
    """What a Subset, or one of a Subset, picks: `random_split` seeded by the process gives every worker another one."""
    while isinstance(dataset, Subset):
        yield dataset.indices
        dataset = dataset.dataset


def _drawn(sampler: Any, seed: int, epoch: int) -> list[Any]:
    """Everything that a sampler gives, as its own length says."""
    if len(sampler) == 0:
        raise SettingError("worker.share() was given a sampler without samples")
    with _one_seed(sampler, epoch_seed(seed, epoch)):
        drawn = list(itertools.islice(sampler, len(sampler) + 1))
    if len(drawn) > len(sampler):
        raise SettingError(
            f"{type(sampler).__name__} gives more than its len() of {len(sampler)} says; worker.share() cannot tell where its "
            "epoch ends. Give it the right __len__"
        )
    return drawn


@contextlib.contextmanager
def _one_seed(sampler: Any, seed: int) -> Iterator[None]:
    """Random numbers of torch, numpy, Python and the sampler's own torch generators come of this seed inside."""
    own = [getattr(each, "generator", None) for each in (sampler, getattr(sampler, "sampler", None))]
    generators = [generator for generator in own if isinstance(generator, torch.Generator)]
    kept = [generator.get_state() for generator in generators]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % (1 << 32))
            for generator in generators:
                generator.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for generator, state in zip(generators, kept, strict=True):
            generator.set_state(state)


def _with_length(sampler: Any, what: str) -> Any:
    if not hasattr(sampler, "__len__"):
        raise SettingError(
            f"worker.share() cannot divide what a {what} without a length gives ({type(sampler).__name__}): where its epoch "
            "ends is not known. Give it __len__, or iterate over the loader itself: then this worker reads all of it"
        )
    return sampler
