"""What the summary says: means, ratios, and which failures count once."""

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from pushpull.deploy.figures import figures_of
from pushpull.deploy.job import Job
from pushpull.deploy.json_values import plain, strict_json
from pushpull.deploy.log_settings import LogFormat
from pushpull.deploy.progress import Pace, PlainDisplay, grouped, in_bytes, progress_line
from pushpull.deploy.relayed_lines import relayed_line
from pushpull.deploy.status_page import headline
from pushpull.deploy.summary import RunEnd, WorkerEnd, count_failures, summary_object, summary_page
from pushpull.protos.common_pb2 import JobSpecification, Mode
from pushpull.protos.registrar_pb2 import JobStatus, ShardStatus, Summary, WorkerReport, WorkerStatus
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.job import job_message, settings_of
from pushpull.worker.expectations import job_values


def a_worker(
    worker_id: int,
    *,
    pid: int = 0,
    state: str = "left",
    first: Mapping[str, float] | None = None,
    last: Mapping[str, float] | None = None,
    samples: tuple[float, float] = (1.0, 1.0),
) -> WorkerStatus:
    report = WorkerReport(
        num_steps=10,
        num_samples=100,
        first_metrics=first or {},
        metrics=last or {},
        first_samples=samples[0],
        last_samples=samples[1],
        compute_seconds=3.0,
        wait_seconds=1.0,
    )
    return WorkerStatus(worker_id=worker_id, pid=pid, state=state, report=report)


def an_end(worker_id: int, pid: int, exit_status: int | None) -> WorkerEnd:
    return WorkerEnd(worker_id=worker_id, pids=(pid,), exit_status=exit_status, how="ended somehow")


def a_run(status: JobStatus | None, *, error: str | None = None, job: Job | None = None) -> RunEnd:
    return RunEnd(
        job=job or Job(),
        options=["pushpull", "launch", "--servers", "2"],
        script=["train.py", "--name", "two words"],
        error=error,
        wall_seconds=5.0,
        status=status,
        workers=[],
    )


def test_losses_are_means_over_workers_weighted_by_the_samples_of_their_step() -> None:
    status = JobStatus(
        workers=[
            a_worker(0, first={"loss": 1.0}, last={"loss": 0.1}, samples=(3.0, 1.0)),
            a_worker(1, first={"loss": 5.0}, last={"loss": 0.5}, samples=(1.0, 3.0)),
            a_worker(2, last={"accuracy": 0.9}),
        ]
    )
    figures = figures_of(status)
    assert figures.first_loss == pytest.approx(2.0)
    assert figures.last_loss == pytest.approx(0.4)


def test_losses_without_known_samples_weigh_alike_and_without_losses_there_is_none() -> None:
    unweighted = [a_worker(0, last={"loss": 1.0}, samples=(0, 0)), a_worker(1, last={"loss": 3.0}, samples=(0, 0))]
    assert figures_of(JobStatus(workers=unweighted)).last_loss == 2.0
    assert figures_of(JobStatus(workers=[a_worker(0)])).last_loss is None


def test_each_metric_is_the_newest_of_the_lowest_worker_that_logged_it() -> None:
    workers = [a_worker(2, last={"a": 2.0, "b": 2.0}), a_worker(1, last={"b": 1.0})]
    assert figures_of(JobStatus(workers=workers)).metrics == {"a": 2.0, "b": 1.0}


def test_figures_of_shards_add_up_and_the_ratio_counts_four_bytes_per_element() -> None:
    shards = [
        ShardStatus(
            shard=0,
            bytes_pushed=100,
            bytes_pulled=7,
            elements_pushed=50,
            duplicates_dropped=1,
            pushes_refused={"BAD_FRAME": 2, "NON_FINITE": 1},
            version_staleness=Summary(count=3, sum=6, max=4),
            clock_lag=Summary(count=1, sum=1, max=1),
        ),
        ShardStatus(
            shard=1,
            bytes_pushed=100,
            elements_pushed=150,
            pushes_refused={"BAD_FRAME": 1},
            version_staleness=Summary(count=1, sum=2, max=2),
        ),
    ]
    figures = figures_of(JobStatus(shards=shards))
    assert (figures.bytes_pushed, figures.bytes_pulled, figures.push_compression_ratio) == (200, 7, 4.0)
    assert (figures.staleness.mean, figures.staleness.max) == (2.0, 4.0)
    assert (figures.duplicates_dropped, figures.pushes_refused) == (1, 4)
    summary = summary_object(a_run(JobStatus(shards=shards)))
    assert summary["pushes_refused_by_reason"] == {"BAD_FRAME": 3, "NON_FINITE": 1}


@pytest.mark.parametrize(
    ("case", "exit_status", "state", "counted_by_registrar", "expected"),
    [
        ("left cleanly", 0, "left", 0, 0),
        ("never connected", 0, "", 0, 0),
        ("died before it connected", 1, "", 0, 1),
        ("died and said so", 1, "failed", 1, 1),
        ("killed, its lease not yet over", -9, "active", 0, 1),
        ("killed, its lease over", -9, "expired", 1, 1),
        ("lease over although it lived, then left cleanly", 0, "left", 1, 1),
        ("lease over although it lived, then killed", -9, "active", 1, 2),
        ("ended without a word", 0, "active", 0, 1),
        ("still ran when the run ended", None, "active", 0, 0),
    ],
)
def test_every_failure_counts_once(
    case: str, exit_status: int | None, state: str, counted_by_registrar: int, expected: int
) -> None:
    workers = [a_worker(0, pid=77, state=state)] if state else []
    status = JobStatus(workers=workers, failures=counted_by_registrar)
    assert count_failures(status, [an_end(0, 77, exit_status)]) == expected, case


def test_a_worker_replaced_by_another_process_still_counts_when_it_died() -> None:
    status = JobStatus(workers=[a_worker(0, pid=99, state="left")])
    assert count_failures(status, [an_end(0, 77, -9)]) == 1


def test_the_object_has_every_key_also_when_the_servers_never_answered() -> None:
    complete = summary_object(a_run(JobStatus(workers=[a_worker(0)], shards=[ShardStatus(shard=0)])))
    empty = summary_object(a_run(None, error="server 0 ended with status 1 before it served."))
    assert set(empty) == set(complete)
    assert (empty["success"], empty["loss"]) == (False, {"first": None, "last": None})
    json.dumps(empty, allow_nan=False)


def test_speed_is_taken_over_the_time_in_the_training_loop() -> None:
    summary = summary_object(a_run(JobStatus(workers=[a_worker(0), a_worker(1)])))
    assert summary["samples_per_second"] == pytest.approx(200 / 4.0)


def test_speed_is_taken_over_the_whole_run_where_not_every_worker_is_shown() -> None:
    status = JobStatus(workers=[a_worker(0)], num_forgotten=1, forgotten=WorkerReport(num_samples=900))
    summary = summary_object(a_run(status))
    assert (summary["samples_per_second"], summary["forgotten_workers"]) == (pytest.approx(1000 / 5.0), 1)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (Job(), "--set push_codec=int8 --set pull_codec=bf16 train.py --name 'two words'"),
        (Job(push_codec="int8"), "--set mode=bounded:4 train.py --name 'two words'"),
        (Job(push_codec="int8", mode="async"), "pushpull bench exchange"),
    ],
)
def test_the_page_ends_with_a_command_to_type(job: Job, expected: str) -> None:
    assert summary_page(a_run(JobStatus(), job=job)).splitlines()[-1].endswith(expected)


def test_the_page_of_a_failed_run_begins_with_the_reason() -> None:
    assert summary_page(a_run(None, error="Server 1 was killed.")).startswith("FAILED: Server 1 was killed.")


def test_pace_is_the_rate_of_the_last_seconds() -> None:
    pace = Pace()
    assert pace.samples_per_second(0, 10.0) == 0.0
    assert pace.samples_per_second(100, 11.0) == 100.0
    for second in range(12, 40):
        rate = pace.samples_per_second(100 + 10 * (second - 11), float(second))
    assert rate == pytest.approx(10.0)


def test_plain_progress_survives_a_reader_that_went_away() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.show(JobStatus(round=3, workers=[a_worker(0, state="active", last={"loss": 0.25})]))
    assert "step 3  loss 0.2500" in stream.getvalue()
    stream.close()
    display.write_line("nobody hears this")


def test_progress_names_steps_loss_speed_bytes_staleness_and_failures() -> None:
    status = JobStatus(round=1200, failures=1, shards=[ShardStatus(bytes_pushed=1000, elements_pushed=1000)])
    line = progress_line(figures_of(status), 1234.5)
    for part in ("step 1 200", "1 234 samples/s", "pushed 1.0 kB (4.0x smaller", "staleness 0.0 (max 0)", "failures 1"):
        assert part in line


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (7e12, "7.0 TB")]
)
def test_bytes_are_written_for_people(number: float, text: str) -> None:
    assert in_bytes(number) == text


def test_whole_numbers_are_grouped() -> None:
    assert grouped(1234567.4) == "1 234 567"


def test_a_status_as_json_has_numbers_names_and_every_field() -> None:
    status = JobStatus(
        job=JobSpecification(mode=Mode.MODE_SYNC, shard_addresses=["a:1"]),
        round=2**40,
        workers=[a_worker(0, last={"loss": 0.5})],
    )
    seen = plain(status)
    assert seen["round"] == 2**40
    assert seen["job"]["mode"] == "sync"
    assert seen["job"]["shard_addresses"] == ["a:1"]
    assert seen["workers"][0]["report"]["metrics"] == {"loss": 0.5}
    assert seen["shards"] == []
    json.dumps(seen)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_no_number_is_null_in_every_json(number: float) -> None:
    status = JobStatus(
        job=JobSpecification(lease_seconds=number),
        workers=[a_worker(0, first={"loss": 1.0}, last={"loss": number, "accuracy": number})],
        shards=[ShardStatus(shard=0, clock_lag=Summary(count=1, sum=number, max=number))],
    )
    summary = read_strictly(strict_json(summary_object(a_run(status))))
    assert summary["loss"] == {"first": 1.0, "last": None}
    assert summary["metrics"] == {"loss": None, "accuracy": None}
    assert summary["clock_lag"] == {"mean": None, "max": None}
    shown = read_strictly(strict_json(plain(status)))
    assert shown["job"]["lease_seconds"] is None
    assert shown["workers"][0]["report"]["metrics"] == {"loss": None, "accuracy": None}
    assert read_strictly(strict_json({"seconds": (number, [1.5, {"x": number}])})) == {
        "seconds": [None, [1.5, {"x": None}]]
    }


def read_strictly(text: str) -> dict[str, Any]:
    """As a parser reads it that knows only RFC 8259."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    read: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return read


@pytest.mark.parametrize("line", ['{"loss": NaN}', '{"loss": [-Infinity]}', '{"loss": 1'])
def test_a_relayed_line_that_only_looks_like_json_becomes_an_object(line: str) -> None:
    said = read_strictly(relayed_line(LogFormat.JSON, "worker 0", line))
    assert (said["event"], said["process"]) == (line, "worker 0")


@pytest.mark.parametrize("mode", ["sync", "bounded", "async"])
def test_a_mode_has_one_name_wherever_it_is_shown(mode: str) -> None:
    job = job_message(JobSettings(mode=mode), "1234", ["a:1"])
    assert plain(job)["mode"] == mode
    assert job_values(job)["mode"] == mode
    assert f"  {mode}" in headline(JobStatus(job=job))
    assert summary_object(a_run(None, job=Job(mode=mode)))["mode"] == mode  # type: ignore[arg-type]
    assert settings_of(job).mode == mode


def test_overrides_of_the_push_codec_are_named() -> None:
    run = a_run(JobStatus(), job=Job(push_codec="int8", push_overrides=(("*.bias", "fp32"), ("embed*", "int4"))))
    assert summary_object(run)["push_overrides"] == {"*.bias": "fp32", "embed*": "int4"}
    assert "push int8, *.bias fp32, embed* int4, pull fp32" in summary_page(run)


def two_ranks(worker_id: int = 0) -> WorkerStatus:
    worker = a_worker(worker_id, state="active")
    worker.layout = "tp2"
    worker.ranks.add(bytes_pushed=1000, bytes_pulled=2000, peak_memory_bytes=3_000_000)
    worker.ranks.add(bytes_pushed=10, bytes_pulled=20, peak_memory_bytes=30, peak_device_memory_bytes=4_000_000_000)
    return worker


def test_each_rank_of_a_worker_says_what_it_has_sent_received_and_used() -> None:
    run = a_run(JobStatus(workers=[two_ranks()]))
    (worker,) = summary_object(run)["workers"]
    assert worker["layout"] == "tp2"
    assert worker["ranks"][1] == {
        "rank": 1,
        "bytes_pushed": 10,
        "bytes_pulled": 20,
        "peak_memory_bytes": 30,
        "peak_device_memory_bytes": 4_000_000_000,
    }
    lines = summary_page(run).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("  worker 0"))
    assert lines[first : first + 3] == [
        "  worker 0   10 steps, 100 samples, tp2, 2 ranks",
        "    rank 0   pushed 1.0 kB, pulled 2.0 kB, peak memory 3.0 MB",
        "    rank 1   pushed 10 B, pulled 20 B, peak memory 30 B, 4.0 GB on its GPU",
    ]


def test_a_worker_of_one_rank_takes_one_line() -> None:
    worker = a_worker(0)
    worker.ranks.add(bytes_pushed=1000)
    page = summary_page(a_run(JobStatus(workers=[worker])))
    assert "  worker 0   10 steps, 100 samples\n" in page
    assert "rank" not in page


def test_every_rank_of_a_launched_worker_is_launched() -> None:
    """The registrar knows a worker by one process id: whose, is the worker's matter."""
    status = JobStatus(workers=[a_worker(0, pid=78, state="failed")], failures=1)
    end = WorkerEnd(worker_id=0, pids=(77, 78), exit_status=-9, how="rank 1 was killed by SIGKILL")
    assert count_failures(status, [end]) == 1
