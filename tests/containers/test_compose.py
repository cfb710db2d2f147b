"""The shipped compose.yaml as podman-compose runs it: training, its Prometheus, a worker that dies, one more worker."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from container_job import FOR_EVER, Watch, about_four, accuracy_in, status_command
from expressions import Facts, check_expressions
from images import ROOT
from podman import Podman

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
SERVICES = ("server-0", "server-1", "worker", "prometheus")
"""All but Grafana, whose image no registry here has."""
JOB = "mode: async\nexpected_workers: 3\nlease_seconds: 5\n"
DIGITS = "/work/digits.py --batch-size 128 --steps"
FAST, SLOW = 0.32, 0.08


class Compose:
    """One project of compose.yaml, as `podman-compose` runs it."""

    def __init__(self, podman: Podman, variables: dict[str, str]) -> None:
        self.podman = podman
        self.project = f"{podman.prefix}-compose"
        self.variables = variables

    def __call__(self, *words: str, **variables: str) -> str:
        """Runs `podman-compose WORDS`; what it wrote."""
        done = subprocess.run(
            ["podman-compose", "-p", self.project, "-f", str(COMPOSE), *words],
            env=self.podman.environment | self.variables | variables,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def container(self, service: str, number: int = 1) -> str:
        return f"{self.project}_{service}_{number}"


@pytest.fixture
def compose(podman: Podman, image: str, prometheus_stand_in: str, tmp_path: Path) -> Iterator[Compose]:
    if shutil.which("podman-compose") is None:
        pytest.skip("podman-compose is not installed (Debian: apt-get install podman-compose)")
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    variables = {
        "PUSHPULL_IMAGE": image,
        "PROMETHEUS_IMAGE": prometheus_stand_in,
        "PUSHPULL_WORKERS": "3",
        "PUSHPULL_JOB": str(tmp_path / "job.yaml"),
        "PUSHPULL_SCRIPT": f"{DIGITS} {FOR_EVER}",
        "PUSHPULL_PORT": free_port(),
        "PROMETHEUS_PORT": free_port(),
    }
    yield Compose(podman, variables)
    podman.clean()


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def healthy_targets(prometheus: str, job: str) -> list[str]:
    """Instances that the last scrape reached."""
    query = urllib.parse.urlencode({"query": f'up{{job="{job}"}} == 1'})
    try:
        with urllib.request.urlopen(f"{prometheus}/api/v1/query?{query}", timeout=10) as answer:
            series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except OSError:
        return []
    return [str(each["metric"]["instance"]) for each in series]


def test_the_shipped_file_trains_is_scraped_and_outlives_a_worker(compose: Compose) -> None:
    podman = compose.podman
    started = time.monotonic()
    compose("up", "-d", *SERVICES)
    seen = Watch(f"127.0.0.1:{compose.variables['PUSHPULL_PORT']}", lambda: compose("logs"))
    for worker in range(3):
        seen.wait_for_steps(worker, 1)
    seconds = time.monotonic() - started
    print(f"training is visible after {seconds:.0f} s")
    assert seconds <= 60 or os.getloadavg()[0] > 4

    # Which container is which worker: a container's host name is the beginning of its id.
    names = [compose.container("worker", number) for number in (1, 2, 3)]
    ids = {podman.inspect(name)["Id"]: name for name in names}
    of_worker = {
        worker: next(name for each, name in ids.items() if each.startswith(status.host))
        for worker, status in seen.workers().items()
    }
    for worker, cpus in enumerate((FAST, FAST, SLOW)):
        podman("update", "--cpus", str(cpus), of_worker[worker])
    seen.wait_for_steps(2, 10)
    ratios = seen.ratios_of_steps(2, 0, 1)
    assert about_four(ratios), ratios

    prometheus = f"http://127.0.0.1:{compose.variables['PROMETHEUS_PORT']}"
    seen.wait_until(
        lambda: (
            len(healthy_targets(prometheus, "pushpull-servers")) == 2
            and len(healthy_targets(prometheus, "pushpull-workers")) == 3
        ),
        "Prometheus finds two servers and three workers",
    )
    report = check_expressions(prometheus, Facts(mode="async", num_workers=3), interval="20s", timeout_seconds=90)
    print(report)
    assert report.ok, report

    podman("kill", "-s", "KILL", of_worker[1])
    seen.wait_until(lambda: seen.state(1) != "active", "the dead worker no longer counts")
    seen.wait_for_steps(0, 20)
    added = compose("up", "-d", "--no-build", *SERVICES, PUSHPULL_WORKERS="4", PUSHPULL_SCRIPT=f"{DIGITS} 300")
    last = compose.container("worker", 4)
    assert podman.exists("container", last), added
    assert podman.exit_status(last) == 0
    assert accuracy_in(podman.logs(last)) >= 0.96
    outside = status_command(seen.address)
    assert outside["failures"] == 1
    assert len(outside["shards"]) == 2

    compose("down", "-t", "15", "-v", PUSHPULL_WORKERS="4")
    left = podman("ps", "-a", "--format", "{{.Names}}").split()
    assert not [name for name in left if name.startswith(compose.project)]
