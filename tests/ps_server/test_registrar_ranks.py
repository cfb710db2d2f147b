"""The registrar and workers of several ranks: leases, figures and ends, with time as a number."""

import pytest

from pushpull.protos.errors import BadRequestError, ExpiredError
from pushpull.protos.registrar_pb2 import JoinRequest, ShardReport, WorkerReport, WorkersAlive
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.registrar import Registrar

NOTHING = WorkerReport()


class Job:
    """A registrar with one worker of three ranks and a plain one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.registrar = Registrar(JobSettings(lease_seconds=3), num_shards=1, tick_seconds=0.25)
        self.wide = self._join(JoinRequest(worker_id=0, num_ranks=3, layout="tp3"))
        self.plain = self._join(JoinRequest(worker_id=1))

    def _join(self, request: JoinRequest) -> tuple[int, int]:
        answer = self.registrar.join(self.now, request)
        return answer.worker_id, answer.incarnation

    def beat(self, rank: int, report: WorkerReport = NOTHING) -> None:
        self.registrar.heartbeat(self.now, *self.wide, report, rank)

    def pass_time(self, seconds: float, ranks: tuple[int, ...] = (), by_shard: tuple[int, ...] = ()) -> None:
        """These ranks beat all the while, or are heard of by a shard; the plain worker beats."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            for rank in ranks:
                self.beat(rank)
            alive = WorkersAlive(incarnations=[self.wide[1]] * len(by_shard), ranks=by_shard)
            self.registrar.report(self.now, 0, ShardReport(alive=alive))
            self.registrar.heartbeat(self.now, *self.plain, NOTHING)
            self.registrar.tick(self.now)

    @property
    def states(self) -> list[str]:
        return [status.state for status in self.registrar.roster.statuses(0.0)]


def test_views_say_how_many_streams_make_up_a_worker() -> None:
    job = Job()
    view = job.registrar.take_orders()[-1].view
    assert [member.num_ranks for member in view.members] == [3, 1]


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_silent_rank_ends_its_worker_and_is_named(silent: int) -> None:
    job = Job()
    others = tuple(rank for rank in range(3) if rank != silent)
    job.pass_time(2.5, others)
    assert job.states == ["joined", "joined"]
    with pytest.raises(ExpiredError, match=f"rank {silent} of worker 0"):
        job.pass_time(1.0, others)
    job.pass_time(1.0)
    assert job.states == ["expired", "joined"]
    assert (job.registrar.lease_expiries, job.registrar.failures) == (1, 1)


def test_what_a_shard_hears_of_a_rank_renews_that_ranks_lease() -> None:
    job = Job()
    job.pass_time(4.0, ranks=(0, 1), by_shard=(2,))
    assert job.states == ["joined", "joined"]
    job.pass_time(4.0, by_shard=(0, 2))
    assert job.states == ["expired", "joined"]


def test_calls_of_a_worker_renew_the_lease_of_its_first_rank_alone() -> None:
    job = Job()
    for _ in range(20):
        job.registrar.pause(job.now, *job.wide)
        job.pass_time(0.25, ranks=(1, 2))
    assert job.states == ["joined", "joined"]
    job.pass_time(3.0, ranks=(1, 2))
    with pytest.raises(ExpiredError, match="rank 0"):
        job.registrar.pause(job.now, *job.wide)


def test_a_report_that_names_no_ranks_is_of_the_first() -> None:
    job = Job()
    for _ in range(16):
        alive = WorkersAlive(incarnations=[job.plain[1]])
        job.registrar.report(job.now, 0, ShardReport(alive=alive))
        job.now += 0.25
        job.registrar.tick(job.now)
    assert job.states == ["expired", "joined"]


@pytest.mark.parametrize("call", ["heartbeat", "leave"])
def test_a_rank_that_does_not_exist_is_refused(call: str) -> None:
    job = Job()
    more = ("",) if call == "leave" else ()
    with pytest.raises(BadRequestError, match="num_ranks=3; there is no rank 3"):
        getattr(job.registrar, call)(job.now, *job.wide, NOTHING, *more, rank=3)


def test_too_many_ranks_fence_nobody() -> None:
    job = Job()
    with pytest.raises(BadRequestError, match="num_ranks=1025"):
        job.registrar.join(job.now, JoinRequest(worker_id=0, num_ranks=1025))
    assert job.states == ["joined", "joined"]


class TestEnds:
    def test_with_its_first_rank_the_worker_leaves(self) -> None:
        job = Job()
        job.registrar.leave(job.now, *job.wide, NOTHING, "", rank=0)
        assert job.states == ["left", "joined"]

    def test_another_rank_that_ends_cleanly_is_not_missed(self) -> None:
        job = Job()
        job.registrar.leave(job.now, *job.wide, WorkerReport(num_steps=9), "", rank=2)
        job.pass_time(5.0, ranks=(0, 1))
        assert job.states == ["joined", "joined"]
        assert job.registrar.roster.statuses(0.0)[0].ranks[2].num_steps == 9

    @pytest.mark.parametrize("rank", [0, 1])
    def test_a_failure_of_any_rank_ends_the_worker_once(self, rank: int) -> None:
        job = Job()
        job.registrar.leave(job.now, *job.wide, NOTHING, "ValueError: no", rank)
        job.registrar.leave(job.now, *job.wide, NOTHING, "ValueError: no", 2)
        assert job.states == ["failed", "joined"]
        assert job.registrar.failures == 1

    def test_figures_that_come_after_the_end_still_count(self) -> None:
        job = Job()
        job.registrar.leave(job.now, *job.wide, NOTHING, "", rank=0)
        job.registrar.leave(job.now, *job.wide, WorkerReport(bytes_pushed=7), "", rank=1)
        assert job.registrar.roster.statuses(0.0)[0].ranks[1].bytes_pushed == 7


class TestFigures:
    def test_each_rank_is_shown_and_the_first_speaks_for_the_worker(self) -> None:
        job = Job()
        for rank in range(3):
            job.beat(rank, WorkerReport(num_steps=10 + rank, bytes_pushed=100 * rank))
        wide, plain = job.registrar.roster.statuses(0.0)
        assert [report.bytes_pushed for report in wide.ranks] == [0, 100, 200]
        assert (wide.report.num_steps, wide.layout) == (10, "tp3")
        assert (len(plain.ranks), plain.layout) == (1, "")

    def test_what_any_rank_logs_is_the_workers_and_the_lowest_that_has_a_name_wins(self) -> None:
        job = Job()
        job.beat(0, WorkerReport(metrics={"lr": 0.1}))
        job.beat(1, WorkerReport(metrics={"lr": 9.0, "loss": 2.0}, first_metrics={"loss": 4.0}))
        job.beat(2, WorkerReport(metrics={"loss": 3.0}, first_metrics={"loss": 5.0}))
        wide, _ = job.registrar.roster.statuses(0.0)
        assert dict(wide.report.metrics) == {"lr": 0.1, "loss": 2.0}
        assert dict(wide.report.first_metrics) == {"loss": 4.0}
        assert dict(wide.ranks[0].metrics) == {"lr": 0.1}
