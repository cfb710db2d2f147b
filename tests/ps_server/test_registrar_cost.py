"""What the registrar does for one report or join does not grow with the job. Counted, not timed: lines of Python that run."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import registrar_script
from counted_events import counted_events
from registrar_script import Key, Script

from pushpull.protos.common_pb2 import ErrorCode
from pushpull.protos.errors import ExpiredError, PushpullError, ReplacedError, StepError
from pushpull.protos.registrar_pb2 import (
    EnrolResponse,
    Fence,
    Member,
    ShardReport,
    StepSettled,
    StepStaged,
    View,
    WorkerReport,
    WorkersAlive,
)
from pushpull.ps_server.ended_workers import ENDED_KEPT
from pushpull.ps_server.membership import FENCES_KEPT, Membership
from pushpull.ps_server.registrar_service import RosterLog
from pushpull.ps_server.worker_ids import MOST_SCATTERED, WorkerIds

SMALL, LARGE = (16, 4), (128, 8)
"""Workers and shards."""
SLACK = 1.5
"""How much more the larger job may cost; what grows with the workers would be 8 times more."""


class Large(Script):
    """As many workers, on as many shards, all active."""

    def __init__(self, num_workers: int, num_shards: int, **settings: object) -> None:
        super().__init__(expected_workers=num_workers, **settings)
        self.num_shards = num_shards
        self.keys = [self.join(number) for number in range(num_workers)]
        for key in self.keys:
            while self.enrol(key).state != EnrolResponse.STATE_READY:
                pass
        for key in self.keys:
            assert self.activate(key).open

    def report(self, report: ShardReport, shards: Any = None) -> None:
        for shard in range(self.num_shards) if shards is None else shards:
            self.registrar.report(self.now, shard, report)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Large]:
    def start(num_workers: int, num_shards: int, **settings: object) -> Large:
        monkeypatch.setattr(registrar_script, "NUM_SHARDS", num_shards)
        return Large(num_workers, num_shards, **settings)

    return start


def staged_round(script: Large, number: int) -> None:
    for key in script.keys:
        staged = StepStaged(
            worker_id=key[0], incarnation=key[1], step=number, round=number, apply=True, num_samples=1, scale=1
        )
        script.report(ShardReport(staged=staged))
    script.pump()


def settled_step(script: Large, number: int) -> None:
    for key in script.keys:
        settled = StepSettled(worker_id=key[0], incarnation=key[1], step=number, applied=True)
        script.report(ShardReport(settled=settled))


def alive_report(script: Large, number: int) -> None:
    for key in script.keys:
        script.report(ShardReport(alive=WorkersAlive(incarnations=[key[1]], ranks=[0])))


@pytest.mark.parametrize(
    ("mode", "act"),
    [("sync", staged_round), ("bounded", settled_step), ("sync", alive_report), ("async", settled_step)],
)
def test_a_report_costs_the_same_in_a_large_job(
    mode: str, act: Callable[[Large, int], None], job: Callable[..., Large]
) -> None:
    costs = []
    for size in (SMALL, LARGE):
        script = job(*size, mode=mode)
        act(script, 1)
        with counted_events("line", "call") as work:
            act(script, 2)
        costs.append(work[0] / (size[0] * size[1]))
    assert costs[1] < SLACK * costs[0]


def test_a_heartbeat_costs_the_same_in_a_large_job(job: Callable[..., Large]) -> None:
    costs = []
    for size in (SMALL, LARGE):
        script = job(*size)
        with counted_events("line", "call") as work:
            script.registrar.heartbeat(script.now, *script.keys[-1], WorkerReport())
            assert script.registrar.num_workers == size[0]
        costs.append(work[0])
    assert costs[0] == costs[1]


def come_and_go(script: Script, log: RosterLog) -> Key:
    key = script.join()
    script.registrar.leave(script.now, *key, WorkerReport(num_steps=1, bytes_pushed=2), "")
    script.pump()
    log.observe(script.registrar.phase, script.registrar.roster.take_changed())
    return key


class TestManyJoins:
    def test_the_last_costs_what_the_first_did(self) -> None:
        script, log = Script(), RosterLog()
        script.join(), script.join()
        costs = []
        for number in range(3000):
            if number in (400, 2999):
                with counted_events("line", "call") as work:
                    come_and_go(script, log)
                costs.append((work[0], script.views[-1].ByteSize() // 8))
            else:
                come_and_go(script, log)
        assert costs[0] == costs[1]

    def test_the_newest_are_shown_and_the_others_added_up(self) -> None:
        script, log = Script(), RosterLog()
        keys = [come_and_go(script, log) for _ in range(ENDED_KEPT + 10)]
        roster = script.registrar.roster
        assert [(status.worker_id, status.state) for status in roster.statuses(0.0)] == [
            (k[0], "left") for k in keys[10:]
        ]
        assert (roster.num_forgotten, roster.forgotten.num_steps, roster.forgotten.bytes_pushed) == (10, 10, 20)

    def test_sums_of_what_strangers_say_do_not_overflow(self) -> None:
        script = Script()
        for _ in range(ENDED_KEPT + 3):
            key = script.join()
            script.registrar.leave(script.now, *key, WorkerReport(num_steps=2**64 - 1, num_samples=float("nan")), "")
        assert script.registrar.roster.forgotten.num_steps == 2**64 - 1
        assert script.registrar.roster.forgotten.num_samples == 0

    def test_ids_and_incarnations_are_never_granted_twice(self) -> None:
        script, log = Script(), RosterLog()
        keys = [script.join(7), *(come_and_go(script, log) for _ in range(2 * ENDED_KEPT))]
        assert len({key[0] for key in keys}) == len(keys)
        assert [key[1] for key in keys] == sorted({key[1] for key in keys})

    def test_an_id_that_was_forgotten_begins_a_life_of_its_own(self) -> None:
        script, log = Script(), RosterLog()
        lives = {script.registrar.roster[key[0]].life for key in (script.join(0), script.join(0))}
        script.registrar.leave(0.0, 0, 2, WorkerReport(), "")
        for _ in range(ENDED_KEPT + 1):
            come_and_go(script, log)
        assert script.registrar.roster[script.join(0)[0]].life not in lives

    @pytest.mark.parametrize("how_long_ago", [0, ENDED_KEPT + 1])
    def test_who_asks_is_told_the_truth_about_its_end(self, how_long_ago: int) -> None:
        script, log = Script(lease_seconds=3), RosterLog()
        left, expired = come_and_go(script, log), script.join()
        script.at(3.5)
        for _ in range(how_long_ago):
            come_and_go(script, log)
        told = []
        for key in (left, expired):
            with pytest.raises(PushpullError) as caught:
                script.registrar.heartbeat(script.now, *key, WorkerReport())
            told.append((type(caught.value), "ended long ago" in str(caught.value)))
        assert told == (
            [(StepError, False), (ExpiredError, False)] if not how_long_ago else [(ReplacedError, True)] * 2
        )

    def test_steps_that_ended_on_some_shards_only_stay_counted(self) -> None:
        script, log = Script(mode="async", lease_seconds=3), RosterLog()
        key = script.ready()
        script.activate(key)
        settled = StepSettled(worker_id=key[0], incarnation=key[1], step=1, applied=True)
        script.report(ShardReport(settled=settled), (0,))
        script.at(3.5)
        for _ in range(ENDED_KEPT + 1):
            come_and_go(script, log)
        assert script.registrar.roster.split_steps == 1


class TestFencesOnAShard:
    def view(self, number: int, *fences: Fence, members: tuple[Member, ...] = ()) -> View:
        return View(number=number, fences=fences, members=members, newest_incarnation=10**6)

    def told(self, membership: Membership, worker: int, incarnation: int) -> PushpullError:
        with pytest.raises(PushpullError) as caught:
            membership.check(worker, incarnation)
        return caught.value

    def test_they_are_remembered_over_views_up_to_a_bound(self) -> None:
        membership = Membership()
        for number in range(1, FENCES_KEPT + 2):
            fence = Fence(worker_id=number, incarnation=number, reason=ErrorCode.FENCED_EXPIRED)
            membership.install(self.view(number, fence))
        assert isinstance(self.told(membership, 2, 2), ExpiredError)
        assert "ended long ago" in str(self.told(membership, 1, 1))

    def test_a_newer_process_is_only_named_where_there_is_one(self) -> None:
        membership = Membership()
        membership.install(self.view(1, members=(Member(worker_id=3, incarnation=9),)))
        assert "a newer process has taken the place" in str(self.told(membership, 3, 8))
        assert "ended long ago" in str(self.told(membership, 4, 8))


class TestWorkerIds:
    def test_chosen_ids_are_left_out(self) -> None:
        ids = WorkerIds()
        given = []
        for chosen in (1, 2, 5):
            ids.take(chosen)
        for _ in range(4):
            given.append(ids.free)
            ids.take(ids.free)
        assert given == [0, 3, 4, 6]

    def test_scattered_ids_take_bounded_memory_and_are_still_never_free(self) -> None:
        ids = WorkerIds()
        for number in range(2 * MOST_SCATTERED):
            ids.take(10 * number + 10)
        assert len(ids._above) <= MOST_SCATTERED
        assert all(ids.was_taken(10 * number + 10) for number in range(2 * MOST_SCATTERED))

    @pytest.mark.parametrize("every", [1, 3])
    def test_whoever_chooses_many_of_the_largest_leaves_the_small_ones_free(self, every: int) -> None:
        ids = WorkerIds()
        chosen = [2**31 - 1 - every * number for number in range(MOST_SCATTERED + 10)]
        for number in chosen:
            ids.take(number)
        assert len(ids._above) <= MOST_SCATTERED
        assert all(map(ids.was_taken, chosen))
        assert ids.free == 0

    @pytest.mark.parametrize("reserved", [0, 5])
    def test_each_of_them_is_taken_once_and_the_smallest_is_next(self, reserved: int) -> None:
        chance, ids, taken = random.Random(3), WorkerIds(reserved), set[int]()
        for _ in range(200):
            number = chance.choice([ids.free, chance.randrange(300)])
            ids.take(number)
            taken.add(number)
            assert {number for number in range(310) if ids.was_taken(number)} == taken
            assert ids.free == next(number for number in range(reserved, 310) if number not in taken)
