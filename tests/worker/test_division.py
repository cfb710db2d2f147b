"""Every loader is divided alike on every worker, or refused."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)
from torch.utils.data.distributed import DistributedSampler

from pushpull.protos.errors import SettingError
from pushpull.worker.division import Division, divider_of

DATA = TensorDataset(torch.arange(40))


def division(loader: DataLoader[Any], epoch: int = 0) -> Division:
    return divider_of(loader, seed=5).epoch(epoch)


def samples(made: Division) -> list[Any]:
    return [index for first in range(made.num_units) for index in made.order(first, 1)]


class ByProcess(Sampler[int]):
    """Draws from everything that a process may seed differently."""

    def __init__(self, draw: str) -> None:
        self._draw = draw
        self.generator = torch.Generator().manual_seed(random.randrange(1 << 30))

    def __len__(self) -> int:
        return 40

    def __iter__(self) -> Iterator[int]:
        order = list(range(40))
        match self._draw:
            case "torch":
                order = torch.randperm(40).tolist()
            case "numpy":
                np.random.shuffle(order)
            case "python":
                random.shuffle(order)
            case "own":
                order = torch.randperm(40, generator=self.generator).tolist()
        return iter(order)


class OfItsOwn(ByProcess):
    """In a way that nobody can seed from outside."""

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng(id(self)).permutation(40).tolist())


class Buckets(BatchSampler):
    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 1, 2], [3], [4, 5]])

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    "sampler",
    [
        *(lambda draw=draw: ByProcess(draw) for draw in ("torch", "numpy", "python", "own")),
        lambda: SubsetRandomSampler(range(30), generator=torch.Generator().manual_seed(random.randrange(1 << 30))),
        lambda: WeightedRandomSampler(
            [1.0] * 40, 50, generator=torch.Generator().manual_seed(random.randrange(1 << 30))
        ),
        lambda: RandomSampler(DATA, replacement=True, num_samples=60),
        lambda: RandomSampler(DATA, num_samples=10),
        lambda: DistributedSampler(DATA, num_replicas=2, rank=random.randrange(2)),
    ],
    ids=["torch", "numpy", "python", "own generator", "subset", "weighted", "replaced", "fewer", "distributed"],
)
def test_one_seed_makes_the_order_the_same_in_every_process(sampler: Any) -> None:
    orders = []
    for process in range(3):
        torch.manual_seed(process)
        np.random.seed(process)
        random.seed(process)
        made = division(DataLoader(DATA, batch_size=4, sampler=sampler()))
        orders.append((samples(made), made.fingerprint))
        assert samples(made) != samples(division(DataLoader(DATA, batch_size=4, sampler=sampler()), epoch=1))
    assert orders[0] == orders[1] == orders[2]


def test_drawing_an_order_changes_no_random_numbers_of_the_script() -> None:
    sampler = ByProcess("own")
    states = [torch.get_rng_state(), sampler.generator.get_state()]
    following = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    division(DataLoader(DATA, batch_size=4, sampler=sampler))
    assert all(map(torch.equal, states, [torch.get_rng_state(), sampler.generator.get_state()]))
    assert following == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index,union-attr]


def test_an_order_that_cannot_be_made_the_same_shows_in_the_fingerprint() -> None:
    loaders = [DataLoader(DATA, batch_size=4, sampler=OfItsOwn("")) for _ in range(2)]
    assert division(loaders[0]).fingerprint != division(loaders[1]).fingerprint


def test_other_samples_show_in_the_fingerprint() -> None:
    parts = [random_split(DATA, [30, 10], generator=torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1)]
    prints = [division(DataLoader(Subset(part, range(20)), batch_size=4)).fingerprint for part in parts]
    assert prints[0] == prints[1] != prints[2]
    assert division(DataLoader(DATA, batch_size=4)).fingerprint == 0


def test_a_subset_is_dealt_by_its_own_indices() -> None:
    made = division(DataLoader(DATA, batch_size=4, sampler=SubsetRandomSampler([3, 5, 8])))
    assert (made.num_units, sorted(samples(made))) == (3, [3, 5, 8])


def test_batches_of_a_batch_sampler_stay_whole() -> None:
    loader = DataLoader(DATA, batch_sampler=Buckets(SequentialSampler(DATA), 1, False))
    made = division(loader)
    assert (made.num_units, made.batch_size) == (3, 1)
    assert [made.order(number, 1) for number in range(3)] == [[0, 1, 2], [3], [4, 5]]
    assert divider_of(loader, 5).num_lots() == 3


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(int, 1)


class TooLong(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(40))

    def __len__(self) -> int:
        return 20


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Endless(), "without a length"),
        (TooLong(), "gives more than its len"),
        (SubsetRandomSampler([]), "without samples"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_reason(sampler: Sampler[int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        division(DataLoader(DATA, batch_size=4, sampler=sampler))


class FirstTen(DistributedSampler[int]):
    """Chooses samples in its own way."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, 10, self.num_replicas))

    def __len__(self) -> int:
        return 10 // self.num_replicas


class TestDistributedSamplers:
    def test_one_over_a_part_of_the_data_is_divided_as_that_part(self) -> None:
        sampler = DistributedSampler(range(15), num_replicas=2, rank=0)  # type: ignore[arg-type, var-annotated]
        assert sorted(samples(division(DataLoader(DATA, batch_size=4, sampler=sampler)))) == list(range(15))

    def test_one_with_its_own_iter_is_asked_for_what_it_gives_where_that_is_everything(self) -> None:
        sampler = FirstTen(DATA, num_replicas=1, rank=0)
        assert samples(division(DataLoader(DATA, batch_size=4, sampler=sampler))) == list(range(10))

    def test_one_with_its_own_iter_that_gives_a_part_is_refused(self) -> None:
        sampler = FirstTen(DATA, num_replicas=2, rank=1)
        with pytest.raises(
            SettingError, match=r"FirstTen, .* __iter__ of its own, .* one of 2 parts .* num_replicas=1"
        ):
            division(DataLoader(DATA, batch_size=4, sampler=sampler))
