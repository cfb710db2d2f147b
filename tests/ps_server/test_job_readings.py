"""What Prometheus is shown of a job, read from a registrar that is played by hand."""

from registrar_script import Key, Script, two_active

from pushpull.protos.registrar_pb2 import JoinRequest, ShardReport, StepSettled, WorkerReport
from pushpull.ps_server import job_readings
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.job_readings import Moment

CALENDAR = 1_700_000_000.0
"""When the script's clock is 0."""


def shown(script: Script, **settings: object) -> dict[tuple[str, ...], float]:
    """Figures by name without the prefix, and values of labels."""
    moment = Moment(JobSettings(**settings), script.registrar, (True, False), lambda then: CALENDAR + then)  # type: ignore[arg-type]
    return {
        (family.name.removeprefix("pushpull_"), *labels): float(value)
        for family, labels, value in job_readings.readings(moment)
    }


def settle(script: Script, key: Key, step: int, applied: bool = True) -> None:
    report = StepSettled(worker_id=key[0], incarnation=key[1], step=step, applied=applied)
    script.report(ShardReport(settled=report))


def test_before_training_there_are_no_clocks_and_no_progress() -> None:
    script = Script(expected_workers=2)
    script.ready(0)
    figures = shown(script, expected_workers=2)
    assert (figures["job_phase", "waiting"], figures["job_phase", "training"]) == (1, 0)
    assert ("job_last_progress_timestamp_seconds",) not in figures
    assert (figures["live_workers",], figures["active_workers",], figures["job_expected_workers",]) == (1, 0, 2)


def test_workers_are_behind_the_fastest_and_ahead_of_the_slowest() -> None:
    script, first, second = two_active(mode="bounded")
    for step in (1, 2, 3):
        settle(script, first, step)
    settle(script, second, 1)
    figures = shown(script, mode="bounded")
    assert [figures["job_worker_clock", worker] for worker in "01"] == [3, 1]
    assert [figures["job_worker_behind_clocks", worker] for worker in "01"] == [0, 2]
    assert [figures["job_worker_ahead_clocks", worker] for worker in "01"] == [2, 0]
    assert figures["job_clock",] == 1
    assert figures["job_staleness_bound_clocks",] == 4


def test_who_is_paused_is_neither_behind_nor_ahead() -> None:
    script, first, second = two_active(mode="bounded")
    settle(script, first, 1)
    script.registrar.pause(script.now, *second)
    figures = shown(script, mode="bounded")
    assert ("job_worker_behind_clocks", "1") not in figures
    assert figures["job_worker_behind_clocks", "0"] == figures["job_worker_ahead_clocks", "0"] == 0
    assert (figures["job_worker_state", "1", "paused"], figures["job_worker_state", "1", "active"]) == (1, 0)


def test_only_bounded_mode_has_a_bound() -> None:
    assert ("job_staleness_bound_clocks",) not in shown(Script(), mode="async")


def test_progress_is_a_round_that_closes_and_not_a_step_that_waits() -> None:
    script, first, second = two_active()
    began = shown(script)["job_last_progress_timestamp_seconds",]
    script.at(5.0, first, second)
    script.staged(first, 1, 1)
    assert shown(script)["job_last_progress_timestamp_seconds",] == began
    script.staged(second, 1, 1)
    assert shown(script)["job_last_progress_timestamp_seconds",] == CALENDAR + 5.0


def test_without_rounds_progress_is_a_step_that_is_applied_and_not_a_worker_that_comes() -> None:
    script, first, second = two_active(mode="async")
    script.at(5.0, first, second)
    settle(script, first, 1)
    script.at(9.0, first, second)
    settle(script, second, 1, applied=False)
    third = script.ready(2)
    script.activate(third)
    figures = shown(script, mode="async")
    assert figures["job_last_progress_timestamp_seconds",] == CALENDAR + 5.0
    assert figures["job_worker_last_progress_timestamp_seconds", "1"] == CALENDAR + 9.0


def test_a_worker_says_what_its_ranks_sent_and_calls_itself_within_limits() -> None:
    script = Script()
    answer = script.registrar.join(0.0, JoinRequest(worker_id=7, host="h" * 5000, layout="tp2", num_ranks=2))
    for rank, loss in ((0, {"loss": 0.5}), (1, {})):
        report = WorkerReport(bytes_pushed=10 + rank, num_steps=3, wait_seconds=2.5, metrics=loss)
        script.registrar.heartbeat(0.0, 7, answer.incarnation, report, rank)
    figures = shown(script)
    assert figures["job_worker_info", "7", "h" * 64, "tp2"] == 1
    assert figures["job_worker_ranks", "7"] == 2
    assert figures["job_worker_pushed_bytes", "7"] == 21
    assert figures["job_worker_step_seconds", "7", "wait"] == 2.5
    assert figures["job_worker_loss", "7"] == 0.5


def test_links_are_shown_by_shard() -> None:
    figures = shown(Script())
    assert (figures["job_shard_linked", "0"], figures["job_shard_linked", "1"], figures["job_shards",]) == (1, 0, 2)


def test_every_figure_is_declared() -> None:
    script, _, _ = two_active(mode="bounded")
    moment = Moment(JobSettings(mode="bounded", memory_bytes=1), script.registrar, (True, True), float)
    assert {family for family, _, _ in job_readings.readings(moment)} <= set(job_readings.FAMILIES)
