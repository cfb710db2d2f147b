"""Dividing data: every sample once, counted in the step that uses it, whatever the loop does."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pushpull.protos.errors import SettingError
from pushpull.protos.registrar_pb2 import DealRequest, DealResponse, Lot
from pushpull.ps_server.dealing import DataDealer
from pushpull.worker.data_ledger import DataLedger, DataTaken
from pushpull.worker.permutation import epoch_order
from pushpull.worker.share import DataCalls, EarlyLeaving, share_strided
from pushpull.worker.shared_data import SharedData, SharedDataSets, Sharing, loader_of, strided_in_words


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


class Job:
    """One worker and the registrar's dealer, without anything between them; answers of `script` come first."""

    def __init__(self, at_once: bool = True, num_workers: int = 1) -> None:
        self.script: deque[DealResponse] = deque()
        self.requests: list[DealRequest] = []
        self.events: list[str] = []
        self.early = EarlyLeaving(at_once)
        self.ledger = DataLedger()
        self.dealer = DataDealer(in_turns=False)
        self.paused: list[list[int]] = []
        calls = DataCalls(
            deal=self.deal,
            skip_step=self.skip_step,
            pause=self.pause,
            out_of_data=lambda: self.events.append("out"),
            epoch_over=lambda: self.events.append("out"),
            early=self.early,
        )
        sharing = Sharing(calls=calls, ledger=self.ledger, seed=5, part=(0, 1), num_workers=lambda: num_workers)
        self.sets = SharedDataSets(sharing)
        self.calls = calls

    def deal(self, request: DealRequest) -> DealResponse:
        request.number = len(self.requests) + 1
        self.requests.append(request)
        if request.leave_epoch:
            self.events.append("leave")
        elif self.script:
            return self.script.popleft()
        return self.dealer.deal(request, (), live=[0])

    def skip_step(self) -> bool:
        self.events.append("skip")
        return True

    def pause(self) -> None:
        self.events.append("pause")
        self.dealer.pause(0, self.ledger.held)
        self.ledger.forget_unused()

    def share(self, data: object = None, **how: Any) -> SharedData:
        loader = DataLoader(Numbers() if data is None else data, **{"batch_size": 10, **how})  # type: ignore[arg-type]
        return self.sets.share(loader, None, 0)

    def step(self) -> DataTaken:
        """What a step was computed from; it is applied."""
        data = self.ledger.take()
        self.dealer.done(lot.id for lot in data.lots)
        return data

    def epoch(self, data: SharedData, every: int = 1) -> list[int]:
        """What one loop sees that steps after so many batches."""
        seen = []
        for number, batch in enumerate(data, start=1):
            seen += batch.tolist()
            if number % every == 0:
                self.step()
        return seen


@pytest.fixture
def job() -> Job:
    return Job()


def no_lots(state: "DealResponse.State", **more: bool) -> DealResponse:
    return DealResponse(state=state, **more)


@pytest.mark.parametrize(
    ("num_workers", "said"),
    [
        (1, "the only worker that is there when an epoch begins takes every batch"),
        (2, "each of the 2 workers that are there when an epoch begins takes every second batch"),
        (3, "takes every 3rd batch"),
        (4, "takes every 4th batch"),
        (11, "takes every 11th batch"),
        (22, "takes every 22nd batch"),
        (112, "takes every 112th batch"),
    ],
)
def test_who_reads_what_of_data_without_index_is_said_in_words(num_workers: int, said: str) -> None:
    assert strided_in_words(num_workers).endswith(said)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_sample_comes_once_in_each_epoch(job: Job, shuffle: bool, num_workers: int) -> None:
    data = job.share(shuffle=shuffle, num_workers=num_workers)
    first, second = job.epoch(data), job.epoch(data)
    assert sorted(first) == sorted(second) == list(range(64))
    assert (first != sorted(first)) is (first != second) is shuffle
    assert set(job.events) == {"out"}


def test_epochs_have_different_orders_and_each_its_own_everywhere() -> None:
    one, other = epoch_order(100, 5, 0, True), epoch_order(100, 5, 0, True)
    assert one(20, 30) == other(20, 30)
    assert one(0, 100) != epoch_order(100, 5, 1, True)(0, 100)
    assert one(0, 100) != epoch_order(100, 6, 0, True)(0, 100)


def test_samples_count_in_the_step_that_uses_them(job: Job) -> None:
    taken = []
    for number, _ in enumerate(job.share()):
        if number % 2:
            taken.append(job.step())
    taken.append(job.step())
    assert [data.num_samples for data in taken] == [20, 20, 20, 4]
    assert [[lot.id for lot in data.lots] for data in taken] == [[1, 2], [3, 4], [5, 6], [7]]


def test_what_data_take_to_come_is_noted_and_what_is_done_with_them_is_not(job: Job) -> None:
    class Slow(Numbers):
        def __getitem__(self, index: int) -> int:
            time.sleep(0.002)
            return index

    spent, began = 0.0, time.perf_counter()
    for _ in job.share(Slow(), batch_size=16):
        started = time.perf_counter()
        time.sleep(0.05)
        spent += time.perf_counter() - started
    assert 64 * 0.002 <= job.ledger.wait_seconds <= time.perf_counter() - began - spent
    before = job.ledger.wait_seconds
    time.sleep(0.05)
    assert job.ledger.wait_seconds == before


class TestWhateverTheLoopDoes:
    @pytest.mark.parametrize("every", [1, 3, 4, 100])
    def test_it_ends_and_what_is_in_hand_counts_for_the_next_step(self, job: Job, every: int) -> None:
        data = job.share()  # 7 batches, of which the last one has 4 samples
        assert sorted(job.epoch(data, every)) == list(range(64))
        assert job.ledger.num_samples == {1: 0, 3: 4, 4: 24, 100: 64}[every]
        assert sorted(job.epoch(data, every)) == list(range(64))
        assert "skip" not in job.events

    def test_a_batch_in_hand_counts_with_the_first_step_of_the_next_epoch(self, job: Job) -> None:
        data = job.share()
        job.epoch(data, every=3)
        next(iter(data))
        assert job.ledger.take().num_samples == 4 + 10

    def test_one_batch_that_is_looked_at_first_is_seen_again(self, job: Job) -> None:
        data = job.share()
        first = iter(data)  # kept, so that nothing closes it
        looked_at = next(first).tolist()
        assert job.epoch(data)[:10] == looked_at
        assert job.ledger.num_samples == 0

    def test_samples_that_were_looked_at_only_are_not_in_the_weight_of_a_step(self, job: Job) -> None:
        data = job.share()
        next(iter(data))
        for _ in data:
            assert job.step().num_samples == 10
            break

    def test_a_loop_that_was_left_after_steps_is_not_read_again(self, job: Job) -> None:
        data = job.share(shuffle=True)
        left = []
        for batch in data:
            left += batch.tolist()
            job.step()
            break
        after = job.epoch(data)
        assert sorted(after) == list(range(64))
        assert after[:10] != left, "the next epoch has an order of its own"

    def test_a_step_after_a_loop_was_left_uses_what_is_in_hand(self, job: Job) -> None:
        for _ in job.share():
            break
        assert job.ledger.num_samples == 10
        assert [lot.id for lot in job.step().lots] == [1]

    def test_several_data_sets_are_read_at_once(self, job: Job) -> None:
        one, other = job.share(Numbers(32), batch_size=4), job.share(Numbers(32), batch_size=4)
        for _ in range(2):
            seen: tuple[list[int], list[int]] = [], []
            for a, b in zip(one, other, strict=False):
                seen[0].extend(a.tolist())
                seen[1].extend(b.tolist())
                job.step()
            assert sorted(seen[0]) == sorted(seen[1]) == list(range(32))

    def test_an_inner_loop_that_is_left_takes_nothing_from_the_outer_one(self, job: Job) -> None:
        outer, inner = job.share(Numbers(24), batch_size=4), job.share(Numbers(10), batch_size=5)
        seen = []
        for batch in outer:
            seen += batch.tolist()
            for _ in inner:
                break
            assert job.ledger.num_samples == 4 + 5
            job.step()
        assert seen == list(range(24))
        assert job.events.count("pause") == 0, "the outer loop goes on"

    def test_a_second_loop_over_the_same_data_inside_the_first_is_an_error_not_an_early_end(self, job: Job) -> None:
        data = job.share()
        with pytest.raises(SettingError, match="under two names"):
            for _ in zip(data, data, strict=False):
                pass

    def test_data_of_a_dropped_gradient_come_again(self, job: Job) -> None:
        seen = []
        for number, batch in enumerate(job.share()):
            seen.append(batch.tolist())
            if number == 0:
                job.ledger.use_again(job.ledger.take())
            else:
                job.step()
        assert seen[0] in seen[1:]
        assert sorted(index for batch in seen[1:] for index in batch) == list(range(64))

    def test_leaving_the_loop_gives_the_rest_back_and_pauses(self, job: Job) -> None:
        for _ in job.share():
            break
        assert job.events == ["pause", "leave"]
        assert job.requests[-1].held == [1]
        assert len(job.dealer._open) == 1, "only what is in hand"

    def test_ranks_wait_for_no_other_rank_when_they_leave_the_loop_but_when_they_come_back(self) -> None:
        job = Job(at_once=False)
        data = job.share()
        for _ in data:
            job.step()
            break
        assert job.events == []
        for _ in data:
            assert job.events == ["pause", "leave", "leave"]  # the second one: what was in hand is not any more
            break

    def test_a_pause_in_the_loop_loses_nothing_and_keeps_what_is_in_hand(self, job: Job) -> None:
        seen: list[int] = []
        for number, batch in enumerate(job.share(num_workers=1)):
            seen += batch.tolist()
            if number == 2:
                job.pause()
                assert len(job.dealer._open) == 1
            job.step()
        assert sorted(seen) == list(range(64))


class TestOneDataSet:
    def test_it_is_the_same_in_every_epoch_however_it_is_shared(self, job: Job) -> None:
        numbers = Numbers()
        once = job.share(numbers)
        job.epoch(once)
        again = job.share(numbers)  # another loader
        assert (again.name, again.epoch) == (once.name, 1)

    def test_data_that_are_made_anew_in_each_epoch_go_on_as_the_same(self, job: Job) -> None:
        def epoch() -> tuple[str, int]:
            data = job.share(TensorDataset(torch.arange(20)))
            assert sum(len(batch) for (batch,) in data) == 20
            return data.name, data.epoch

        assert [epoch() for _ in range(3)] == [("#0", 1), ("#0", 2), ("#0", 3)]

    def test_two_that_are_alike_are_two_while_both_are_there(self, job: Job) -> None:
        one, other = Numbers(), Numbers()
        assert [job.share(one).name, job.share(other).name, job.share(one).name] == ["#0", "#1", "#0"]

    def test_a_name_makes_data_the_same_or_different(self, job: Job) -> None:
        loader = DataLoader(Numbers(), batch_size=10)
        assert job.sets.share(loader, "a", 0).name == "a" != job.sets.share(loader, "b", 0).name

    def test_the_epoch_can_be_set_as_with_a_distributed_sampler(self, job: Job) -> None:
        data = job.share(shuffle=True)
        data.set_epoch(7)
        assert job.epoch(data) == epoch_order(64, 5, 7, True)(0, 64)
        assert data.epoch == 8

    def test_a_script_that_resumes_begins_with_a_later_epoch(self, job: Job) -> None:
        loader = DataLoader(Numbers(), batch_size=10, shuffle=True)
        assert job.epoch(job.sets.share(loader, None, 3)) == epoch_order(64, 5, 3, True)(0, 64)
        assert job.sets.share(loader, None, 3).epoch == 4, "called again for the next epoch"

    def test_epochs_that_were_read_here_begin_a_new_series(self, job: Job) -> None:
        data = job.share()
        for epoch in (0, 1, 0, 1):  # two folds, say
            data.set_epoch(epoch)
            assert len(job.epoch(data)) == 64

    @pytest.mark.parametrize(("num_workers", "drop_last", "length"), [(1, False, 7), (1, True, 6), (2, False, 4)])
    def test_its_length_is_what_this_worker_may_expect(self, num_workers: int, drop_last: bool, length: int) -> None:
        assert len(Job(num_workers=num_workers).share(drop_last=drop_last)) == length


class TestWithoutData:
    def test_a_worker_takes_part_in_a_round_that_waits_for_it_and_only_then(self, job: Job) -> None:
        job.script.extend(
            [
                no_lots(DealResponse.STATE_WAIT),
                DealResponse(state=DealResponse.STATE_LOTS, lots=[Lot(id=1, first=0, size=3)]),
                no_lots(DealResponse.STATE_EXHAUSTED),
                no_lots(DealResponse.STATE_EXHAUSTED),
                no_lots(DealResponse.STATE_EXHAUSTED, take_part=True),
                no_lots(DealResponse.STATE_EXHAUSTED),
                DealResponse(state=DealResponse.STATE_LOTS, lots=[Lot(id=2, first=9, size=1)]),
                no_lots(DealResponse.STATE_OVER),
            ]
        )
        assert [batch.tolist() for batch in job.share()] == [[0, 1, 2], [9]]
        assert job.events == ["out", "skip", "out"]

    def test_it_takes_part_while_others_have_not_come_yet_if_a_round_waits(self, job: Job) -> None:
        job.script.extend([no_lots(DealResponse.STATE_WAIT, take_part=True), no_lots(DealResponse.STATE_OVER)])
        assert list(job.share()) == []
        assert job.events == ["skip", "out"]

    def test_it_says_what_is_in_hand_when_it_asks_for_more(self, job: Job) -> None:
        for _ in job.share(batch_size=32):
            pass
        assert [list(request.held) for request in job.requests] == [[], [1, 2]]

    def test_a_loader_that_reads_ahead_says_so(self, job: Job) -> None:
        list(job.share(num_workers=2, batch_size=1))
        assert any(request.ahead for request in job.requests)
        assert not any(request.held for request in job.requests if request.ahead)

    def test_requests_have_ascending_numbers(self, job: Job) -> None:
        job.epoch(job.share())
        assert [request.number for request in job.requests] == sorted({request.number for request in job.requests})


class TestSuspension:
    def test_lots_that_went_back_are_not_used(self, job: Job) -> None:
        batches = iter(job.share())
        next(batches)
        job.dealer.recall(0)
        job.ledger.forget_dealt()
        assert [lot.first for _ in batches for lot in job.step().lots] == [0, 10, 20, 30, 40, 50, 60]

    def test_what_was_in_hand_makes_the_next_step_void(self, job: Job) -> None:
        batches = iter(job.share())
        next(batches)
        job.ledger.forget_dealt()
        assert job.ledger.take().void
        next(batches)
        assert not job.ledger.take().void
        batches.end()

    @pytest.mark.parametrize("another_loop", [False, True])
    def test_a_worker_that_leaves_its_loop_learns_that_what_it_has_in_hand_went_back(
        self, job: Job, another_loop: bool
    ) -> None:
        other = iter(job.share(Numbers(30)))
        if another_loop:
            next(other)
        for _ in job.share():
            job.dealer.recall(0)
            break
        assert job.ledger.take().void
        assert job.ledger.held == []

    def test_and_so_does_one_that_comes_back_to_data_that_it_only_looked_at(self, job: Job) -> None:
        looked_at, trained = job.share(), job.share(Numbers(30))
        for _ in trained:
            for _ in looked_at:
                break
            job.dealer.recall(0)
            next(iter(looked_at))
            break
        assert job.ledger.take().void

    def test_a_worker_learns_that_it_was_suspended_and_reads_on(self, job: Job) -> None:
        seen: list[int] = []
        for number, batch in enumerate(job.share()):
            if number == 2:
                job.dealer.recall(0)
                job.ledger.doubtful = True  # its step was late
                job.ledger.take()
            else:
                seen += batch.tolist()
                job.step()
        assert sorted(seen) == list(range(64))


class Scaled(DataLoader[Any]):
    """As prefetching and normalising loaders do."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield batch / 2


class OneAhead(DataLoader[Any]):
    def __iter__(self) -> Any:
        batches = super().__iter__()
        ahead = next(batches)
        for batch in batches:
            yield ahead
            ahead = batch
        yield ahead


class Limited(DataLoader[Any]):
    def __iter__(self) -> Any:
        for number, batch in enumerate(super().__iter__()):
            if number == 2:
                return
            yield batch


class InHalves(DataLoader[Any]):
    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield batch[:5]
            yield batch[5:]


class Detached(DataLoader[Any]):
    def __iter__(self) -> Any:
        return iter([torch.arange(10)])


class TestLoadersOfTheUsersOwn:
    def share(self, job: Job, kind: Callable[..., DataLoader[Any]], **how: Any) -> SharedData:
        return job.sets.share(kind(Numbers(), batch_size=10, **how), None, 0)

    def test_what_the_loader_gives_is_what_the_loop_sees(self, job: Job) -> None:
        data = self.share(job, Scaled)
        assert [batch.tolist() for batch in data] == [
            (torch.arange(n, min(n + 10, 64)) / 2).tolist() for n in range(0, 64, 10)
        ]

    @pytest.mark.parametrize("kind", [OneAhead, InHalves])
    def test_every_sample_comes_once(self, job: Job, kind: type[DataLoader[Any]]) -> None:
        data = self.share(job, kind)
        for _ in range(2):
            seen = []
            for batch in data:
                seen += batch.tolist()
                job.step()
            assert seen == list(range(64))
            assert not job.dealer._open

    def test_one_that_ends_before_its_data_ends_the_loop(self, job: Job) -> None:
        data = self.share(job, Limited)
        assert [len(job.epoch(data)) for _ in range(2)] == [20, 20]

    def test_one_that_does_not_ask_for_its_batches_is_refused(self, job: Job) -> None:
        with pytest.raises(SettingError, match=r"Detached.__iter__ does not take its batches from its batch_sampler"):
            list(self.share(job, Detached))

    def test_its_processes_stay_for_all_epochs_if_they_are_persistent(self, job: Job) -> None:
        data = self.share(job, DataLoader, num_workers=1, persistent_workers=True, collate_fn=_with_process)
        processes = {process for _ in range(2) for _, process in data}
        assert len(processes) == 1


def _with_process(batch: list[int]) -> tuple[torch.Tensor, int]:
    import os

    return torch.tensor(batch), os.getpid()


class TestUnreadableData:
    class Broken(Numbers):
        def __getitem__(self, index: int) -> int:
            if index == 13:
                raise OSError("broken picture 13")
            return index

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_the_registrar_and_people_are_told_which_lot_it_is(
        self, job: Job, num_workers: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(OSError, match="broken picture 13"):
            job.epoch(job.share(self.Broken(), num_workers=num_workers))
        (told,) = [request for request in job.requests if request.unreadable]
        assert told.unreadable == [2]
        assert "samples [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]" in caplog.text
        assert "positions 10 to 19 of epoch 0" in caplog.text


class TestWhatHasNoPositions:
    def test_each_worker_takes_its_place_among_those_that_are_there(self) -> None:
        seen = {}
        dealer = DataDealer(in_turns=False)
        for worker in (0, 2, 5):
            job = Job()
            job.calls = job.calls
            job.deal = lambda request, worker=worker: dealer.deal(_by(request, worker), (), live=[0, 2, 5])  # type: ignore[method-assign]
            sharing = Sharing(
                calls=DataCalls(
                    deal=job.deal,
                    skip_step=job.skip_step,
                    pause=job.pause,
                    out_of_data=lambda: None,
                    epoch_over=lambda: None,
                    early=job.early,
                ),
                ledger=job.ledger,
                seed=0,
                part=(0, 1),
                num_workers=lambda: 3,
            )
            data = SharedDataSets(sharing).share(DataLoader(Stream(), batch_size=8), None, 0)
            seen[worker] = [batch[0].item() for batch in data]
        assert seen == {0: [0, 24, 48], 2: [8, 32, 56], 5: [16, 40]}

    def test_a_batch_of_a_dropped_gradient_comes_again(self, job: Job) -> None:
        seen = []
        for number, batch in enumerate(
            share_strided(DataLoader(Stream(), batch_size=8), (0, lambda: 2), job.calls, job.ledger)
        ):
            seen.append(batch[0].item())
            data = job.ledger.take()
            assert data.num_samples == 8
            if number == 1:
                job.ledger.use_again(data)
        assert seen == [0, 16, 16, 32, 48]
        assert job.events == ["pause"]

    def test_it_is_refused_where_the_order_is_left_to_chance(self, job: Job) -> None:
        with pytest.raises(SettingError, match="in_order=False"):
            job.share(Stream(), num_workers=2, in_order=False)


def _by(request: DealRequest, worker: int) -> DealRequest:
    request.worker_id = worker
    return request


class TestWhatIsShared:
    def test_a_data_set_needs_a_batch_size(self) -> None:
        with pytest.raises(SettingError, match="batch_size"):
            loader_of(Numbers(), None, True)
        assert loader_of(Numbers(), 8, True).batch_size == 8

    def test_a_loader_keeps_its_batch_size(self) -> None:
        with pytest.raises(SettingError, match="differs from the loader's 4"):
            loader_of(DataLoader(Numbers(), batch_size=4), 8, True)

    def test_a_list_of_batches_is_answered_clearly(self) -> None:
        with pytest.raises(SettingError, match="one element is one sample"):
            loader_of([torch.zeros(4), torch.zeros(4)], None, True)

    def test_what_only_yields_batches_is_refused_with_what_to_do(self) -> None:
        with pytest.raises(SettingError, match="given generator, which it cannot divide"):
            loader_of((batch for batch in range(3)), 4, True)

    def test_a_loader_without_batches_is_refused(self, job: Job) -> None:
        with pytest.raises(SettingError, match="give it a batch_size"):
            job.share(batch_size=None)
