"""Dealing data: no sample lost, none used twice."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull.protos.errors import SettingError
from pushpull.protos.registrar_pb2 import DealRequest, DealResponse, Lot
from pushpull.ps_server.dealing import FEW_LOTS, DataDealer


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
def test_every_sample_is_done_exactly_once_whoever_dies(seed: int, in_turns: bool) -> None:
    """Workers ask, finish, fail and die in a random order; one always lives on."""
    chance = random.Random(seed)
    dealer, members = DataDealer(in_turns), {0, 1, 2}
    held: dict[int, list[Lot]] = {0: [], 1: [], 2: []}
    over: set[int] = set()
    done: list[Lot] = []
    for _ in range(3000):
        worker = chance.choice(sorted(members))
        event = chance.random()
        if event < 0.02 and len(members) > 1:
            members.discard(worker)
            held[worker].clear()
            dealer.lose(worker)
        elif event < 0.1 and held[worker]:
            dealer.give_back([held[worker].pop().id])
        elif event < 0.5 and held[worker]:
            lot = held[worker].pop()
            dealer.done([lot.id])
            done.append(lot)
        elif not held[worker]:
            answer = ask(dealer, worker, members, batch=worker + 3, lots=2)
            held[worker].extend(answer.lots)
            if answer.state == DealResponse.STATE_OVER:
                over.add(worker)
        if members <= over:
            break
    if in_turns:
        assert members <= over, "the epoch does not end"
        assert sorted(positions(done)) == list(range(100))
    else:
        assert len(positions(done)) == len(set(positions(done)))


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


def test_a_late_joiner_comes_to_the_epoch_that_goes_on() -> None:
    dealer = DataDealer(in_turns=False)
    ask(dealer, 0, {0}, lots=20)
    ask(dealer, 0, {0})
    ask(dealer, 0, {0}, epoch=1)
    assert ask(dealer, 1, {0}, epoch=0).state == DealResponse.STATE_OVER
    assert ask(dealer, 1, {0}, epoch=1).lots[0].epoch == 1


@pytest.mark.parametrize(("drop_last", "samples"), [(False, 100), (True, 96)])
def test_the_short_rest_is_dropped_only_on_request(drop_last: bool, samples: int) -> None:
    dealer = DataDealer(in_turns=False)
    dealt = ask(dealer, 0, {0}, batch=32, lots=9, drop_last=drop_last)
    assert len(positions(list(dealt.lots))) == samples


def test_data_sets_of_unlike_sizes_are_refused() -> None:
    dealer = DataDealer(in_turns=False)
    ask(dealer, 0, {0, 1})
    with pytest.raises(SettingError, match="100"):
        ask(dealer, 1, {0, 1}, size=99)


def test_without_turns_nobody_gets_many_lots_of_what_is_left() -> None:
    """Two readers: a quarter of what is left for one answer, and never less than a few lots."""
    dealer = DataDealer(in_turns=False)
    ask(dealer, 1, set(), size=1000)  # one lot of ten samples is gone
    counts = [len(ask(dealer, 0, set(), size=1000, lots=32).lots) for _ in range(10)]
    assert counts[:4] == [24, 18, 14, 10]
    assert counts[-2:] == [FEW_LOTS, FEW_LOTS]


def test_in_turns_as_many_lots_are_dealt_as_are_asked_for() -> None:
    dealer = DataDealer(in_turns=True)
    assert len(ask(dealer, 0, {0}, lots=8).lots) == 8
