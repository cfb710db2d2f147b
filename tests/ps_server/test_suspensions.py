"""Who lives but keeps others waiting is suspended: it does not advance, or a shard does not hear of it."""

import pytest
from registrar_script import Key, Script, two_active

from pushpull.protos.registrar_pb2 import (
    DealRequest,
    DealResponse,
    EnrolResponse,
    PlanInstalled,
    ShardReport,
    StepSettled,
    WorkerReport,
    WorkersAlive,
)
from pushpull.ps_server.contacts import Contacts
from pushpull.ps_server.rounds import EMPTY_ROUND_SECONDS


def deal(script: Script, key: Key, epoch: int = 0, **more: object) -> DealResponse:
    request = DealRequest(worker_id=key[0], incarnation=key[1], epoch=epoch, dataset_size=40, batch_size=10, **more)
    answer = script.registrar.deal(script.now, request)
    script.pump()
    return answer


def states(script: Script) -> dict[int, str]:
    return {worker.worker_id: worker.state for worker in script.registrar.roster}


def why(script: Script, key: Key) -> str:
    return next(s.suspended for s in script.registrar.roster.statuses(script.now) if s.worker_id == key[0])


class HeardScript(Script):
    """Shards say twice a second of whom they hear; `deaf` (shard, worker id) do not hear of each other."""

    deaf: frozenset[tuple[int, int]] = frozenset()
    silent_shards: frozenset[int] = frozenset()

    def at(self, now: float, *alive: Key) -> None:
        while self.now < now:
            self.now = min(now, self.now + 0.25)
            for key in alive:
                self.registrar.heartbeat(self.now, *key, WorkerReport())
            for shard in (0, 1):
                heard = [key[1] for key in alive if (shard, key[0]) not in self.deaf]
                if shard not in self.silent_shards and self.now % 0.5 == 0:
                    self.report(ShardReport(alive=WorkersAlive(incarnations=heard, ranks=[0] * len(heard))), (shard,))
            self.registrar.tick(self.now)
            self.pump()


class TestProgress:
    def test_who_does_not_come_to_the_next_epoch_is_suspended(self) -> None:
        script, first, second = two_active(progress_timeout_seconds=5)
        for key in (first, second):
            deal(script, key)
        assert deal(script, first, epoch=1).state == DealResponse.STATE_WAIT
        script.at(5.5, first, second)
        assert states(script) == {0: "active", 1: "paused"}
        assert deal(script, first, epoch=1).lots
        assert "no step for" in why(script, second)

    def test_data_in_the_hands_of_a_suspended_member_go_to_the_others(self) -> None:
        script, first, second = two_active(progress_timeout_seconds=5)
        for key in (first, second):
            deal(script, key)
        held = deal(script, second).lots
        mine = deal(script, first).lots
        script.staged(first, 1, 1, lots=[lot.id for lot in mine])
        script.at(5.5, first, second)
        assert script.contributors() == [[0]]
        seen = [(lot.first, lot.size) for lot in mine]
        while (answer := deal(script, first)).lots:
            seen += [(lot.first, lot.size) for lot in answer.lots]
            script.staged(first, len(script.rounds) + 1, len(script.rounds) + 1, lots=[lot.id for lot in answer.lots])
        assert (held[0].first, held[0].size) in seen
        assert sum(size for _, size in seen) == 40

    def test_what_a_shard_has_reported_of_its_step_stands(self) -> None:
        script, first, second = two_active(progress_timeout_seconds=5)
        third = script.ready(2)
        script.at(3.0, first, second, third)
        script.activate(third)
        script.staged(first, 1, 1)
        script.staged(second, 1, 1, shards=(0,))
        script.registrar.roster[second[0]].last_progress = 0.0
        script.at(5.5, first, second, third)
        assert states(script)[1] == "paused"
        script.staged(second, 1, 1, shards=(1,))
        script.staged(third, 1, 1)
        assert script.contributors() == [[0, 1, 2]]

    def test_hung_before_the_first_step_it_is_waited_for_no_longer(self) -> None:
        script = Script(expected_workers=2, progress_timeout_seconds=5)
        first, _hung = script.ready(0), script.ready(1)
        script.activate(first)
        script.staged(first, 1, 1)
        script.at(5.5, first, _hung)
        assert script.contributors() == [[0]]

    def test_the_only_member_keeps_nobody_waiting(self) -> None:
        script = Script(expected_workers=1, progress_timeout_seconds=5)
        only = script.ready()
        script.activate(only)
        script.at(50.0, only)
        assert states(script) == {0: "active"}

    def test_nobody_waits_for_a_paused_one_nor_for_its_data(self) -> None:
        script, first, second = two_active()
        for key in (first, second):
            deal(script, key)
        deal(script, second)
        script.registrar.pause(script.now, *second)
        script.pump()
        sizes = 0
        while (answer := deal(script, first)).lots:
            sizes += sum(lot.size for lot in answer.lots)
            script.staged(first, len(script.rounds) + 1, len(script.rounds) + 1, lots=[lot.id for lot in answer.lots])
        assert (answer.state, sizes) == (DealResponse.STATE_OVER, 40)

    def test_a_pause_that_was_delayed_takes_nothing_from_who_has_gone_on(self) -> None:
        script, first, second = two_active()
        deal(script, first, number=1)
        script.registrar.pause(script.now, *second, (), 1)
        script.activate(second)
        lots = [lot.id for lot in deal(script, second, number=1).lots]
        script.registrar.pause(script.now, *second, (), 1)
        assert states(script) == {0: "active", 1: "active"}
        assert script.registrar.sharing.dealer.own(1, lots) == lots
        script.registrar.pause(script.now, *second, (), 2)
        assert states(script) == {0: "active", 1: "paused"}
        assert script.registrar.sharing.dealer.own(1, lots) == []

    def test_in_asynchronous_mode_nobody_waits_for_a_slow_one(self) -> None:
        script, first, second = two_active(mode="async", progress_timeout_seconds=5)
        script.at(6.0, first, second)
        assert states(script) == {0: "active", 1: "active"}

    def test_a_worker_learns_from_its_heartbeat_and_counts_again_when_it_asks(self) -> None:
        script, first, second = two_active(progress_timeout_seconds=5)
        script.staged(first, 1, 1)
        script.at(5.5, first, second)
        assert "no step" in script.registrar.heartbeat(script.now, *second, WorkerReport()).suspended
        script.activate(second)
        assert not script.registrar.heartbeat(script.now, *second, WorkerReport()).suspended
        assert states(script) == {0: "active", 1: "active"}
        assert why(script, second) == ""


class TestContacts:
    @pytest.mark.parametrize("mode", ["sync", "bounded", "async"])
    @pytest.mark.parametrize("shard", [0, 1])
    def test_who_is_cut_off_from_a_shard_is_waited_for_as_long_as_the_lease(self, mode: str, shard: int) -> None:
        script, first, second = two_active(HeardScript, mode=mode, lease_seconds=3)
        script.at(1.0, first, second)
        script.deaf = frozenset({(shard, 1)})
        script.at(3.5, first, second)
        assert states(script) == {0: "active", 1: "active"}
        script.at(5.0, first, second)
        assert states(script) == {0: "active", 1: "paused"}
        assert f"shard {shard} has not heard of it" in why(script, second)
        assert script.registrar.lease_expiries == 0

    def test_a_round_closes_without_it_and_it_comes_back_by_its_next_step(self) -> None:
        script, first, second = two_active(HeardScript, lease_seconds=3)
        script.deaf = frozenset({(1, 1)})
        script.staged(first, 1, 1)
        script.staged(second, 1, 1, shards=(0,))
        script.at(5.0, first, second)
        assert script.contributors() == [[0]]
        script.deaf = frozenset()
        script.staged(second, 1, 1, shards=(1,))
        assert states(script) == {0: "active", 1: "active"}

    def test_it_does_not_come_back_while_a_shard_still_lacks_it(self) -> None:
        script, first, second = two_active(HeardScript, lease_seconds=3)
        script.deaf = frozenset({(1, 1)})
        script.at(5.0, first, second)
        script.staged(second, 1, 1, shards=(0,))
        assert states(script) == {0: "active", 1: "paused"}

    def test_a_shard_that_hears_of_nobody_because_it_was_stopped_blames_nobody(self) -> None:
        script, first, second = two_active(HeardScript, lease_seconds=3)
        script.at(1.0, first, second)
        script.silent_shards = frozenset({1})
        script.at(60.0, first, second)
        script.silent_shards, script.deaf = frozenset(), frozenset({(1, 0), (1, 1)})
        script.at(60.5, first, second)
        script.deaf = frozenset()
        script.at(70.0, first, second)
        assert states(script) == {0: "active", 1: "active"}

    def test_a_suspended_one_expires_when_nobody_hears_of_it_any_more(self) -> None:
        script, first, _second = two_active(HeardScript, lease_seconds=3)
        script.at(4.0, first)
        assert states(script) == {0: "active", 1: "expired"}

    def test_each_rank_is_heard_of_for_itself(self) -> None:
        contacts = Contacts(2, beat_seconds=0.5, lease_seconds=3)
        contacts.expect(7, num_ranks=2)
        for tick in range(20):
            for shard, ranks in ((0, [0, 1]), (1, [0])):
                alive = WorkersAlive(incarnations=[7] * len(ranks), ranks=ranks)
                contacts.report(0.5 * tick, shard, alive)
        silence = contacts.too_long_silence(7)
        assert silence is not None
        assert (silence.shard, silence.rank) == (1, 1)

    def test_what_strangers_make_shards_say_changes_nothing(self) -> None:
        contacts = Contacts(1, beat_seconds=0.5, lease_seconds=3)
        contacts.expect(7, num_ranks=1)
        contacts.report(0.0, 0, WorkersAlive(incarnations=[7, 8], ranks=[9, 0]))
        assert contacts.too_long_silence(8) is None


class TestInitialising:
    def holding(self, **settings: object) -> tuple[HeardScript, Key, Key]:
        script = HeardScript(**settings)
        script.obey = False
        first, second = script.join(), script.join()
        for key in (first, second):
            script.enrol(key)
        script.report(ShardReport(plan_installed=PlanInstalled()), (0, 1))
        assert script.enrol(first).grant == 1
        assert script.enrol(second).state == EnrolResponse.STATE_WAIT
        return script, first, second

    def test_one_that_is_cut_off_from_a_shard_is_waited_for_as_long_as_the_lease(self) -> None:
        script, first, second = self.holding(lease_seconds=3)
        script.deaf = frozenset({(1, first[0])})
        script.at(2.5, first, second)
        assert script.enrol(second).state == EnrolResponse.STATE_WAIT
        script.at(5.0, first, second)
        assert script.enrol(second).grant == 2

    def test_one_that_hangs_is_waited_for_as_long_as_progress_may_take(self) -> None:
        script, first, second = self.holding(progress_timeout_seconds=5)
        script.at(4.5, first, second)
        assert script.enrol(second).state == EnrolResponse.STATE_WAIT
        script.at(5.5, first, second)
        assert script.enrol(second).grant == 2


class TestEmptyRounds:
    def idle(self, script: Script, key: Key) -> None:
        number = len(script.rounds) + 1
        script.staged(key, number, number, apply=False, idle=True)

    def test_rounds_that_nobody_applies_are_no_clock(self) -> None:
        script, first, second = two_active()
        script.staged(first, 1, 1, apply=False)
        script.staged(second, 1, 1, apply=False)
        assert (script.registrar.rounds_closed, script.registrar.job_clock) == (1, 0)
        script.staged(first, 2, 2)
        script.staged(second, 2, 2, apply=False)
        assert (script.registrar.rounds_closed, script.registrar.job_clock) == (2, 1)
        assert [worker.clock for worker in script.registrar.roster] == [1, 1]
        assert script.activate(script.ready(2)).first_round == 3

    def test_workers_that_all_wait_for_data_do_not_spin(self) -> None:
        script, first, second = two_active()
        start = script.now
        while script.now < start + 10 * EMPTY_ROUND_SECONDS:
            for key in (first, second):
                self.idle(script, key)
            script.at(script.now + 0.01, first, second)
        assert 1 < len(script.rounds) <= 11

    def test_one_that_has_data_is_not_kept_waiting_by_those_that_have_none(self) -> None:
        script, first, second = two_active()
        for number in range(1, 6):
            self.idle(script, first)
            script.staged(second, number, number)
        assert len(script.rounds) == 5

    def test_a_skip_with_data_closes_its_round_at_once(self) -> None:
        script, first, second = two_active()
        for number in range(1, 6):
            for key in (first, second):
                script.staged(key, number, number, apply=False)
        assert len(script.rounds) == 5


def test_a_bounded_worker_that_resumes_counts_from_where_it_was() -> None:
    script, first, second = two_active(HeardScript, mode="bounded", lease_seconds=3)
    script.deaf = frozenset({(1, 1)})
    script.at(5.0, first, second)
    assert states(script)[1] == "paused"
    script.deaf = frozenset()
    script.at(6.0, first, second)
    settled = StepSettled(worker_id=1, incarnation=second[1], step=1, applied=True)
    script.report(ShardReport(settled=settled))
    assert states(script)[1] == "active"
