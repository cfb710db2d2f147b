"""Loops over shared data with real servers: they end, and every sample counts once."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from clusters import local_cluster
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pushpull.worker.registrar_client import RegistrarClient
from pushpull.worker.worker import Worker

Loop = Callable[[Worker, Callable[[torch.Tensor], None], list[int]], None]


def numbers(size: int, batch_size: int, **how: object) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(torch.arange(size)), batch_size=batch_size, **how)  # type: ignore[arg-type]


@dataclass
class Reader:
    """A worker, when its loop is over."""

    seen: list[int] = field(default_factory=list)
    """Samples, in the order in which the loop got them."""
    num_dropped: int = 0
    """Steps that came too late: what they had used is given back to the loop."""


def run(mode: str, loop: Loop, num_workers: int = 2) -> list[Reader]:
    """A loop gets the worker, what takes a step, and where to note what it sees."""
    readers = [Reader() for _ in range(num_workers)]

    def body(worker: Worker) -> None:
        model = torch.nn.Linear(1, 1, bias=False)
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1e-6)

        def step(batch: torch.Tensor) -> None:
            optimizer.zero_grad()
            model(batch.float().reshape(-1, 1)).square().mean().backward()
            optimizer.step()

        loop(worker, step, readers[worker.id].seen)
        readers[worker.id].num_dropped = worker._recorder.report().steps_dropped

    with local_cluster(1, mode=mode, staleness_bound=1, expected_workers=num_workers) as cluster:
        cluster.train(*[body] * num_workers)
    return readers


def accumulating(worker: Worker, step: Callable[[torch.Tensor], None], seen: list[int]) -> None:
    data = worker.share(numbers(44, 4, shuffle=True))
    for _ in range(2):
        for number, (batch,) in enumerate(data):
            seen += batch.tolist()
            if number % 4 == 3:
                step(batch)


def looking(worker: Worker, step: Callable[[torch.Tensor], None], seen: list[int]) -> None:
    data = worker.share(numbers(44, 4))
    for _ in range(2):
        for (batch,) in data:
            seen += batch.tolist()


def one_trains_and_one_looks(worker: Worker, step: Callable[[torch.Tensor], None], seen: list[int]) -> None:
    data = worker.share(numbers(44, 4))
    for _ in range(2):
        for (batch,) in data:
            seen += batch.tolist()
            if worker.id == 0:
                step(batch)


def looking_first(worker: Worker, step: Callable[[torch.Tensor], None], seen: list[int]) -> None:
    data = worker.share(numbers(44, 4))
    if worker.id == 0:
        next(iter(data))
    for _ in range(2):
        for (batch,) in data:
            seen += batch.tolist()
            step(batch)


def validating(worker: Worker, step: Callable[[torch.Tensor], None], seen: list[int]) -> None:
    train, valid = worker.share(numbers(20, 4, shuffle=True)), worker.share(numbers(24, 5))
    for _ in range(2):
        for (batch,) in train:
            seen += batch.tolist()
            step(batch)
        with torch.no_grad():
            for (batch,) in valid:
                seen += (20 + batch).tolist()


def pausing_with_a_batch_in_hand(worker: Worker, step: Callable[[torch.Tensor], None], seen: list[int]) -> None:
    for epoch in range(2):
        for number, (batch,) in enumerate(worker.share(numbers(44, 4), name="a", start_epoch=epoch)):
            if number == 1 and worker.id == 0:
                with worker.pause():
                    pass
            seen += batch.tolist()
            step(batch)


MOST_SAMPLES_OF_A_STEP: dict[Loop, int] = {
    accumulating: (3 + 4) * 4,  # those that the epoch before had left, too
    looking: 0,
    one_trains_and_one_looks: 4,
    looking_first: 4 + 4,
    validating: 24 + 4,
}
"""Those since the step before, by loop: a step that is dropped gives all of them back."""


@pytest.mark.parametrize("mode", ["sync", "async", "bounded"])
@pytest.mark.parametrize("loop", MOST_SAMPLES_OF_A_STEP)
def test_every_loop_ends_and_every_sample_is_seen_once_in_each_epoch(mode: str, loop: Loop) -> None:
    readers = run(mode, loop)
    seen = Counter(sample for reader in readers for sample in reader.seen)
    assert set(seen) == set(range(44))
    assert all(count >= 2 for count in seen.values())
    given_back = sum(reader.num_dropped for reader in readers) * MOST_SAMPLES_OF_A_STEP[loop]
    assert sum(seen.values()) <= 2 * 44 + given_back


def test_answers_that_are_lost_lose_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    deal, lock, calls = RegistrarClient.deal, threading.Lock(), [0]

    def losing(self: RegistrarClient, request: object) -> object:
        with lock:
            calls[0] += 1
            lost = calls[0] % 3 == 1
        if lost:
            deal(self, request)  # type: ignore[arg-type]
        return deal(self, request)  # type: ignore[arg-type]

    monkeypatch.setattr(RegistrarClient, "deal", losing)
    seen = Counter(sample for reader in run("async", validating) for sample in reader.seen)
    assert seen == Counter(dict.fromkeys(range(44), 2))


def test_a_pause_with_a_batch_in_hand_loses_nothing_and_uses_nothing_twice() -> None:
    seen = Counter(sample for reader in run("async", pausing_with_a_batch_in_hand) for sample in reader.seen)
    assert seen == Counter(dict.fromkeys(range(44), 2))


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(torch.arange(40))


def test_data_without_positions_are_divided_by_places_among_the_workers_that_are_there() -> None:
    def loop(worker: Worker, step: Callable[[torch.Tensor], None], seen: list[int]) -> None:
        for batch in worker.share(DataLoader(Stream(), batch_size=4)):
            seen += batch.tolist()
            step(batch)

    seen = [reader.seen for reader in run("async", loop, num_workers=3)]
    assert sorted(sample for worker in seen for sample in worker) == list(range(40))
    assert sorted(map(len, seen)) == [12, 12, 16]
