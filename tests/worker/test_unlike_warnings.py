"""A worker says once that a number of its own does not count."""

import logging

import pytest

from pushpull.protos.registrar_pb2 import UnlikeNumber
from pushpull.worker.unlike_warnings import UnlikeWarnings


def unlike(name: str = "lr", **more: int) -> UnlikeNumber:
    return UnlikeNumber(**{"worker_id": 1, "round": 7, **more}, name=name, value=0.01, held=0.1)


def test_it_names_both_workers_both_values_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    UnlikeWarnings().take([unlike("betas.0", group=2)])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    said = record.getMessage()
    assert "betas.0 of parameter group 2 differs between workers: 0.01 on worker 1, 0.1 on worker 0" in said
    assert "round 7" in said
    assert "set the same on every worker" in said


def test_each_number_is_said_once_for_each_pair(caplog: pytest.LogCaptureFixture) -> None:
    warnings = UnlikeWarnings()
    warnings.take([unlike()])
    warnings.take([unlike(), unlike("eps")])
    warnings.take([unlike(), unlike("eps"), unlike(group=1), unlike(holder_id=5)])
    assert len(caplog.records) == 4
