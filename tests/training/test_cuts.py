"""Links between one worker and one shard are cut: nobody else stands longer than the lease and 2 s, and nothing is lost.

On hosts in network namespaces, so as root. Minutes: `make test-cuts`.
"""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pushpull.benchmarks.links.link import parse_link
from pushpull.benchmarks.links.network import Host, Network, TcpSettings, why_not_here
from pushpull.deploy.processes import pushpull_command

WHY_NOT = why_not_here()
LEASE_SECONDS = 3.0
MOST_STANDING_SECONDS = LEASE_SECONDS + 2.0
SCRIPT = Path(__file__).with_name("cut_script.py")
NUM_WORKERS = 3
Cut = tuple[int, int]
"""Worker and shard."""
CUTS: Sequence[tuple[float, tuple[Cut, ...]]] = (
    *((3.0, ((1, 0), (2, 1))), (15.0, ((1, 1), (2, 0))), (60.0, ((1, 0), (2, 1)))),
    (5.0, ((1, 1),)),
)
"""Seconds, and what is cut at the same time."""
PORT = 7077
FIGURES_SECONDS = 2.0
"""Until the registrar has the figures that shards say twice a second."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


class Job:
    """Servers and workers, each on a host of its own."""

    def __init__(self, network: Network, folder: Path, mode: str, side: int = 64, pull_codec: str = "fp32") -> None:
        self.network, self.folder = network, folder
        self.num_workers = sum(name.startswith("w") for name in network.hosts)
        self.hosts = network.hosts
        addresses = [f"{self.hosts[f's{shard}'].address}:{PORT}" for shard in range(2)]
        guard = ("--guard-fd", str(network.guard_fd), "--metrics-listen", "")
        sets = [
            f"mode={mode}",
            f"lease_seconds={LEASE_SECONDS}",
            f"expected_workers={self.num_workers}",
            "damping=none",
            f"pull_codec={pull_codec}",
        ]
        settings = [word for one in sets for word in ("--set", one)]
        for shard, address in enumerate(addresses):
            command = [*pushpull_command("server"), "--shard", str(shard), "--num-shards", "2", "--listen", address]
            more = settings if shard == 0 else ["--registrar", addresses[0]]
            network.start(self.hosts[f"s{shard}"], f"server {shard}", [*command, *guard, *more])
        self.addresses = addresses
        self.workers = [
            network.start(
                self.hosts[f"w{number}"],
                f"worker {number}",
                [
                    *(*pushpull_command("worker"), "--servers", ",".join(addresses), "--id", str(number), *guard),
                    *(str(SCRIPT), str(folder), str(number), str(side)),
                ],
            )
            for number in range(self.num_workers)
        ]

    def steps(self, number: int) -> int:
        path = self.folder / f"steps_{number}"
        return int(path.read_text() or 0) if path.exists() else 0

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen"
            time.sleep(0.1)

    def all_advance(self) -> None:
        numbers = range(self.num_workers)
        before = [self.steps(number) for number in numbers]
        self.wait_until(lambda: all(self.steps(n) >= before[n] + 5 for n in numbers), "5 steps of everybody")

    def cut(self, seconds: float, cuts: Sequence[Cut]) -> tuple[float, float]:
        """Returns when it was."""
        pairs: list[tuple[Host, Host]] = [(self.hosts[f"w{w}"], self.hosts[f"s{s}"]) for w, s in cuts]
        began = time.time()
        for pair in pairs:
            self.network.cut(*pair)
        time.sleep(seconds)
        for pair in pairs:
            self.network.mend(*pair)
        return began, time.time()

    def status(self) -> dict[str, Any]:
        words = [*pushpull_command("status"), "--servers", self.addresses[0], "--once", "--json"]
        done = subprocess.run(self.hosts["w0"].command(words), capture_output=True, text=True, check=True, timeout=60)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def said(self, number: int) -> dict[str, Any]:
        path = self.folder / f"said_{number}"
        self.wait_until(path.exists, f"the end of worker {number}")
        time.sleep(0.2)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def finish(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What every worker said, and the status when all steps were applied."""
        (self.folder / "enough").touch()
        others = [self.said(number) for number in range(1, self.num_workers)]
        self.wait_until(lambda: all(w.exit_status is not None for w in self.workers[1:]), "the end of the others")
        (self.folder / "alone").touch()
        said = [self.said(0), *others]
        time.sleep(FIGURES_SECONDS)
        status = self.status()
        (self.folder / "seen").touch()
        return said, status


def longest_standing(ends: Sequence[float], began: float, ended: float) -> float:
    """Between two steps that end around, or in, a span of time."""
    within = [end for end in ends if began - 2.0 <= end <= ended + 10.0]
    return max((after - before for before, after in itertools.pairwise(within)), default=float("inf"))


@pytest.mark.parametrize("mode", ["sync", "bounded:4", "async"])
def test_a_cut_between_a_worker_and_a_shard_holds_nobody_else_up(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    names = [*(f"s{shard}" for shard in range(2)), *(f"w{number}" for number in range(NUM_WORKERS))]
    with Network(dict.fromkeys(names), TcpSettings(), lambda name, line: lines.append(f"{name}: {line}")) as network:
        job = Job(network, tmp_path, mode)
        try:
            job.all_advance()
            spans = []
            for seconds, cuts in CUTS:
                spans.append((seconds, cuts, *job.cut(seconds, cuts)))
                job.all_advance()
            said, status = job.finish()
        except BaseException:
            print("\n".join(lines[-80:]), file=sys.stderr)
            raise
    standing = {}
    for seconds, cuts, began, ended in spans:
        for number in set(range(NUM_WORKERS)) - {worker for worker, _ in cuts}:
            longest = longest_standing(said[number]["ends"], began, ended)
            standing[seconds, cuts, number] = longest
    with capsys.disabled():
        print(f"\n{mode}: others stood {max(standing.values()):.1f} s at most; dropped {[s['dropped'] for s in said]}")
    assert max(standing.values()) <= MOST_STANDING_SECONDS, standing
    told = sum(worker["applied"] for worker in said)
    assert [shard["steps_applied"] for shard in status["shards"]] == [told, told]
    counted = status["clock"] if mode == "sync" else told
    assert said[0]["values"] == [[-float(counted)]] * 2


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_link_that_pushes_fill_for_a_minute_costs_nobody_its_lease(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    links = {"s0": None, "s1": None, "w0": None, "w1": parse_link("10mbit/20ms")}
    with Network(links, TcpSettings(), lambda name, line: lines.append(f"{name}: {line}")) as network:
        # what comes back takes half as long as what is pushed, which has the link most of the time
        job = Job(network, tmp_path, mode, side=768, pull_codec="bf16")
        try:
            job.wait_until(lambda: job.steps(1) >= 1, "the first step over the slow link")
            expired = job.status()["lease_expiries"]
            sent = network.hosts["w1"].bytes_sent_and_received()[0]
            time.sleep(60.0)
            sent = network.hosts["w1"].bytes_sent_and_received()[0] - sent
            expired = job.status()["lease_expiries"] - expired
            said, _ = job.finish()
        except BaseException:
            print("\n".join(lines[-80:]), file=sys.stderr)
            raise
    with capsys.disabled():
        print(f"\n{mode}: {sent / 60 * 8 / 1e6:.1f} of 10 Mbit/s; steps {[s['applied'] for s in said]}")
    assert sent > 60 * 5e6 / 8, "the link was not full"
    assert expired == 0
    assert [line for line in lines if "suspended" in line or "joins again" in line] == []
    assert [worker["dropped"] for worker in said] == [0, 0]
