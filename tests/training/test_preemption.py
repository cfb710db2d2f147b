"""SIGTERM, as preemption sends it: workers leave at once, servers end the job in order, and both are gone within 12 seconds."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import preemption_bodies
import pytest
from clusters import Cluster, local_cluster
from forked_process import ForkedProcess
from preemption_bodies import ACTIVE, LARGE, THERE
from torch.distributed import TCPStore

from pushpull.deploy.environment import rank_variables
from pushpull.protos.registrar_pb2 import JobStatus
from pushpull.worker.ending import EXIT_STATUS, LONGEST_END_SECONDS

LIMIT_SECONDS = 12.0
"""What orchestrators are told to wait; see docs/guarantees.md."""
LEASE_SECONDS = 30.0
"""Long: who waited for a lease would be seen to."""
NOTICED_SECONDS = 5.0
"""From SIGTERM until others do not wait any more: an instant, but on a busy machine."""
DEADLINE_SECONDS = 60.0


def wait_until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


class Running:
    """A process of a test, whose output is in a file."""

    def __init__(self, folder: Path, target: Callable[..., int], *arguments: str, **variables: str) -> None:
        folder.mkdir()
        self._output = folder / "output.txt"
        self._output.touch()
        self.signalled = 0.0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        self.process = ForkedProcess(target, arguments, environment, self._output, self._output)

    @property
    def said(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.said or self.process.poll() is not None, lambda: self.said)
        assert text in self.said, self.said

    def terminate(self) -> None:
        self.signalled = time.monotonic()
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> tuple[int | None, float]:
        """Exit status, and the seconds since it (or `signalled`) was told to end."""
        wait_until(lambda: self.process.poll() is not None, lambda: f"does not end: {self.said}")
        return self.process.poll(), time.monotonic() - self.signalled


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes; none outlives the test."""
    started: list[Running] = []

    def begin(target: Callable[..., int], *arguments: str, **variables: str) -> Running:
        started.append(Running(tmp_path / str(len(started)), target, *arguments, **variables))
        return started[-1]

    yield begin
    for running in started:
        running.process.kill()
        running.process.wait()


def worker_at(
    start: Start,
    servers: list[str],
    place: str,
    worker_id: int | None = None,
    variables: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Running:
    environment = {"PUSHPULL_SERVERS": ",".join(servers), **(variables or {})}
    if worker_id is not None:
        environment["PUSHPULL_WORKER_ID"] = str(worker_id)
    return start(preemption_bodies.worker, place, json.dumps(arguments), **environment)


def states(status: JobStatus) -> Counter[str]:
    return Counter(worker.state for worker in status.workers)


def show(what: str, seconds: list[float]) -> None:
    print(f"{what}: {len(seconds)} ends, SIGTERM to exit {min(seconds):.2f} to {max(seconds):.2f} s")


@pytest.mark.parametrize("mode", ["sync", "bounded:2", "async"])
def test_workers_leave_at_any_moment_and_nobody_waits_for_them(start: Start, mode: str) -> None:
    moments, num_preempted = random.Random(mode), 4
    mode_name, _, bound = mode.partition(":")
    settings = {"mode": mode_name, "staleness_bound": int(bound or 4), "lease_seconds": LEASE_SECONDS}
    with local_cluster(**settings) as cluster:
        neighbours = [worker_at(start, cluster.addresses, "hammer", width=LARGE) for _ in range(2)]
        for neighbour in neighbours:
            neighbour.wait_for(ACTIVE)
        seconds = []
        for _ in range(num_preempted):
            preempted = worker_at(start, cluster.addresses, "hammer", width=LARGE)
            preempted.wait_for(ACTIVE)
            time.sleep(moments.random() / 10)
            preempted.terminate()
            wait_until(lambda: sum(states(cluster.status()).values()) - states(cluster.status())["left"] == 2, str)
            assert time.monotonic() - preempted.signalled < NOTICED_SECONDS
            status, took = preempted.end()
            assert (status, took < LIMIT_SECONDS) == (EXIT_STATUS, True), preempted.said
            seconds.append(took)
            goes_on(cluster)
        show(f"workers, {mode}", seconds)
        final = cluster.status()
        assert (final.failures, final.lease_expiries) == (0, 0)
        assert states(final) == {"left": num_preempted, "active": 2}
        assert final.longest_round_gap_seconds < NOTICED_SECONDS


def goes_on(cluster: Cluster) -> None:
    """Every worker that is there takes steps."""

    def steps() -> list[int]:
        return [worker.clock for worker in cluster.status().workers if worker.state == "active"]

    before = steps()
    wait_until(
        lambda: all(now > then for now, then in zip(steps(), before, strict=True)), lambda: f"{before} {steps()}"
    )


@pytest.mark.parametrize(
    ("mode", "place"),
    [
        ("sync", "in_step"),
        ("bounded", "in_step"),
        ("sync", "before_the_first_step"),
        ("async", "in_the_data_loader"),
    ],
)
def test_a_worker_that_waits_ends_at_once(start: Start, mode: str, place: str) -> None:
    expected = 2 if place == "before_the_first_step" else 0
    with local_cluster(mode=mode, staleness_bound=1, lease_seconds=LEASE_SECONDS, expected_workers=expected) as cluster:
        if place == "in_step":
            # It counts, and takes one step only.
            worker_at(start, cluster.addresses, "in_c_code", 1).wait_for(THERE)
        waiting = worker_at(start, cluster.addresses, place, 0)
        waiting.wait_for(THERE)
        time.sleep(0.3)
        waiting.terminate()
        wait_until(lambda: cluster.status().workers[0].state == "left", lambda: waiting.said)
        assert time.monotonic() - waiting.signalled < NOTICED_SECONDS
        status, took = waiting.end()
        assert (status, took < LIMIT_SECONDS) == (EXIT_STATUS, True), waiting.said
        assert cluster.status().failures == 0


def test_a_worker_that_finds_no_server_ends_at_once(start: Start) -> None:
    looking = worker_at(start, ["127.0.0.1:1"], "connecting")
    looking.wait_for(THERE)
    time.sleep(0.3)
    looking.terminate()
    status, took = looking.end()
    assert (status, took < NOTICED_SECONDS) == (EXIT_STATUS, True), looking.said


def test_a_worker_that_cannot_or_will_not_end_leaves_at_once_and_is_ended(start: Start) -> None:
    """Its main thread is in C code for ever, or its script catches everything. One that saves its model is let finish."""
    with local_cluster(lease_seconds=LEASE_SECONDS) as cluster:
        neighbour = worker_at(start, cluster.addresses, "hammer", 0, pause_seconds=0.01)
        neighbour.wait_for(ACTIVE)
        preempted = []
        for place in (places := ("at_the_end", "not_obeying", "in_c_code")):
            preempted.append(worker_at(start, cluster.addresses, place))
            preempted[-1].wait_for(THERE)
        # By now the others wait for the last one.
        for worker in preempted:
            worker.terminate()
        wait_until(
            lambda: states(cluster.status()) == {"active": 1, "left": 3},
            lambda: "\n".join(["not all have left", *(worker.said for worker in preempted)]),
        )
        assert time.monotonic() - preempted[-1].signalled < NOTICED_SECONDS
        goes_on(cluster)
        ends = {place: worker.end() for place, worker in zip(places, preempted, strict=True)}
        show("workers that do not obey", [took for _, took in ends.values()])
        assert {status for status, _ in ends.values()} == {EXIT_STATUS}
        assert all(took < LIMIT_SECONDS for _, took in ends.values())
        assert ends["at_the_end"][1] < LONGEST_END_SECONDS
        assert "saved" in preempted[0].said
        assert cluster.status().failures == 0


@pytest.mark.parametrize("told", [(0, 1), (1, 0), (1,)], ids=["both", "rank 1 first", "rank 1 only"])
def test_a_worker_of_two_ranks_leaves_once_and_has_not_failed(start: Start, told: tuple[int, ...]) -> None:
    """Whichever rank is told first, and also if the other one is not told at all."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with local_cluster(lease_seconds=LEASE_SECONDS, layouts=("dp2",)) as cluster:
        neighbour = worker_at(start, cluster.addresses, "hammer", 0, pause_seconds=0.01)
        neighbour.wait_for(ACTIVE)
        variables = [{**rank_variables(rank, 2, store.port), "PUSHPULL_LAYOUT": "dp2"} for rank in range(2)]
        ranks = [worker_at(start, cluster.addresses, "hammer", 1, variables=each) for each in variables]
        for rank in ranks:
            rank.wait_for(ACTIVE)
        for number in told:
            ranks[number].terminate()
        wait_until(lambda: states(cluster.status()) == {"active": 1, "left": 1}, lambda: ranks[told[0]].said)
        assert time.monotonic() - ranks[told[0]].signalled < NOTICED_SECONDS
        goes_on(cluster)
        for number, rank in enumerate(ranks):
            rank.signalled = ranks[told[0]].signalled
            status, took = rank.end()
            assert (status, took < LIMIT_SECONDS) == (EXIT_STATUS if number in told else 1, True), rank.said
        assert (cluster.status().failures, cluster.status().lease_expiries) == (0, 0)


def test_sigterm_to_the_starter_of_ranks_is_enough(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from preemption_bodies import hammer\nhammer()\n", encoding="utf-8")
    with local_cluster(lease_seconds=LEASE_SECONDS, layouts=("dp2",)) as cluster:
        servers = ",".join(cluster.addresses)
        command = [sys.executable, "-m", "pushpull.deploy.cli", "worker", "--servers", servers, "--layout", "dp2"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        starter = subprocess.Popen([*command, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert starter.stdout is not None
            num_active = 0
            while num_active < 2:
                line = starter.stdout.readline()
                assert line, "the ranks have ended"
                num_active += ACTIVE.strip() in line
            told = time.monotonic()
            starter.terminate()
            assert starter.wait(DEADLINE_SECONDS) == EXIT_STATUS
            assert time.monotonic() - told < LIMIT_SECONDS
        finally:
            starter.kill()
            starter.communicate()
        assert states(cluster.status()) == {"left": 1}
        assert cluster.status().failures == 0


def test_a_second_sigterm_insists(start: Start) -> None:
    with local_cluster(lease_seconds=LEASE_SECONDS) as cluster:
        saving = worker_at(start, cluster.addresses, "at_the_end")
        saving.wait_for(THERE)
        saving.terminate()
        wait_until(lambda: states(cluster.status()) == {"left": 1}, str)
        while saving.process.poll() is None:
            saving.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert saving.process.poll() == EXIT_STATUS


def test_the_data_of_a_worker_that_leaves_go_to_the_others_at_once(start: Start, tmp_path: Path) -> None:
    num_samples, folder = 160, tmp_path / "batches"
    folder.mkdir()
    arguments = {"folder": str(folder), "num_samples": num_samples, "pause_seconds": 0.02}
    with local_cluster(lease_seconds=LEASE_SECONDS, expected_workers=2) as cluster:
        stays, leaves = (worker_at(start, cluster.addresses, "sharing", number, **arguments) for number in range(2))
        leaves.wait_for(3 * THERE)
        leaves.terminate()
        stays.signalled = leaves.signalled
        assert leaves.end()[0] == EXIT_STATUS, leaves.said
        status, took = stays.end()
        assert (status, took < LEASE_SECONDS / 2) == (0, True), stays.said
    batches = [json.loads(file.read_text(encoding="utf-8")) for file in folder.iterdir()]
    used = Counter(number for batch in batches for number in batch)
    # The step during which it left may have been applied without its being told.
    assert num_samples - 4 <= len(used)
    assert set(used.values()) == {1}


@pytest.fixture
def start_servers(start: Start) -> Callable[..., tuple[list[Running], list[str]]]:
    """Two servers, each a process of its own, and their addresses."""

    def begin(mode: str, stuck: int | None = None) -> tuple[list[Running], list[str]]:
        servers: list[Running] = []
        addresses: list[str] = []
        for shard in range(2):
            words = ["--shard", str(shard), "--num-shards", "2", "--metrics-listen", "", "--num-apply-threads", "1"]
            words += ["--registrar", addresses[0]] if shard else ["--set", f"mode={mode}"]
            words += [] if shard else ["--set", f"lease_seconds={LEASE_SECONDS}"]
            servers.append(start(preemption_bodies.server, *(["stuck"] if shard == stuck else []), *words))
            servers[-1].wait_for("serves at ")
            addresses.append(servers[-1].said.split("serves at ")[1].split(";")[0])
        return servers, addresses

    return begin


@pytest.mark.parametrize(("mode", "shard"), [("sync", 0), ("sync", 1), ("bounded", 0), ("async", 1)])
def test_a_server_under_load_ends_the_job_and_says_so_to_every_worker(
    start: Start, start_servers: Callable[..., tuple[list[Running], list[str]]], mode: str, shard: int
) -> None:
    servers, addresses = start_servers(mode)
    workers = [worker_at(start, addresses, "hammer", width=LARGE) for _ in range(3)]
    for worker in workers:
        worker.wait_for(ACTIVE)
    time.sleep(random.Random(mode).random() / 5)
    servers[shard].terminate()
    ends = []
    for process, expected in [*((server, 0) for server in servers), *((worker, 1) for worker in workers)]:
        process.signalled = servers[shard].signalled
        status, took = process.end()
        assert (status, took < LIMIT_SECONDS) == (expected, True), process.said
        ends.append(took)
    show(f"servers and workers, {mode}", ends)
    for worker in workers:
        assert f"pushpull: shard {shard} at {addresses[shard]} is shutting down" in worker.said


def test_a_server_that_is_stuck_ends_too(
    start: Start, start_servers: Callable[..., tuple[list[Running], list[str]]]
) -> None:
    """It applies a step for ever, one client never reads what it is sent, and one says nothing at all."""
    servers, addresses = start_servers("sync", stuck=1)
    trains = worker_at(start, addresses, "in_step")
    trains.wait_for(THERE)
    with grpc.insecure_channel(addresses[1]) as channel:
        silent = channel.stream_stream("/pushpull.v1.Shard/Exchange")(iter(lambda: time.sleep(60) or b"", None))
        time.sleep(1.0)
        servers[1].terminate()
        trains.signalled = servers[1].signalled
        status, took = servers[1].end()
        show("a server that is stuck", [took])
        assert (status, took < LIMIT_SECONDS) == (0, True), servers[1].said
        silent.cancel()
    status, took = trains.end()
    assert (status, took < LIMIT_SECONDS) == (1, True), trains.said
    assert "is shutting down" in trains.said
