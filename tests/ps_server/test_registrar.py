"""The registrar as a state machine: calls in, orders out, time as a number."""

import pytest
from raw_worker import sgd
from registrar_script import Key, Script, two_active

from pushpull.protos.errors import BadRequestError, ExpiredError, ReplacedError, StepError
from pushpull.protos.registrar_pb2 import (
    DealRequest,
    EnrolResponse,
    Initialised,
    PlanInstalled,
    Role,
    ShardReport,
    StepRefused,
    StepSettled,
    WorkerReport,
)


class TestIncarnations:
    def test_they_only_grow_and_free_ids_are_taken(self) -> None:
        script = Script()
        assert [script.join(), script.join(), script.join(0)] == [(0, 1), (1, 2), (0, 3)]

    def test_a_newer_process_fences_the_older(self) -> None:
        script = Script()
        old = script.ready(0)
        script.join(0)
        with pytest.raises(ReplacedError):
            script.registrar.heartbeat(script.now, *old, WorkerReport())
        assert script.registrar.failures == 1

    def test_a_silent_one_expires_and_is_told_so(self) -> None:
        script = Script(lease_seconds=3)
        silent, alive = script.ready(), script.ready()
        script.at(3.5, alive)
        with pytest.raises(ExpiredError):
            script.registrar.heartbeat(script.now, *silent, WorkerReport())
        assert (script.registrar.lease_expiries, script.registrar.failures) == (1, 1)
        script.registrar.heartbeat(script.now, *alive, WorkerReport())

    def test_leaving_twice_is_once_and_a_failure_is_counted(self) -> None:
        script = Script()
        key = script.join()
        for _ in range(2):
            script.registrar.leave(script.now, *key, WorkerReport(), "ValueError: no")
        assert script.registrar.failures == 1
        with pytest.raises(StepError):
            script.registrar.heartbeat(script.now, *key, WorkerReport())

    def test_an_observer_counts_nowhere(self) -> None:
        script = Script()
        script.join(role=Role.ROLE_OBSERVER)
        assert script.registrar.num_workers == 0
        assert script.registrar.roster.statuses(0.0) == []

    def test_an_observer_decides_nothing_about_the_model_and_takes_no_data(self) -> None:
        script = Script()
        observer = script.join(role=Role.ROLE_OBSERVER)
        assert script.enrol(observer).state == EnrolResponse.STATE_WAIT
        assert script.registrar.agreed is None
        request = DealRequest(worker_id=observer[0], incarnation=observer[1], dataset_size=100, batch_size=10, number=1)
        with pytest.raises(BadRequestError, match="observer takes no data"):
            script.registrar.deal(script.now, request)
        worker = script.ready()
        assert script.enrol(observer).state == EnrolResponse.STATE_READY
        assert script.registrar.agreed is not None
        assert script.registrar.roster[worker[0]].enrolled


class TestStart:
    def test_the_right_to_initialise_goes_on_when_its_holder_dies(self) -> None:
        script = Script(lease_seconds=3)
        script.obey = False
        first, second = script.join(), script.join()
        script.enrol(first)
        script.report(ShardReport(plan_installed=PlanInstalled()))
        assert script.enrol(first).grant == 1
        assert script.enrol(second).state == EnrolResponse.STATE_WAIT
        script.at(3.5, second)
        answer = script.enrol(second)
        assert (answer.state, answer.grant) == (EnrolResponse.STATE_INITIALISE, 2)

    def test_values_of_a_void_grant_do_not_count(self) -> None:
        script = Script(lease_seconds=3)
        script.obey = False
        first, second = script.join(), script.join()
        script.enrol(first)
        script.report(ShardReport(plan_installed=PlanInstalled()))
        script.enrol(first)
        script.report(ShardReport(initialised=Initialised(grant=1)), shards=(0,))
        script.at(3.5, second)
        script.enrol(second)
        script.report(ShardReport(initialised=Initialised(grant=1)), shards=(1,))
        assert script.enrol(second).state == EnrolResponse.STATE_INITIALISE

    def test_the_first_round_waits_for_the_expected_and_names_the_missing(self) -> None:
        script = Script(expected_workers=2)
        first = script.ready(0)
        answer = script.activate(first)
        assert not answer.open
        assert "worker 1 of 2" in answer.message
        script.ready(1)
        assert script.activate(first).first_round == 1
        assert sum(member.active for member in script.views[-1].members) == 2

    def test_the_first_round_does_not_wait_for_ever(self) -> None:
        script = Script(expected_workers=2, start_timeout_seconds=5)
        first = script.ready(0)
        assert not script.activate(first).open
        script.at(6.0, first)
        assert script.activate(first).open


PATIENT = {"expected_workers": 2, "start_timeout_seconds": 3600, "progress_timeout_seconds": 5}


class TestWhoHangsBeforeItsFirstStep:
    """Its heartbeats go on; others wait for it for `progress_timeout_seconds`, however long the start may wait."""

    def polled(self, script: Script, key: Key, until: float, *alive: Key) -> None:
        """A worker that enrols again and again, as ours do, until it is ready."""
        while script.now < until and script.enrol(key).state != EnrolResponse.STATE_READY:
            script.at(script.now + 0.25, key, *alive)

    @pytest.mark.parametrize("ids", [(0, 1), (-1, -1)], ids=["chosen", "automatic"])
    @pytest.mark.parametrize("enrols", [False, True], ids=["before it enrols", "after it enrolled"])
    def test_the_other_initialises_and_trains(self, ids: tuple[int, int], enrols: bool) -> None:
        script = Script(**PATIENT)
        hung, other = script.join(ids[0]), script.join(ids[1])
        if enrols:
            script.obey = False  # no shard has the plan yet: it is told to ask again, and never does
            assert script.enrol(hung).state == EnrolResponse.STATE_WAIT
            script.obey = True
            script.pump()
        self.polled(script, other, 7.0, hung)
        while script.now < 7.0 and not script.activate(other).open:
            script.at(script.now + 0.25, other, hung)
        assert script.activate(other).open
        assert 5.0 < script.now < 7.0
        assert script.registrar.roster.members.keys() == {other[0]}, "the first round waits for nobody else"

    def test_who_waits_itself_does_not_hang(self) -> None:
        script = Script(**{**PATIENT, "expected_workers": 3})
        first = script.ready(0)
        slow = script.join(1)
        script.at(4.0, first, slow)
        assert script.enrol(slow).state == EnrolResponse.STATE_READY
        for _ in range(40):
            assert not script.activate(first).open, "the third has not come, and the start may wait for it"
            script.at(script.now + 0.25, first, slow)

    def test_without_a_timeout_the_start_decides(self) -> None:
        script = Script(**{**PATIENT, "progress_timeout_seconds": 0, "start_timeout_seconds": 20})
        hung, other = script.join(0), script.join(1)
        self.polled(script, other, 30.0, hung)
        assert script.now > 20.0


class TestRounds:
    def test_close_when_every_shard_holds_every_member(self) -> None:
        script, first, second = two_active()
        script.staged(first, 1, 1)
        script.staged(second, 1, 1, shards=(0,))
        assert script.rounds == []
        script.staged(second, 1, 1, shards=(1,))
        assert script.contributors() == [[0, 1]]

    def test_no_round_closes_before_every_shard_has_the_view(self) -> None:
        script, first, second = two_active()
        script.obey = False
        script.join()
        script.staged(first, 1, 1)
        script.staged(second, 1, 1)
        assert script.rounds == []
        script.obey = True
        script.pump()
        assert script.contributors() == [[0, 1]]

    def test_a_death_before_completion_is_in_the_round_nowhere(self) -> None:
        script, first, second = two_active(lease_seconds=3)
        script.staged(second, 1, 1, shards=(0,))
        script.staged(first, 1, 1)
        script.at(3.5, first)
        assert script.contributors() == [[0]]

    def test_a_death_after_completion_counts_everywhere(self) -> None:
        script, first, second = two_active(lease_seconds=3)
        script.staged(second, 1, 1)
        script.at(2.0, first)
        script.staged(first, 1, 1)
        assert script.contributors() == [[0, 1]]

    def test_a_skip_takes_part_without_weight(self) -> None:
        script, first, second = two_active()
        script.staged(first, 1, 1)
        script.staged(second, 1, 1, apply=False)
        (record,) = script.rounds
        assert [c.apply for c in record.contributions] == [True, False]

    def test_a_step_refused_by_one_shard_is_a_skip_on_all(self) -> None:
        script, first, second = two_active()
        script.staged(second, 1, 1, shards=(0,))
        refused = StepRefused(worker_id=1, incarnation=second[1], step=1, round=1)
        script.report(ShardReport(refused=refused), shards=(1,))
        script.staged(first, 1, 1)
        (record,) = script.rounds
        assert [c.apply for c in record.contributions] == [True, False]

    def test_a_refusal_of_a_closed_round_closes_no_other(self) -> None:
        script, first, second = two_active(quorum=1)
        script.staged(first, 1, 1)
        refused = StepRefused(worker_id=1, incarnation=second[1], step=1, round=1)
        script.report(ShardReport(refused=refused))
        assert script.contributors() == [[0]]

    def test_a_quorum_closes_without_the_slow_and_takes_all_that_are_complete(self) -> None:
        script, first, second = two_active(quorum=1)
        script.staged(first, 1, 1)
        script.staged(second, 1, 1)
        script.staged(second, 2, 2)
        assert script.contributors() == [[0], [1]]

    def test_a_late_joiner_holds_nobody_up_before_its_first_step(self) -> None:
        script, first, second = two_active()
        late = script.ready(2)
        for round_number in (1, 2):
            script.staged(first, round_number, round_number)
            script.staged(second, round_number, round_number)
        assert script.contributors() == [[0, 1], [0, 1]]
        assert script.activate(late).first_round == 3
        script.staged(first, 3, 3)
        script.staged(second, 3, 3)
        assert len(script.rounds) == 2
        script.staged(late, 1, 3)
        assert script.contributors()[-1] == [0, 1, 2]

    def test_pausing_lets_the_others_go_on(self) -> None:
        script, first, second = two_active()
        script.staged(first, 1, 1)
        script.registrar.pause(script.now, *second)
        script.pump()
        script.registrar.tick(script.now)
        script.pump()
        assert script.contributors() == [[0]]

    def test_a_member_that_lives_but_does_not_advance_is_suspended(self) -> None:
        script, first, second = two_active(progress_timeout_seconds=5)
        script.staged(first, 1, 1)
        script.at(6.0, first, second)
        assert script.contributors() == [[0]]
        script.staged(second, 1, 2)
        script.staged(first, 2, 2)
        assert script.contributors()[-1] == [0, 1]

    def test_group_values_are_those_of_the_lowest_applier(self) -> None:
        script, first, second = two_active()
        script.staged(second, 1, 1, apply=True, num_samples=1, scale=1, groups=sgd(0.5).groups)
        script.staged(first, 1, 1, apply=True, num_samples=1, scale=1, groups=sgd(0.25).groups)
        assert script.rounds[0].groups[0].numbers["lr"] == 0.25


class TestClocks:
    def settle(self, script: Script, key: Key, step: int, shards: tuple[int, ...] = (0, 1)) -> None:
        settled = StepSettled(worker_id=key[0], incarnation=key[1], step=step, applied=True)
        script.report(ShardReport(settled=settled), shards)

    def test_a_late_joiner_starts_at_the_smallest_clock(self) -> None:
        script, first, second = two_active(mode="bounded")
        for step in range(1, 6):
            self.settle(script, first, step)
        for step in range(1, 4):
            self.settle(script, second, step)
        assert script.activate(script.ready(2)).clock == 3

    def test_a_clock_that_a_worker_claims_is_at_most_what_the_job_has_seen(self) -> None:
        script, first, _ = two_active(mode="bounded")
        self.settle(script, first, 1)
        assert script.activate(script.ready(2), last_clock=2**64 - 1).clock == 1

    def test_a_suspended_worker_that_goes_on_counts_again(self) -> None:
        script, first, second = two_active(mode="bounded", progress_timeout_seconds=5)
        for step in range(1, 4):
            self.settle(script, first, step)
        script.at(6.0, first, second)
        assert {member.worker_id: member.active for member in script.views[-1].members} == {0: True, 1: False}
        self.settle(script, second, 1)
        script.pump()
        assert all(member.active for member in script.views[-1].members)

    def test_clocks_never_go_back(self) -> None:
        script, first, _second = two_active(mode="bounded")
        for step in range(1, 6):
            self.settle(script, first, step)
        again = script.ready(0)
        assert script.activate(again).clock == 5
        assert script.activate(script.ready(3), last_clock=4).clock == 4

    def test_a_step_applied_on_some_shards_only_is_counted(self) -> None:
        script, first, second = two_active(mode="async", lease_seconds=3)
        self.settle(script, second, 1, shards=(0,))
        script.at(3.5, first)
        assert script.registrar.roster.split_steps == 1
