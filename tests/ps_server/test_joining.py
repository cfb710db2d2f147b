"""Joining, and who counts before the first step: the registrar as a state machine, time as a number."""

import pytest
from raw_worker import plan_for, sgd
from registrar_script import Key, Script, two_active

from pushpull.protos.errors import ExpiredError, ReplacedError, RunOverError, SettingError
from pushpull.protos.registrar_pb2 import (
    AbsentRequest,
    DealRequest,
    DealResponse,
    EnrolRequest,
    EnrolResponse,
    JoinRequest,
    JoinResponse,
    Role,
    WorkerReport,
)


def join(script: Script, worker_id: int = -1, nonce: int = 0, **who: object) -> JoinResponse:
    answer = script.registrar.join(script.now, JoinRequest(worker_id=worker_id, nonce=nonce, **who))  # type: ignore[arg-type]
    script.pump()
    return answer


def key(answer: JoinResponse) -> Key:
    return answer.worker_id, answer.incarnation


def absent(script: Script, worker_id: int, *pids: int, failure: str = "ended with status 1") -> None:
    said = AbsentRequest(worker_id=worker_id, host="a", pids=pids, failure=failure)
    script.registrar.absent(script.now, said)
    script.pump()


class TestAnAnswerThatIsLost:
    @pytest.mark.parametrize("worker_id", [-1, 3])
    def test_is_given_again(self, worker_id: int) -> None:
        script = Script()
        first = join(script, worker_id, nonce=11)
        views = len(script.views)
        assert key(join(script, worker_id, nonce=11)) == key(first)
        assert len(script.views) == views
        assert script.registrar.failures == 0

    def test_after_thousands_of_other_joins_of_which_only_so_many_are_remembered(self) -> None:
        script = Script()
        first = join(script, nonce=11)
        for nonce in range(100, 600):
            passing = join(script, worker_id=9, nonce=nonce)
            script.registrar.leave(script.now, *key(passing), WorkerReport(), "")
        assert key(join(script, nonce=11)) == key(first)

    def test_but_not_the_place_of_a_life_that_has_ended(self) -> None:
        script = Script()
        first = join(script, worker_id=2, nonce=11)
        script.registrar.leave(script.now, *key(first), WorkerReport(), "")
        assert key(join(script, worker_id=2, nonce=11)) == (2, first.incarnation + 1)

    def test_two_calls_of_one_process_are_two_joins(self) -> None:
        script = Script()
        first = join(script, worker_id=2, nonce=11)
        again = join(script, worker_id=2, nonce=12, replaces=first.incarnation)
        assert again.incarnation > first.incarnation
        assert (again.replaced, script.registrar.failures) == ("", 0)


class TestIds:
    def test_a_given_id_is_never_one_that_is_reserved(self) -> None:
        script = Script(reserved_ids=2)
        assert [join(script).worker_id, join(script, 0).worker_id, join(script).worker_id] == [2, 0, 3]

    def test_the_id_of_a_live_worker_that_was_given_it_cannot_be_chosen(self) -> None:
        script = Script()
        given = join(script, nonce=1, host="a", pid=7)
        with pytest.raises(SettingError, match=r"worker 0 \(process 7 on a\).*reserved_ids=1"):
            join(script, worker_id=0, nonce=2)
        script.registrar.heartbeat(script.now, *key(given), WorkerReport())

    def test_a_worker_that_was_given_its_id_takes_it_back_itself(self) -> None:
        script = Script(lease_seconds=3)
        given = join(script, nonce=1)
        script.at(3.5)
        with pytest.raises(ExpiredError):
            script.registrar.heartbeat(script.now, *key(given), WorkerReport())
        back = join(script, worker_id=0, nonce=2, replaces=given.incarnation)
        again = join(script, worker_id=0, nonce=3, replaces=back.incarnation)
        with pytest.raises(SettingError):
            join(script, worker_id=0, nonce=4)
        script.registrar.heartbeat(script.now, *key(again), WorkerReport())

    def test_whoever_takes_the_place_of_a_live_process_is_told_of_it_and_so_is_that_one(self) -> None:
        script = Script()
        old = join(script, worker_id=4, nonce=1, host="a", pid=7)
        new = join(script, worker_id=4, nonce=2, host="b", pid=8)
        assert new.replaced == "worker 4 (process 7 on a)"
        with pytest.raises(ReplacedError, match="process 8 on b"):
            script.registrar.heartbeat(script.now, *key(old), WorkerReport())


class TestOnlyWhoHasEnrolledCounts:
    def test_a_ghost_lets_others_initialise_and_is_not_waited_for(self) -> None:
        script = Script(expected_workers=2)
        script.join()
        first, second = script.ready(), script.ready()
        assert script.activate(first).open
        assert sorted(member.worker_id for member in script.views[-1].members if member.active) == [first[0], second[0]]

    def test_a_ghost_is_nobody_who_came_and_failed(self) -> None:
        script = Script(expected_workers=2, lease_seconds=3)
        first = script.ready()
        script.join()
        script.at(11.0, first)
        assert not script.activate(first).open
        assert (script.registrar.lease_expiries, script.registrar.failures) == (0, 0)

    def test_a_process_that_was_there_and_died_is_a_failure_and_is_not_waited_for(self) -> None:
        script = Script(expected_workers=2, lease_seconds=3)
        first, dead = script.ready(), script.join()
        script.at(2.0, first, dead)
        script.at(11.0, first)
        assert script.activate(first).open
        assert (script.registrar.lease_expiries, script.registrar.failures) == (1, 1)

    def test_a_ghost_takes_no_room(self) -> None:
        """`staging_bytes` is divided among those that have brought a model."""
        script = Script(staging_bytes=400)
        ghosts = [script.join() for _ in range(50)]
        script.ready()
        assert script.registrar.num_workers == 1
        assert len(ghosts) == 50

    def test_the_missing_are_counted_where_ids_are_given(self) -> None:
        script = Script(expected_workers=3)
        script.join()
        first = script.ready()
        assert script.activate(first).message == "waiting for 2 more of 3 workers before the first step"

    def test_a_late_sign_of_life_of_a_ghost_makes_it_join_again(self) -> None:
        script = Script(lease_seconds=3)
        ghost = script.join()
        script.at(4.0)
        with pytest.raises(ExpiredError):
            script.enrol(ghost)


class TestAWorkerThatFailsBeforeTheFirstStep:
    """The other one starts at once: at no moment does the time pass in which the start waits."""

    def survivor(self, script: Script) -> Key:
        """Worker 1, in the state in which it asks for its first step."""
        return script.ready(1)

    def test_before_it_joins(self) -> None:
        script = Script(expected_workers=2)
        absent(script, 0, 7)
        assert script.activate(self.survivor(script)).open

    def test_after_it_has_joined_when_it_says_so(self) -> None:
        script = Script(expected_workers=2)
        dead = script.join(0)
        script.registrar.leave(script.now, *dead, WorkerReport(), "ValueError: no")
        assert script.activate(self.survivor(script)).open

    @pytest.mark.parametrize("enrolled", [False, True])
    def test_after_it_has_joined_when_its_launcher_says_so(self, enrolled: bool) -> None:
        script = Script(expected_workers=2)
        dead = key(join(script, worker_id=0, nonce=1, host="a", pid=7))
        if enrolled:
            script.enrol(dead)
        absent(script, 0, 7)
        assert script.activate(self.survivor(script)).open
        assert script.registrar.failures == 1
        (said, _) = script.registrar.roster.statuses(script.now)
        assert (said.state, said.failure) == ("failed", "ended with status 1")

    def test_with_the_right_to_initialise_in_its_hands(self) -> None:
        script = Script(expected_workers=2)
        dead = key(join(script, worker_id=0, nonce=1, host="a", pid=7))
        script.obey = False
        script.enrol(dead)
        second = script.join(1)
        script.obey = True
        script.pump()
        script.obey = False
        assert script.enrol(dead).state == EnrolResponse.STATE_INITIALISE
        assert script.enrol(second).state == EnrolResponse.STATE_WAIT
        absent(script, 0, 7)
        assert script.enrol(second).state == EnrolResponse.STATE_INITIALISE

    def test_but_another_process_that_has_its_id_now_is_not_meant(self) -> None:
        script = Script(expected_workers=2)
        join(script, worker_id=0, nonce=1, host="b", pid=7)
        absent(script, 0, 7)
        assert script.enrol(script.join(1)).state != EnrolResponse.STATE_READY

    def test_and_one_that_comes_in_its_place_is_waited_for_again(self) -> None:
        script = Script(expected_workers=2)
        absent(script, 0, 7)
        script.join(0)
        assert script.enrol(script.join(1)).state != EnrolResponse.STATE_READY

    def test_once_training_has_begun_only_leases_count(self) -> None:
        script = Script(expected_workers=1)
        worker = key(join(script, worker_id=0, nonce=1, host="a", pid=7))
        for _ in range(4):
            script.enrol(worker)
        assert script.activate(worker).open
        absent(script, 0, 7)
        script.registrar.heartbeat(script.now, *worker, WorkerReport())


class TestWhoInitialises:
    def test_the_smallest_chosen_id_although_it_comes_last(self) -> None:
        script = Script(expected_workers=3)
        third, second = script.join(2), script.join(1)
        assert {script.enrol(third).state, script.enrol(second).state} == {EnrolResponse.STATE_WAIT}
        first = script.join(0)
        assert script.enrol(second).state == EnrolResponse.STATE_WAIT
        assert script.enrol(first).state == EnrolResponse.STATE_INITIALISE

    def test_the_smallest_that_has_enrolled_where_ids_are_given(self) -> None:
        script = Script(expected_workers=3)
        script.join()
        second, third = script.join(), script.join()
        script.enrol(second)
        assert script.enrol(third).state == EnrolResponse.STATE_WAIT
        assert script.enrol(second).state == EnrolResponse.STATE_INITIALISE

    def test_a_live_one_that_does_not_come_to_the_end_hands_it_on(self) -> None:
        script = Script(progress_timeout_seconds=5)
        hung, second = script.join(), script.join()
        script.enrol(hung)
        script.obey = False
        assert script.enrol(hung).grant == 1
        script.at(4.0, hung, second)
        assert script.enrol(second).state == EnrolResponse.STATE_WAIT
        script.at(70.0, hung, second)
        answer = script.enrol(second)
        assert (answer.state, answer.grant) == (EnrolResponse.STATE_INITIALISE, 2)


class TestASecondRun:
    """Of standing servers: it is refused, unless it says that it goes on with the first."""

    def finished(self, **settings: object) -> Script:
        """A job that one worker has trained for a step, and left in order."""
        script = Script(**settings)
        worker = script.ready()
        script.activate(worker)
        script.staged(worker, 1, 1)
        script.registrar.leave(script.now, *worker, WorkerReport(), "")
        return script

    def test_is_refused_at_once(self) -> None:
        script = self.finished()
        with pytest.raises(RunOverError, match=r"worker 0 .* at clock 1\..*resume=True"):
            join(script)

    def test_is_let_in_when_it_says_so_and_has_the_data_anew(self) -> None:
        script = self.finished()
        deal = DealRequest(epoch=0, dataset_size=10, batch_size=10, num_lots=1)
        script.registrar._dealer.deal(DealRequest(worker_id=0, epoch=3, dataset_size=12, batch_size=12), set())
        again = join(script, resume=True)
        deal.worker_id, deal.incarnation = key(again)
        assert [lot.size for lot in script.registrar.deal(script.now, deal).lots] == [10]

    @pytest.mark.parametrize("end", ["fails", "expires", "told to end"])
    def test_goes_on_by_itself_where_the_last_worker_did_not_finish(self, end: str) -> None:
        """Preempted machines come back without a word."""
        script = Script(lease_seconds=3)
        worker = script.ready()
        script.activate(worker)
        script.staged(worker, 1, 1)
        match end:
            case "fails":
                script.registrar.leave(script.now, *worker, WorkerReport(), "ValueError: no")
            case "told to end":
                script.registrar.leave(script.now, *worker, WorkerReport(), "", whole_worker=True)
            case "expires":
                script.at(4.0)
        script.ready()

    def test_is_not_what_comes_back_of_the_first_when_others_have_finished_meanwhile(self) -> None:
        script, first, second = two_active()
        script.staged(first, 1, 1)
        script.staged(second, 1, 1)
        script.registrar.leave(script.now, *second, WorkerReport(), "", whole_worker=True)
        script.registrar.leave(script.now, *first, WorkerReport(), "")
        back = script.ready(1)
        script.registrar.leave(script.now, *back, WorkerReport(), "")
        with pytest.raises(RunOverError):
            join(script)

    def looks(self, script: Script, worker: Key) -> list[int]:
        """A loop without a step over the first epoch, to its end: sizes of its lots."""
        sizes, request = [], DealRequest(worker_id=worker[0], incarnation=worker[1], dataset_size=10, batch_size=10)
        while True:
            request.number += 1
            answer = script.registrar.deal(script.now, request)
            sizes += [lot.size for lot in answer.lots]
            request.held.extend(lot.id for lot in answer.lots)
            if answer.state == DealResponse.STATE_OVER:
                return sizes

    @pytest.mark.parametrize("resume", [False, True])
    def test_behind_one_that_only_looked_at_the_data_begins_without_a_word_and_has_them_anew(
        self, resume: bool
    ) -> None:
        """An evaluation: no step was taken, so the servers' values are still those that it began with."""
        script = Script()
        worker = script.ready()
        assert self.looks(script, worker) == [10]
        script.registrar.leave(script.now, *worker, WorkerReport(), "")
        join(script, resume=resume)
        assert self.looks(script, script.ready(1)) == [10]

    @pytest.mark.parametrize("failure", ["ValueError: no", ""])
    def test_is_not_what_comes_back_to_data_that_another_has_looked_at_meanwhile(self, failure: str) -> None:
        """Everything is seen: by the other one."""
        script = Script()
        first, second = script.ready(0), script.ready(1)
        script.registrar.leave(script.now, *second, WorkerReport(), failure, whole_worker=True)
        assert self.looks(script, first) == [10]
        script.registrar.leave(script.now, *first, WorkerReport(), "")
        assert self.looks(script, script.ready(1)) == []

    def test_is_none_while_somebody_trains(self) -> None:
        script, first, second = two_active()
        script.staged(first, 1, 1)
        script.staged(second, 1, 1)
        script.registrar.leave(script.now, *first, WorkerReport(), "")
        script.ready()

    def test_is_not_gone_on_with_by_one_that_is_refused_a_place(self) -> None:
        script, first, second = two_active()
        bystander = script.join()
        script.staged(first, 1, 1)
        script.staged(second, 1, 1)
        for worker in (first, second):
            script.registrar.leave(script.now, *worker, WorkerReport(), "")
        with pytest.raises(SettingError):
            join(script, worker_id=bystander[0], nonce=5, resume=True)
        with pytest.raises(RunOverError):
            join(script)
        assert join(script, resume=True).incarnation

    def test_may_be_looked_at(self) -> None:
        join(self.finished(), role=Role.ROLE_OBSERVER)


class TestTheJobsName:
    @pytest.mark.parametrize(("name", "given"), [("cats", ""), ("cats", "dogs"), ("", "dogs")])
    def test_another_is_refused_with_both(self, name: str, given: str) -> None:
        with pytest.raises(SettingError) as refused:
            join(Script(name=name), job_name=given)
        assert (repr(given) if given else "without a name") in str(refused.value)
        assert (repr(name) if name else "none") in str(refused.value)

    @pytest.mark.parametrize("name", ["", "cats"])
    def test_the_same_is_let_in(self, name: str) -> None:
        assert join(Script(name=name), job_name=name).incarnation


class TestWhereTheValuesCameFrom:
    def test_whoever_is_ready_learns_it(self) -> None:
        script = Script()
        first = key(join(script, host="a", pid=7))
        request = EnrolRequest(
            worker_id=first[0], incarnation=first[1], plan=plan_for(2), optimizer=sgd(), values=[5, 6, 7, 8]
        )
        for _ in range(3):
            script.registrar.enrol(script.now, request)
            script.pump()
        script.at(2.0, first)
        late = script.join()
        origin = script.enrol(late).origin
        assert (origin.who, origin.incarnation, list(origin.values)) == (
            "worker 0 (process 7 on a)",
            first[1],
            [5, 6, 7, 8],
        )
        assert origin.seconds_ago == 2.0
