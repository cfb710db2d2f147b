"""What a shard makes of views."""

import pytest

from pushpull.protos.common_pb2 import ErrorCode
from pushpull.protos.errors import ExpiredError, PushpullError, ReplacedError, StepError, UnknownIncarnationError
from pushpull.protos.registrar_pb2 import Fence, Member, View
from pushpull.ps_server.membership import FENCES_KEPT, Membership


def view(number: int, *members: Member, fences: tuple[Fence, ...] = (), newest: int = 9) -> View:
    return View(number=number, members=members, fences=fences, newest_incarnation=newest)


def member(worker: int, incarnation: int, clock: int = 0, active: bool = True) -> Member:
    return Member(worker_id=worker, incarnation=incarnation, active=active, start_clock=clock)


@pytest.mark.parametrize(
    ("worker", "incarnation", "error"),
    [
        (0, 4, None),
        (0, 1, ReplacedError),
        (1, 3, ExpiredError),
        (2, 2, StepError),
        (5, 10, UnknownIncarnationError),
        (5, 8, ReplacedError),
    ],
)
def test_only_live_incarnations_are_listened_to(
    worker: int, incarnation: int, error: type[PushpullError] | None
) -> None:
    membership = Membership()
    expired = Fence(worker_id=1, incarnation=3, reason=ErrorCode.FENCED_EXPIRED)
    left = Fence(worker_id=2, incarnation=2, reason=ErrorCode.BAD_STEP)
    membership.install(view(1, member(0, 4), fences=(expired, left)))
    if error is None:
        assert membership.check(worker, incarnation).incarnation == incarnation
    else:
        with pytest.raises(error):
            membership.check(worker, incarnation)


def test_an_older_view_changes_nothing() -> None:
    membership = Membership()
    membership.install(view(2, member(0, 1)))
    assert membership.install(view(1)) == []
    assert membership.check(0, 1)


def test_clock_lag_counts_from_the_slowest_active_member() -> None:
    membership = Membership()
    membership.install(view(1, member(0, 1), member(1, 2), member(2, 3, active=False)))
    for _ in range(3):
        membership.advance(0)
    assert membership.clock_lag(0) == 3
    assert membership.clock_lag(1) == 0
    assert membership.clock_lag(2) == 0


def test_the_lag_behind_a_step_is_what_it_will_be_when_the_step_is_settled() -> None:
    membership = Membership()
    membership.install(view(1, member(0, 1), member(1, 2), member(2, 3, active=False)))
    for worker in (0, 1, 0, 0, 1, 2):
        foreseen = membership.clock_lag_after_step(worker)
        membership.advance(worker)
        assert membership.clock_lag(worker) == foreseen


def test_a_late_joiner_starts_at_its_start_clock_and_a_leaver_frees_the_others() -> None:
    membership = Membership()
    membership.install(view(1, member(0, 1), member(1, 2)))
    for _ in range(5):
        membership.advance(0)
    membership.install(view(2, member(0, 1), member(1, 2), member(2, 3, clock=5)))
    assert membership.clock_lag(0) == 5
    gone = membership.install(view(3, member(0, 1), member(2, 3, clock=5)))
    assert gone == [(1, 2)]
    assert membership.clock_lag(0) == 0


def test_the_only_member_lags_behind_nobody() -> None:
    membership = Membership()
    membership.install(view(1, member(0, 1)))
    membership.advance(0)
    assert membership.clock_lag(0) == 0


def test_clocks_of_ids_that_nobody_has_any_more_are_bounded() -> None:
    membership = Membership()
    membership.install(view(1, member(0, 1, clock=7)))
    for number in range(2, FENCES_KEPT + 100):
        membership.install(view(number, member(0, 1, clock=7), member(number, number, clock=3)))
    assert len(membership._clocks) <= FENCES_KEPT + 2
    assert (membership.clock(0), membership.clock(number), membership.clock(number - 1)) == (7, 3, 3)
