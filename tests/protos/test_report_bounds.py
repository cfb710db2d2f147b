"""A worker's report, and what it says of itself when it joins, stay small whatever it sends."""

import logging

import pytest

from pushpull.protos.errors import BadRequestError
from pushpull.protos.registrar_pb2 import JoinRequest, WorkerReport
from pushpull.protos.report_bounds import MOST_NAME_CHARACTERS, MOST_NAMES, check_join, keep_within_bounds
from pushpull.worker.recorder import Recorder


def many(number: int, prefix: str = "a") -> dict[str, float]:
    return {f"{prefix}{index:05}": float(index) for index in range(number)}


def test_what_fits_stays_as_it_is() -> None:
    report = WorkerReport(metrics=many(MOST_NAMES), num_steps=3)
    kept = WorkerReport()
    kept.CopyFrom(report)
    assert keep_within_bounds(kept) == report


@pytest.mark.parametrize("field", ["metrics", "first_metrics"])
def test_too_many_names_are_cut_to_the_same_ones_and_the_loss_is_among_them(field: str) -> None:
    report = keep_within_bounds(WorkerReport(**{field: many(5_000) | {"loss": 0.5}}))
    values = getattr(report, field)
    assert len(values) == MOST_NAMES + 1
    assert values["loss"] == 0.5
    assert values["a00000"] == 0.0
    assert "a04999" not in values


def test_a_name_of_any_length_is_not_kept() -> None:
    report = keep_within_bounds(WorkerReport(metrics={"x" * (MOST_NAME_CHARACTERS + 1): 1.0, "loss": 2.0}))
    assert dict(report.metrics) == {"loss": 2.0}


@pytest.mark.parametrize("field", ["host", "layout"])
def test_a_join_with_a_text_for_a_name_is_refused(field: str) -> None:
    check_join(JoinRequest(**{field: "x" * MOST_NAME_CHARACTERS}))
    with pytest.raises(BadRequestError, match=field):
        check_join(JoinRequest(**{field: "x" * (MOST_NAME_CHARACTERS + 1)}))


def test_a_worker_that_logs_too_many_names_is_told_once_and_keeps_the_first(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    with caplog.at_level(logging.WARNING, "pushpull"):
        recorder.log(many(MOST_NAMES))
        recorder.log(many(50, "b") | {"a00000": 7.0})
    report = recorder.report()
    assert len(report.metrics) == len(report.first_metrics) == MOST_NAMES
    assert report.metrics["a00000"] == 7.0
    assert len([record for record in caplog.records if "is not shown" in record.getMessage()]) == 1
