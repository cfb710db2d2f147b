"""Dealing data: no sample lost, none used twice."""

import random

import pytest
from counted_events import counted_events
from hypothesis import given
from hypothesis import strategies as st

from pushpull.protos.errors import SettingError
from pushpull.protos.registrar_pb2 import DealRequest, DealResponse, Lot
from pushpull.ps_server.data_sets import MOST_OPEN_EPOCHS
from pushpull.ps_server.dealing import (
    LOTS_AT_ONCE_NEAR_THE_END,
    MOST_DATA_SETS_OF_A_WORKER,
    MOST_EPOCHS,
    MOST_LOTS_AT_ONCE,
    DataDealer,
    GivenUp,
)
from pushpull.ps_server.epochs import MOST_DEATHS, MOST_READ_FAILURES
from pushpull.ps_server.striding import MOST_STREAMS_OF_A_WORKER


def ask(
    dealer: DataDealer,
    worker: int,
    members: set[int],
    *,
    epoch: int = 0,
    size: int = 100,
    batch: int = 10,
    lots: int = 1,
    **more: object,
) -> DealResponse:
    request = DealRequest(worker_id=worker, epoch=epoch, dataset_size=size, batch_size=batch, num_lots=lots, **more)
    return dealer.deal(request, members)


def positions(lots: list[Lot]) -> list[int]:
    return [position for lot in lots for position in range(lot.first, lot.first + lot.size)]


@given(seed=st.integers(0, 10_000), in_turns=st.booleans())
def test_every_sample_is_done_exactly_once_whatever_happens(seed: int, in_turns: bool) -> None:
    """Workers ask, finish, fail, pause, are suspended, look only, lose answers and die in a random order; one lives on."""
    chance = random.Random(seed)
    dealer, members = DataDealer(in_turns), {0, 1, 2}
    held: dict[int, list[Lot]] = {0: [], 1: [], 2: []}
    numbers = dict.fromkeys(members, 0)
    over: set[int] = set()
    done: list[Lot] = []
    for _ in range(3000):
        worker = chance.choice(sorted(members))
        event = chance.random()
        if event < 0.01 and len(members) > 1:
            members.discard(worker)
            held[worker].clear()
            dealer.lose(worker, died=False)
        elif event < 0.03:
            dealer.recall(worker)
            held[worker].clear()
        elif event < 0.05:
            dealer.pause(worker, [])
            held[worker].clear()
        elif event < 0.1 and held[worker]:
            dealer.give_back([held[worker].pop().id])
        elif event < 0.5 and held[worker]:
            lot = held[worker].pop()
            dealer.done([lot.id])
            done.append(lot)
        elif not held[worker] and worker not in over:
            numbers[worker] += 1
            answers = [
                ask(dealer, worker, members, batch=worker + 3, lots=2, number=numbers[worker])
                for _ in range(chance.choice([1, 1, 2]))  # asked again when the answer was lost
            ]
            held[worker].extend(answers[-1].lots)
            if answers[-1].state == DealResponse.STATE_OVER:
                over.add(worker)
        if members <= over:
            break
    assert members <= over, "the epoch does not end"
    assert sorted(positions(done)) == list(range(100))
    assert not dealer._open
    assert not dealer._epochs


def test_in_turns_the_order_of_asking_does_not_matter() -> None:
    deals = []
    for order in ([0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 0, 1], [0, 0, 0, 1, 1, 1]):
        dealer = DataDealer(in_turns=True)
        for worker in (0, 1):
            assert ask(dealer, worker, {0, 1}).state in (DealResponse.STATE_WAIT, DealResponse.STATE_LOTS)
        dealer = DataDealer(in_turns=True)
        ask(dealer, 0, {0, 1})
        dealt: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
        for worker in [1, *order]:
            dealt[worker] += [(lot.first, lot.size) for lot in ask(dealer, worker, {0, 1}).lots]
        deals.append({worker: lots[:3] for worker, lots in dealt.items()})
    assert deals[0] == deals[1] == deals[2]


def test_in_turns_the_first_turn_waits_for_every_member_and_only_for_those_that_share() -> None:
    dealer = DataDealer(in_turns=True)
    assert ask(dealer, 0, {0, 1}).state == DealResponse.STATE_WAIT
    dealer.not_sharing(1)
    assert ask(dealer, 0, {0, 1}).state == DealResponse.STATE_LOTS


def test_a_worker_without_data_goes_on_until_the_others_are_done() -> None:
    dealer = DataDealer(in_turns=True)
    ask(dealer, 0, {0, 1}, size=10)
    last = ask(dealer, 1, {0, 1}, size=10)
    assert last.state == DealResponse.STATE_EXHAUSTED
    lot = ask(dealer, 0, {0, 1}, size=10).lots[0]
    assert ask(dealer, 1, {0, 1}, size=10).state == DealResponse.STATE_EXHAUSTED
    dealer.done([lot.id])
    assert ask(dealer, 1, {0, 1}, size=10).state == DealResponse.STATE_OVER
    assert ask(dealer, 0, {0, 1}, size=10).state == DealResponse.STATE_OVER


def test_data_of_a_dead_worker_go_to_the_living() -> None:
    dealer = DataDealer(in_turns=False)
    lost = positions(list(ask(dealer, 0, {0, 1}, lots=4).lots))
    dealer.lose(0)
    taken = positions(list(ask(dealer, 1, {1}, lots=20).lots))
    assert sorted(taken) == list(range(100))
    assert set(lost) <= set(taken)


def test_leaving_the_loop_early_gives_the_rest_back() -> None:
    dealer = DataDealer(in_turns=False)
    ask(dealer, 0, {0, 1}, lots=4)
    assert ask(dealer, 0, {0, 1}, leave_epoch=True).state == DealResponse.STATE_OVER
    assert len(positions(list(ask(dealer, 1, {0, 1}, lots=20).lots))) == 100


def use_all(dealer: DataDealer, worker: int, members: set[int], **more: object) -> list[int]:
    """Reads an epoch to its end, a step for each lot; the positions."""
    seen = []
    while (answer := ask(dealer, worker, members, **more)).state == DealResponse.STATE_LOTS:
        seen += positions(list(answer.lots))
        dealer.done(lot.id for lot in answer.lots)
    assert answer.state == DealResponse.STATE_OVER
    return seen


def test_a_late_joiner_comes_to_the_epoch_that_goes_on() -> None:
    dealer = DataDealer(in_turns=False)
    use_all(dealer, 0, {0}, lots=20)
    ask(dealer, 0, {0}, epoch=1)
    assert ask(dealer, 1, {0}, epoch=0).state == DealResponse.STATE_OVER
    assert ask(dealer, 1, {0}, epoch=1).lots[0].epoch == 1


@pytest.mark.parametrize(("drop_last", "samples"), [(False, 100), (True, 96)])
def test_the_short_rest_is_dropped_only_on_request(drop_last: bool, samples: int) -> None:
    dealer = DataDealer(in_turns=False)
    dealt = ask(dealer, 0, {0}, batch=32, lots=9, drop_last=drop_last)
    assert len(positions(list(dealt.lots))) == samples


def test_data_sets_of_unlike_sizes_are_refused_by_name() -> None:
    dealer = DataDealer(in_turns=False)
    ask(dealer, 0, {0, 1}, data_set="pictures")
    with pytest.raises(SettingError, match="99 samples as number or name 'pictures', but others share one of 100"):
        ask(dealer, 1, {0, 1}, size=99, data_set="pictures")


def test_a_data_set_that_nobody_reads_any_more_may_have_changed() -> None:
    dealer = DataDealer(in_turns=False)
    ask(dealer, 0, {0})
    dealer.lose(0)
    assert len(use_all(dealer, 1, {1}, size=99)) == 99


def test_without_turns_nobody_gets_many_lots_of_what_is_left() -> None:
    """Two readers: a quarter of what is left for one answer; in the end one, so that others wait for one slow step."""
    dealer = DataDealer(in_turns=False)
    ask(dealer, 1, set(), size=1000)  # one lot of ten samples is gone
    counts = [len(ask(dealer, 0, set(), size=1000, lots=32).lots) for _ in range(13)]
    assert counts[:4] == [24, 18, 14, 10]
    assert counts[-2:] == [LOTS_AT_ONCE_NEAR_THE_END] * 2 == [1, 1]


def test_in_turns_as_many_lots_are_dealt_as_are_asked_for() -> None:
    dealer = DataDealer(in_turns=True)
    assert len(ask(dealer, 0, {0}, lots=8).lots) == 8


MEMBERS = {0, 1}


class TestAnEpochEnds:
    @pytest.mark.parametrize("in_turns", [False, True])
    def test_only_when_all_its_lots_are_done(self, in_turns: bool) -> None:
        dealer = DataDealer(in_turns)
        ask(dealer, 1, MEMBERS, size=20) if in_turns else None  # the first turn waits for both
        (first,) = ask(dealer, 0, MEMBERS, size=20).lots
        second = ask(dealer, 1, MEMBERS, size=20, number=1).lots[0]
        dealer.done([first.id])
        assert ask(dealer, 0, MEMBERS, size=20).state == DealResponse.STATE_EXHAUSTED
        dealer.done([second.id])
        assert ask(dealer, 0, MEMBERS, size=20).state == DealResponse.STATE_OVER

    @pytest.mark.parametrize("in_turns", [False, True])
    def test_with_the_last_lots_of_a_worker_that_died_in_the_hands_of_the_others(self, in_turns: bool) -> None:
        dealer = DataDealer(in_turns)
        ask(dealer, 1, {1}, lots=4, size=40)
        assert ask(dealer, 0, {0, 1}, size=40).state == DealResponse.STATE_EXHAUSTED
        dealer.lose(1)
        assert sorted(use_all(dealer, 0, {0}, size=40)) == list(range(40))

    def test_with_what_user_code_holds_of_several_workers_and_never_used(self) -> None:
        dealer = DataDealer(in_turns=False)
        held = {w: [lot.id for lot in ask(dealer, w, MEMBERS, size=20, number=1).lots] for w in MEMBERS}
        last = {w: ask(dealer, w, MEMBERS, size=20, number=2, held=held[w]).state for w in MEMBERS}
        assert last == {0: DealResponse.STATE_EXHAUSTED, 1: DealResponse.STATE_OVER}
        assert ask(dealer, 0, MEMBERS, size=20, number=3, held=held[0]).state == DealResponse.STATE_OVER
        assert not dealer._open

    def test_what_user_code_held_at_its_end_goes_back_if_the_worker_dies_before_the_epoch_ends(self) -> None:
        dealer = DataDealer(in_turns=False)
        (kept,) = ask(dealer, 0, MEMBERS, size=20, number=1).lots
        (other,) = ask(dealer, 1, MEMBERS, size=20, number=1).lots
        assert ask(dealer, 0, MEMBERS, size=20, number=2, held=[kept.id]).state == DealResponse.STATE_EXHAUSTED
        dealer.lose(0)
        dealer.done([other.id])
        assert use_all(dealer, 1, {1}, size=20) == positions([kept])

    def test_for_a_reader_for_whom_the_rest_is_too_small_although_another_can_use_it(self) -> None:
        dealer = DataDealer(in_turns=False)
        (lot,) = ask(dealer, 1, MEMBERS, batch=4, size=36).lots
        dealer.done([lot.id])
        assert len(use_all(dealer, 0, MEMBERS, batch=30, size=36, drop_last=True)) == 30
        assert use_all(dealer, 1, MEMBERS, batch=4, size=36) == [34, 35]

    def test_once_everybody_has_left_it(self) -> None:
        dealer = DataDealer(in_turns=False)
        for worker in MEMBERS:
            dealer.done(lot.id for lot in ask(dealer, worker, MEMBERS).lots)
        for worker in MEMBERS:
            ask(dealer, worker, MEMBERS, leave_epoch=True)
        for worker in MEMBERS:
            assert ask(dealer, worker, MEMBERS, epoch=1).lots
        assert ask(dealer, 2, MEMBERS | {2}).state == DealResponse.STATE_OVER
        assert list(dealer._epochs) == [("", 1)], "lots of earlier epochs do not stay in the books"

    def test_but_not_when_it_was_only_looked_at(self) -> None:
        dealer = DataDealer(in_turns=False)
        ask(dealer, 0, {0})
        ask(dealer, 0, {0}, leave_epoch=True)
        assert len(use_all(dealer, 0, {0})) == 100

    def test_and_not_when_its_only_reader_failed_in_it(self) -> None:
        """The loop is left by the exception first, and then the worker leaves the job."""
        dealer = DataDealer(in_turns=False)
        used = ask(dealer, 0, {0}).lots[0]
        dealer.done([used.id])
        ask(dealer, 0, {0}, leave_epoch=True)
        dealer.lose(0)
        assert len(use_all(dealer, 0, {0})) == 90

    def test_and_a_worker_that_begins_anew_goes_on_where_it_was(self) -> None:
        dealer = DataDealer(in_turns=False)
        use_all(dealer, 0, {0})
        used = ask(dealer, 0, {0}, epoch=1, lots=3).lots[0]
        dealer.done([used.id])
        dealer.lose(0)
        assert use_all(dealer, 0, {0}) == [], "the first epoch is over"
        assert sorted(use_all(dealer, 0, {0}, epoch=1)) == sorted(set(range(100)) - set(positions([used])))


class TestARequestComesAgain:
    def test_it_is_answered_from_record(self) -> None:
        dealer = DataDealer(in_turns=False)
        first = ask(dealer, 0, MEMBERS, number=1, lots=4)
        assert ask(dealer, 0, MEMBERS, number=1, lots=4) == first
        assert len(dealer._open) == 4

    @pytest.mark.parametrize("lots", [1, 4])
    def test_but_not_with_lots_that_went_to_others_meanwhile(self, lots: int) -> None:
        dealer = DataDealer(in_turns=False)
        lost = ask(dealer, 1, MEMBERS, number=1, lots=lots)
        dealer.recall(1)
        assert sorted(use_all(dealer, 0, MEMBERS)) == list(range(100))
        again = ask(dealer, 1, MEMBERS, number=1, lots=lots)
        assert lost.lots
        assert not again.lots
        assert ask(dealer, 1, MEMBERS, number=2).recalled

    def test_with_the_lots_that_a_suspension_left_to_it(self) -> None:
        dealer = DataDealer(in_turns=False)
        first = ask(dealer, 1, MEMBERS, number=1)
        dealer.recall(1, [lot.id for lot in first.lots])
        assert ask(dealer, 1, MEMBERS, number=1) == first

    def test_one_that_was_delayed_changes_nothing(self) -> None:
        dealer = DataDealer(in_turns=False)
        ask(dealer, 0, MEMBERS, number=1)
        ask(dealer, 0, MEMBERS, number=2)
        assert ask(dealer, 0, MEMBERS, number=1, leave_epoch=True).state == DealResponse.STATE_WAIT
        assert len(dealer._open) == 2

    def test_another_incarnation_counts_anew(self) -> None:
        dealer = DataDealer(in_turns=False)
        ask(dealer, 0, MEMBERS, number=7)
        dealer.lose(0)
        assert ask(dealer, 0, MEMBERS, number=1).lots

    def test_without_numbers_what_a_worker_does_not_say_it_holds_comes_back_to_it(self) -> None:
        dealer = DataDealer(in_turns=False)
        lost = ask(dealer, 0, {0}, lots=4)
        assert sorted(use_all(dealer, 0, {0})) == list(range(100))
        assert len(lost.lots) == 4


class TestNobodyWaitsForEver:
    def test_for_a_member_that_waits_for_another_data_set(self) -> None:
        dealer = DataDealer(in_turns=True)
        assert ask(dealer, 0, MEMBERS, data_set="a").state == DealResponse.STATE_WAIT
        assert ask(dealer, 1, MEMBERS, data_set="b").lots
        assert ask(dealer, 0, MEMBERS, data_set="a").state == DealResponse.STATE_WAIT, "it may still come"

    def test_for_a_member_that_waits_for_what_the_waiting_one_holds(self) -> None:
        """Nested loops: worker 0 has one outer batch more."""
        dealer = DataDealer(in_turns=True)
        ask(dealer, 0, MEMBERS, data_set="outer", size=10)
        assert ask(dealer, 1, MEMBERS, data_set="outer", size=10).state == DealResponse.STATE_EXHAUSTED
        assert ask(dealer, 0, MEMBERS, data_set="outer", size=10).lots
        assert ask(dealer, 0, MEMBERS, data_set="inner").lots

    def test_who_is_waited_for_is_known(self) -> None:
        dealer = DataDealer(in_turns=True)
        ask(dealer, 0, MEMBERS)
        assert dealer.waiting_for(MEMBERS) == {1}, "has not come"
        ask(dealer, 1, MEMBERS, size=100)
        assert dealer.waiting_for(MEMBERS) == set()

    def test_who_holds_the_last_lots_is_waited_for_and_not_who_paused_with_them(self) -> None:
        dealer = DataDealer(in_turns=False)
        (lot,) = ask(dealer, 1, MEMBERS, size=10, number=1).lots
        assert ask(dealer, 0, MEMBERS, size=10).state == DealResponse.STATE_EXHAUSTED
        assert dealer.waiting_for(MEMBERS) == {1}
        dealer.pause(1, held=[lot.id])
        assert dealer.waiting_for(MEMBERS) == set()
        assert ask(dealer, 0, MEMBERS, size=10).state == DealResponse.STATE_OVER

    def test_what_a_suspended_worker_had_goes_to_others_and_it_is_told(self) -> None:
        dealer = DataDealer(in_turns=False)
        lots = [lot.id for lot in ask(dealer, 1, MEMBERS, lots=10, number=1).lots]
        dealer.recall(1)
        assert dealer.was_recalled(1, lots[:1])
        assert sorted(use_all(dealer, 0, MEMBERS)) == list(range(100))
        dealer.done(dealer.own(1, lots))
        answer = ask(dealer, 1, MEMBERS, number=2)
        assert answer.recalled
        assert not dealer.was_recalled(1, lots)
        assert not ask(dealer, 1, MEMBERS, number=3).recalled

    def test_lots_that_are_dealt_again_are_not_done_by_their_old_number(self) -> None:
        dealer = DataDealer(in_turns=False)
        (old,) = ask(dealer, 1, MEMBERS, size=10, number=1).lots
        dealer.recall(1)
        (new,) = ask(dealer, 0, MEMBERS, size=10).lots
        assert new.id != old.id
        assert dealer.own(1, [old.id, new.id]) == []


class TestSeveralDataSets:
    def test_each_has_its_own_lots_and_epochs(self) -> None:
        dealer = DataDealer(in_turns=False)
        assert len(use_all(dealer, 0, {0}, data_set="train")) == 100
        assert len(use_all(dealer, 0, {0}, data_set="valid", size=20)) == 20
        assert len(use_all(dealer, 0, {0}, data_set="train", epoch=1)) == 100

    def test_leaving_one_leaves_the_other(self) -> None:
        dealer = DataDealer(in_turns=False)
        for name in ("a", "b"):
            ask(dealer, 0, {0}, data_set=name)
        ask(dealer, 0, {0}, data_set="a", leave_epoch=True)
        assert len(dealer._open) == 1

    def test_samples_or_an_order_of_its_own_are_refused(self) -> None:
        dealer = DataDealer(in_turns=False)
        ask(dealer, 0, MEMBERS, fingerprint=5)
        with pytest.raises(SettingError, match="worker 1 would read other samples"):
            ask(dealer, 1, MEMBERS, fingerprint=6)

    def test_another_run_begins_with_the_first_epoch_again(self) -> None:
        dealer = DataDealer(in_turns=False)
        lots = {lot.id for lot in ask(dealer, 0, {0}).lots}
        dealer.begin_anew()
        assert lots.isdisjoint(lot.id for lot in ask(dealer, 0, {0}).lots)
        assert len(use_all(dealer, 0, {0})) == 100


class TestALotThatNobodyCanRead:
    def test_it_is_given_up_after_so_many_deaths_and_the_epoch_ends_for_the_rest(self) -> None:
        dealer, deaths, seen = DataDealer(in_turns=False), 0, []
        for worker in range(20):
            while (answer := ask(dealer, worker, {worker})).state == DealResponse.STATE_LOTS:
                (lot,) = answer.lots
                if 13 in positions([lot]):
                    dealer.lose(worker)
                    deaths += 1
                    break
                dealer.done([lot.id])
                seen += positions([lot])
            else:
                break
        assert deaths == MOST_DEATHS
        assert sorted(seen) == [p for p in range(100) if not 10 <= p < 20]
        assert dealer.given_up == [GivenUp("", 0, 10, 10, read_failures=0, deaths=MOST_DEATHS)]
        assert (dealer.num_lots_given_up, dealer.num_samples_given_up) == (1, 10)

    def test_fewer_workers_that_say_so_are_enough(self) -> None:
        dealer = DataDealer(in_turns=True)
        for worker in range(MOST_READ_FAILURES):
            lots = []
            while 5 not in positions(lots):
                lots += ask(dealer, worker, {worker}, lots=3, size=10, batch=5, number=len(lots) + 1).lots
            ask(dealer, worker, {worker}, leave_epoch=True, unreadable=[lots[-1].id])
            dealer.lose(worker)
        assert dealer.given_up == [GivenUp("", 0, 5, 5, read_failures=MOST_READ_FAILURES, deaths=0)]
        assert use_all(dealer, 9, {9}, size=10, batch=5) == [0, 1, 2, 3, 4]

    def test_what_two_workers_died_of_perhaps_is_dealt_last_and_alone(self) -> None:
        dealer = DataDealer(in_turns=False)
        for _ in range(2):
            ask(dealer, 0, {0}, lots=4)
            dealer.lose(0)
        assert positions(list(ask(dealer, 1, {1}, lots=64).lots)) == list(range(40, 100))
        assert [len(ask(dealer, 1, {1}, lots=64, number=n).lots) for n in range(1, 6)] == [1, 1, 1, 1, 0]

    def test_those_that_left_cleanly_are_not_deaths(self) -> None:
        dealer = DataDealer(in_turns=False)
        for worker in range(10):
            ask(dealer, worker, {worker})
            dealer.lose(worker, died=False)
        assert dealer.given_up == []


class TestNumbersThatNoHonestWorkerSends:
    @pytest.mark.parametrize(
        "hostile",
        [
            {"epoch": 1 << 63},
            {"batch": 1 << 63},
            {"size": 1 << 63},
            {"data_set": "x" * (1 << 20)},
            {"batch": 0},
            {"size": 0},
        ],
        ids=["epoch", "batch", "size", "name", "no batch", "no size"],
    )
    def test_they_are_refused_and_take_nothing_from_others(self, hostile: dict[str, object]) -> None:
        dealer = DataDealer(in_turns=False)
        (lot,) = ask(dealer, 0, {0}).lots
        with pytest.raises(SettingError):
            ask(dealer, 1, {0, 1}, **hostile)
        dealer.done([lot.id])
        for epoch in range(2):
            use_all(dealer, 0, {0}, epoch=epoch)

    @pytest.mark.parametrize("epoch", [1, 5, 10**6, MOST_EPOCHS])
    def test_one_that_is_far_ahead_ends_no_epoch_of_others(self, epoch: int) -> None:
        dealer = DataDealer(in_turns=False)
        ask(dealer, 0, {0, 1})
        ask(dealer, 1, {0, 1}, epoch=epoch)
        ask(dealer, 1, {0, 1}, epoch=epoch, leave_epoch=True)
        for number in range(8):
            assert len(use_all(dealer, 0, {0, 1}, epoch=number)) in ((90, 100) if number == 0 else (100,))

    def test_many_lots_at_once_are_no_more_than_some(self) -> None:
        dealer = DataDealer(in_turns=False)
        assert len(ask(dealer, 0, {0}, size=1 << 40, lots=(1 << 32) - 1).lots) == MOST_LOTS_AT_ONCE

    def test_many_data_sets_of_one_worker_are_refused_and_others_still_share_theirs(self) -> None:
        dealer = DataDealer(in_turns=False)
        refused = 0
        for number in range(10_000):
            try:
                ask(dealer, 0, {0}, data_set=str(number))
            except SettingError:
                refused += 1
        assert (len(dealer._sets), refused) == (MOST_DATA_SETS_OF_A_WORKER, 10_000 - MOST_DATA_SETS_OF_A_WORKER)
        assert ask(dealer, 1, {0, 1}, data_set="mine").lots

    def test_many_epochs_of_one_worker_stay_few(self) -> None:
        dealer = DataDealer(in_turns=False)
        for number in range(2000):
            lots = ask(dealer, 0, {0}, epoch=2 * number).lots
            dealer.done(lot.id for lot in lots)
            dealer.lose(0)
        assert len(dealer._epochs) <= MOST_OPEN_EPOCHS

    def test_lots_of_others_are_not_done_by_naming_them(self) -> None:
        dealer = DataDealer(in_turns=False)
        (lot,) = ask(dealer, 0, {0}).lots
        assert dealer.own(1, [lot.id]) == []
        assert dealer.own(0, [lot.id, 12345]) == [lot.id]


class TestManyLotsOfOneWorker:
    """What happens under the registrar's lock costs something for each lot, not for each pair of them."""

    NUM_LOTS = 1000

    @pytest.mark.parametrize("in_turns", [True, False])
    @pytest.mark.parametrize("what", ["lose", "pause", "recall", "leave"])
    def test_they_go_back_in_time_that_grows_with_their_number(self, what: str, in_turns: bool) -> None:
        lines = [self._lines(what, in_turns, number) for number in (self.NUM_LOTS, 2 * self.NUM_LOTS)]
        assert lines[1] < 3 * lines[0]

    @staticmethod
    def _lines(what: str, in_turns: bool, num_lots: int) -> int:
        """Of Python that giving so many lots back takes: worker 1 has them, dealt and not fetched where they go in turns."""
        dealer = DataDealer(in_turns)
        size = 2 * num_lots + 2
        asking = {"size": size, "batch": 1, "lots": MOST_LOTS_AT_ONCE}
        ask(dealer, 1, {0, 1}, **{**asking, "lots": 1})
        for _ in range(num_lots // MOST_LOTS_AT_ONCE + 1):
            ask(dealer, 0 if in_turns else 1, {0, 1}, **asking)
        assert len(dealer._epochs["", 0].of(1)) >= num_lots
        with counted_events("line") as lines:
            if what == "lose":
                dealer.lose(1)
            elif what == "leave":
                ask(dealer, 1, {0, 1}, **asking, leave_epoch=True)
            else:
                getattr(dealer, what)(1, Listed(range(1 << 20, (1 << 20) + num_lots)))
        assert not any(epoch.of(1) for epoch in dealer._epochs.values())
        return lines[0]


class Listed(list[int]):
    """As a message has numbers: looking one up goes through all."""

    def __contains__(self, number: object) -> bool:
        return any(each == number for each in self)


class TestDataWithoutPositions:
    def place(self, dealer: DataDealer, worker: int, live: list[int], epoch: int = 0) -> tuple[int, int] | None:
        request = DealRequest(worker_id=worker, epoch=epoch, data_set="stream", strided=True)
        answer = dealer.deal(request, (), live)
        return (answer.place, answer.num_places) if answer.state == DealResponse.STATE_LOTS else None

    @pytest.mark.parametrize("live", [[0, 1], [0, 2], [3, 5, 7, 9], [1, 4]])
    def test_the_place_among_those_that_are_there_counts_and_not_the_id(self, live: list[int]) -> None:
        dealer = DataDealer(in_turns=True)
        assert [self.place(dealer, worker, live) for worker in live] == [(n, len(live)) for n in range(len(live))]

    def test_who_comes_or_goes_within_an_epoch_does_not_change_the_others_places(self) -> None:
        dealer = DataDealer(in_turns=False)
        assert self.place(dealer, 0, [0, 1]) == (0, 2)
        dealer.lose(1)
        assert self.place(dealer, 2, [0, 2]) is None, "it comes to the next epoch"
        assert self.place(dealer, 2, [0, 2], epoch=1) == (1, 2)
        assert self.place(dealer, 0, [0, 2], epoch=1) == (0, 2)

    def test_a_late_joiner_comes_to_the_epoch_that_goes_on(self) -> None:
        dealer = DataDealer(in_turns=False)
        for epoch in range(4):
            self.place(dealer, 0, [0], epoch)
        places = [self.place(dealer, 1, [0, 1], epoch) for epoch in range(5)]
        assert places == [None, None, None, None, (1, 2)]

    def test_many_data_sets_of_one_worker_are_refused_and_others_still_read_theirs(self) -> None:
        dealer = DataDealer(in_turns=False)

        def name(worker: int, data_set: str, epoch: int = 0) -> "DealResponse.State":
            request = DealRequest(worker_id=worker, epoch=epoch, data_set=data_set, strided=True)
            return dealer.deal(request, (), [0, 1]).state

        for number in range(MOST_STREAMS_OF_A_WORKER):
            assert name(0, str(number)) == DealResponse.STATE_LOTS
        for _ in range(3):
            with pytest.raises(SettingError, match="more than 64 data sets"):
                name(0, "one more")
        assert name(0, "0", epoch=1) == name(1, "mine") == DealResponse.STATE_LOTS
        dealer.lose(0)
        assert name(0, "another life's") == DealResponse.STATE_LOTS
