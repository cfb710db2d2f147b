"""Signals that ask a run to end, and those that insist."""

import signal

import pytest

from pushpull.deploy.stop_request import INSISTS_AFTER_SECONDS, StopRequest


@pytest.mark.parametrize(("later_seconds", "insists"), [(0.0, False), (INSISTS_AFTER_SECONDS + 0.1, True)])
def test_a_second_signal_insists_unless_it_is_the_first_one_sent_twice(
    monkeypatch: pytest.MonkeyPatch, later_seconds: float, insists: bool
) -> None:
    stop = StopRequest()
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    stop(signal.SIGTERM, None)
    monkeypatch.setattr("time.monotonic", lambda: 100.0 + later_seconds)
    stop(signal.SIGINT, None)
    assert (stop.signal_number, stop.insists) == (signal.SIGTERM, insists)
