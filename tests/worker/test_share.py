"""Dividing data: every sample once, counted in the step that uses it."""

import time
from collections import deque
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from pushpull.protos.errors import SettingError
from pushpull.protos.registrar_pb2 import DealRequest, DealResponse, Lot
from pushpull.worker.data_ledger import DataLedger
from pushpull.worker.permutation import epoch_order
from pushpull.worker.share import DataCalls, EarlyLeaving, loader_of, share_dealt, share_strided, shared_epoch

from .fake_servers import FakeDealer


class Numbers(Dataset[int]):
    def __init__(self, size: int = 64) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> int:
        return index


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(64))


class Calls:
    """A worker and registrar for one epoch; answers of `script` come before the dealer's."""

    def __init__(self, num_samples: int = 64) -> None:
        self.script: deque[DealResponse] = deque()
        self.requests: list[DealRequest] = []
        self.events: list[str] = []
        self.early = EarlyLeaving(at_once=True)
        self._dealer = FakeDealer(num_samples)

    def deal(self, request: DealRequest) -> DealResponse:
        self.requests.append(request)
        if request.leave_epoch:
            self.events.append("leave")
            return DealResponse(state=DealResponse.STATE_OVER)
        return self.script.popleft() if self.script else self._dealer(request)

    def skip_step(self) -> bool:
        self.events.append("skip")
        return True

    def port(self) -> DataCalls:
        return DataCalls(
            deal=self.deal,
            skip_step=self.skip_step,
            pause=lambda: self.events.append("pause"),
            out_of_data=lambda: self.events.append("over"),
            early=self.early,
        )


def epoch_of(calls: Calls, ledger: DataLedger, number: int = 0, **loader: object) -> Iterator[torch.Tensor]:
    made = DataLoader(Numbers(), **{"batch_size": 10, **loader})  # type: ignore[arg-type]
    epoch = shared_epoch(made, number, seed=5)
    assert epoch is not None
    return share_dealt(epoch, calls.port(), ledger)


@pytest.fixture
def ledger() -> DataLedger:
    return DataLedger()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_sample_comes_once(shuffle: bool, num_workers: int) -> None:
    calls = Calls()
    batches = list(epoch_of(calls, DataLedger(), shuffle=shuffle, num_workers=num_workers))
    indices = torch.cat(batches).tolist()
    assert sorted(indices) == list(range(64))
    assert (indices != sorted(indices)) is shuffle
    assert calls.events == ["over"]


def test_epochs_have_different_orders_and_each_its_own_everywhere() -> None:
    one, other = epoch_order(100, 5, 0, True), epoch_order(100, 5, 0, True)
    assert one(20, 30) == other(20, 30)
    assert one(0, 100) != epoch_order(100, 5, 1, True)(0, 100)
    assert one(0, 100) != epoch_order(100, 6, 0, True)(0, 100)


def test_samples_count_in_the_step_that_uses_them() -> None:
    ledger = DataLedger()
    taken = []
    for number, _ in enumerate(epoch_of(Calls(), ledger)):
        if number % 2:
            taken.append(ledger.take())
    taken.append(ledger.take())
    assert [data.num_samples for data in taken] == [20, 20, 20, 4]
    assert [[lot.id for lot in data.lots] for data in taken] == [[1, 2], [3, 4], [5, 6], [7]]


def test_what_data_take_to_come_is_noted_and_what_is_done_with_them_is_not(ledger: DataLedger) -> None:
    class Slow(Numbers):
        def __getitem__(self, index: int) -> int:
            time.sleep(0.002)
            return index

    made = shared_epoch(DataLoader(Slow(), batch_size=16), 0, seed=5)
    assert made is not None
    spent, began = 0.0, time.perf_counter()
    for _ in share_dealt(made, Calls().port(), ledger):
        started = time.perf_counter()
        time.sleep(0.05)
        spent += time.perf_counter() - started
    assert 64 * 0.002 <= ledger.wait_seconds <= time.perf_counter() - began - spent
    before = ledger.wait_seconds
    time.sleep(0.05)
    assert ledger.wait_seconds == before


def test_data_of_a_dropped_gradient_come_again() -> None:
    ledger = DataLedger()
    seen = []
    for number, batch in enumerate(epoch_of(Calls(), ledger)):
        seen.append(batch.tolist())
        data = ledger.take()
        if number == 0:
            ledger.use_again(data)
    assert seen[0] in seen[1:]
    assert sorted(index for batch in seen[1:] for index in batch) == list(range(64))


def test_lots_that_went_back_to_the_pool_are_not_used() -> None:
    ledger = DataLedger()
    batches = epoch_of(Calls(), ledger)
    next(batches)
    ledger.forget_dealt()
    after = [lot.id for _ in batches for lot in ledger.take().lots]
    assert after == [5, 6, 7]


def test_a_worker_without_data_takes_part_in_rounds_by_itself(ledger: DataLedger) -> None:
    calls = Calls()
    calls.script.extend(
        [
            DealResponse(state=DealResponse.STATE_WAIT),
            DealResponse(state=DealResponse.STATE_LOTS, lots=[Lot(id=1, first=0, size=3)]),
            DealResponse(state=DealResponse.STATE_EXHAUSTED),
            DealResponse(state=DealResponse.STATE_EXHAUSTED),
            DealResponse(state=DealResponse.STATE_LOTS, lots=[Lot(id=2, first=9, size=1)]),
            DealResponse(state=DealResponse.STATE_OVER),
        ]
    )
    seen = []
    for batch in epoch_of(calls, ledger):
        seen.append(batch.tolist())
        ledger.take()
    assert seen == [[0, 1, 2], [9]]
    assert calls.events == ["leave", "skip", "over"]


def test_lots_whose_deal_was_lost_are_given_back_once(ledger: DataLedger) -> None:
    calls = Calls()
    calls.script.extend([DealResponse(state=DealResponse.STATE_EXHAUSTED)] * 3)
    calls.script.append(DealResponse(state=DealResponse.STATE_OVER))
    assert list(epoch_of(calls, ledger)) == []
    assert calls.events == ["leave", "skip", "skip", "skip", "over"]


def test_nothing_is_given_back_while_a_gradient_of_it_waits_for_its_step(ledger: DataLedger) -> None:
    calls = Calls()
    calls.script.extend([DealResponse(state=DealResponse.STATE_EXHAUSTED), DealResponse(state=DealResponse.STATE_OVER)])
    ledger.give_out(3.0, Lot(id=1, first=0, size=3))
    assert list(epoch_of(calls, ledger)) == []
    assert calls.events == ["skip", "over"]


def test_returned_lots_of_an_earlier_epoch_keep_its_order() -> None:
    calls = Calls()
    calls.script.extend(
        [
            DealResponse(state=DealResponse.STATE_LOTS, lots=[Lot(id=1, epoch=0, first=0, size=5)]),
            DealResponse(state=DealResponse.STATE_OVER),
        ]
    )
    (batch,) = epoch_of(calls, DataLedger(), number=1, shuffle=True)
    assert batch.tolist() == epoch_order(64, 5, 0, True)(0, 5)


def test_leaving_the_loop_early_gives_the_rest_back_and_pauses() -> None:
    calls = Calls()
    for _ in epoch_of(calls, DataLedger()):
        break
    assert calls.events == ["pause", "leave"]


def test_ranks_wait_for_no_other_rank_when_they_leave_the_loop_but_when_they_come_back() -> None:
    calls, ledger = Calls(), DataLedger()
    calls.early = EarlyLeaving(at_once=False)
    for _ in epoch_of(calls, ledger):
        break
    assert calls.events == []
    for _ in epoch_of(calls, ledger, number=1):
        assert calls.events == ["pause", "leave"]
    assert calls.events == ["pause", "leave", "over"]


def test_what_cannot_be_addressed_by_index_is_strided() -> None:
    calls, ledger = Calls(), DataLedger()
    batches = DataLoader(Stream(), batch_size=8)
    assert shared_epoch(batches, 0, 0) is None
    mine = [batch[0].item() for batch in share_strided(batches, (1, lambda: 3), calls.port(), ledger)]
    assert mine == [8, 32, 56]
    assert ledger.take().num_samples == 24
    assert calls.events == ["pause"]


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Numbers(), batch_size=4, sampler=WeightedRandomSampler([1.0] * 64, 64)),
        DataLoader(Numbers(), batch_size=4, sampler=RandomSampler(Numbers(), replacement=True)),
        DataLoader(Numbers(), batch_sampler=type("Own", (BatchSampler,), {})(SequentialSampler(Numbers()), 4, False)),
    ],
    ids=["weighted", "with replacement", "own batch sampler"],
)
def test_own_samplers_are_strided(loader: DataLoader[int]) -> None:
    assert shared_epoch(loader, 0, 0) is None


def test_a_data_set_needs_a_batch_size() -> None:
    with pytest.raises(SettingError, match="batch_size"):
        loader_of(Numbers(), None, True)
    assert loader_of(Numbers(), 8, True).batch_size == 8


def test_a_loader_keeps_its_batch_size() -> None:
    with pytest.raises(SettingError, match="differs from the loader's 4"):
        loader_of(DataLoader(Numbers(), batch_size=4), 8, True)
