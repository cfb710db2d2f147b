"""Who waits for the end of another waits longer than that needs."""

import re
from pathlib import Path

import pytest
import yaml

from pushpull.protos import deadlines

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_parts_of_a_drain_fit_into_the_end_of_a_server() -> None:
    parts = (
        deadlines.OVER_SECONDS,
        deadlines.APPLY_SECONDS,
        deadlines.NOTICE_SECONDS,
        deadlines.UNLINK_SECONDS,
        2 * deadlines.CALLS_SECONDS,  # cancelled calls have as long again to end
    )
    assert sum(parts) <= deadlines.SERVER_END_SECONDS
    assert deadlines.ROUND_SECONDS < deadlines.OVER_SECONDS
    assert deadlines.STATUS_SECONDS <= deadlines.NOTICE_SECONDS


def test_nobody_kills_before_the_end_that_it_waits_for() -> None:
    assert deadlines.WORKER_END_SECONDS < deadlines.WORKER_KILL_SECONDS
    assert deadlines.SERVER_END_SECONDS < deadlines.SERVER_KILL_SECONDS
    assert max(deadlines.WORKER_KILL_SECONDS, deadlines.SERVER_KILL_SECONDS) < deadlines.PROMISED_END_SECONDS
    assert deadlines.PROMISED_END_SECONDS < deadlines.STOP_GRACE_SECONDS
    assert deadlines.INTERRUPT_SECONDS > deadlines.WORKER_END_SECONDS, "a person waits longer than an orchestrator"
    assert deadlines.INSISTS_AFTER_SECONDS < deadlines.WORKER_END_SECONDS


SHIPPED = {
    "deploy/compose/compose.yaml": r"stop_grace_period: (\d+)s",
    "deploy/kubernetes/pushpull/values.yaml": r"terminationGracePeriodSeconds: (\d+)",
    "docs/operating.md": r"TimeoutStopSec=(\d+)",
    "docs/containers.md": r"podman stop -t (\d+)",
}


@pytest.mark.parametrize("path", SHIPPED)
def test_what_is_shipped_waits_as_long_as_the_table_says(path: str) -> None:
    found = re.findall(SHIPPED[path], (ROOT / path).read_text(encoding="utf-8"))
    assert set(found) == {f"{deadlines.STOP_GRACE_SECONDS:g}"}


def test_the_chart_takes_no_grace_below_what_is_promised() -> None:
    schema = yaml.safe_load((ROOT / "deploy/kubernetes/pushpull/values.schema.json").read_text(encoding="utf-8"))
    text = str(schema)
    least = re.findall(r"'terminationGracePeriodSeconds': \{[^}]*'minimum': (\d+)", text)
    assert least
    assert set(least) == {f"{deadlines.PROMISED_END_SECONDS:g}"}


def test_the_documents_name_the_times_of_the_table() -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    for seconds in (deadlines.WORKER_END_SECONDS, deadlines.SERVER_END_SECONDS, deadlines.INTERRUPT_SECONDS):
        assert f"at most {seconds:g} s" in text
