"""docs/metrics.md names every metric with its type and labels, and no other; names follow Prometheus's conventions."""

import re
import subprocess
from pathlib import Path

import pytest
from metric_families import Shown, server_metrics, server_registry, shown_names, worker_metrics, worker_registry
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_server import installed

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
PAGES = (DOCUMENT.parents[1] / "README.md", *sorted(DOCUMENT.parent.glob("*.md")))
EVERY = {**server_metrics(), **worker_metrics()}
ROW = re.compile(r"^\| `(pushpull_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|", re.MULTILINE)


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and labels by name."""
    rows = ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}


def test_every_metric_is_documented_and_no_other() -> None:
    assert documented().keys() == EVERY.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_metrics_that_a_page_names_exist(page: Path) -> None:
    """A name that ends in dots stands for all that begin with it."""
    named = re.findall(r"\b(pushpull_\w+)(\.\.\.)?", page.read_text(encoding="utf-8"))
    known = shown_names() | EVERY.keys() | {"pushpull_docs", "pushpull_grafana"}
    assert [
        name for name, dots in named if not (any(k.startswith(name) for k in known) if dots else name in known)
    ] == []


@pytest.mark.parametrize("name", EVERY)
def test_type_and_labels_are_documented(name: str) -> None:
    shown = EVERY[name]
    assert documented().get(name) == (shown.kind, shown.labels)


def test_identity_and_process_metrics_are_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for word in (
        "`job_id`",
        "`shard`",
        "`worker`",
        "`rank`",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ):
        assert word in text


@pytest.mark.parametrize("shown", EVERY.values(), ids=lambda shown: shown.name)
def test_names_follow_the_conventions(shown: Shown) -> None:
    assert shown.name.endswith("_total") == (shown.kind == "counter")
    assert not re.search(r"_(ms|milliseconds|kb|mb|percent|minutes)(_|$)", shown.name), "base units only"
    assert shown.text.endswith(".")
    assert shown.kind == "gauge" or "worker" not in shown.labels or shown.kind == "counter", "no worker on histograms"
    assert "job_id" not in shown.labels


@pytest.mark.parametrize("registry", [server_registry(), worker_registry()], ids=["server", "worker"])
def test_promtool_has_no_complaint_about_what_is_shown(registry: CollectorRegistry) -> None:
    checked = subprocess.run(
        [installed("promtool"), "check", "metrics"], input=generate_latest(registry), capture_output=True, timeout=60
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_no_metric_is_shown_by_servers_and_workers_but_of_the_process() -> None:
    assert server_metrics().keys() & worker_metrics().keys() == {"pushpull_memory_limit_bytes"}
