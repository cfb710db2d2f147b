"""What a worker's log says, and of whom."""

import logging
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pushpull.protos.registrar_pb2 import WorkerReport
from pushpull.worker.identity import Identity, assume, fields_here, same_identity
from pushpull.worker.progress_log import INTERVAL_SECONDS, ProgressLog
from pushpull.worker.recorder import StepKind, StepSummary, StepTimes

STEP = StepSummary(
    kind=StepKind.APPLIED,
    num_samples=8.0,
    restaged=False,
    times=StepTimes(compute=0.1, encode=0.0, wait=0.1, decode=0.0),
    bytes_pushed=10,
    bytes_pulled=10,
    bytes_resent=0,
    clock_lag=2,
)


def identity_of(rank: int = 0) -> Identity:
    return Identity(SimpleNamespace(rank=rank, worker_id=3, incarnation=77), job="abc")


def test_threads_of_a_worker_speak_for_it_and_others_do_not() -> None:
    seen: dict[str, dict[str, object]] = {}

    def look(name: str) -> None:
        seen[name] = fields_here()

    def work() -> None:
        identity = identity_of()
        assume(identity)
        threads = [
            threading.Thread(target=same_identity(look), args=("ours",)),
            threading.Thread(target=look, args=("other",)),
        ]
        identity.step = 5
        for thread in threads:
            thread.start()
            thread.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen["ours"] == {"rank": 0, "job": "abc", "worker": 3, "incarnation": 77, "step": 5}
    # Python 3.14 lets threads inherit the context where it is built so; ours must not depend on it.
    assert seen["other"] in ({}, seen["ours"])


def test_a_worker_tells_its_first_step_and_then_how_it_goes_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    now, report = 0.0, WorkerReport(metrics={"loss": 0.25})
    progress = ProgressLog(identity_of(), lambda: _copy(report), clock=lambda: now)
    with caplog.at_level(logging.INFO, "pushpull"):
        for _ in range(4):
            report.num_steps += 1
            report.num_samples += 300
            report.compute_seconds += 3
            report.wait_seconds += 1
            progress.step_ended(STEP)
            now += INTERVAL_SECONDS / 3
    first, second = (record for record in caplog.records)
    assert first.message == "the first step is applied"
    assert "step 4  loss 0.2500  30.0 samples/s  75% of the time in the script" in second.message
    assert "2 ahead of the slowest" in second.message
    assert (second.loss, second.samples_per_second, second.clock_lag) == (0.25, 30.0, 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", StepKind)
def test_what_became_of_a_step_is_said_in_words(kind: StepKind, caplog: pytest.LogCaptureFixture) -> None:
    """The values are labels of metrics, and fields of the log."""
    with caplog.at_level(logging.INFO, "pushpull"):
        ProgressLog(identity_of(), WorkerReport).step_ended(replace(STEP, kind=kind))
    (record,) = caplog.records
    assert "_" not in record.getMessage()
    assert record.outcome == kind.value  # type: ignore[attr-defined]
    if kind is StepKind.TOO_OLD:
        assert record.getMessage() == (
            "the first step is void: the values that it was computed from were no longer the newest"
        )


def test_one_rank_speaks_for_all(caplog: pytest.LogCaptureFixture) -> None:
    identity = identity_of(rank=1)
    with caplog.at_level(logging.INFO, "pushpull"):
        ProgressLog(identity, WorkerReport).step_ended(STEP)
    assert not caplog.records
    assert identity.step == 2


def _copy(report: WorkerReport) -> WorkerReport:
    copy = WorkerReport()
    copy.CopyFrom(report)
    return copy
