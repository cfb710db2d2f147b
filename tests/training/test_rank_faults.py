"""The death of a rank ends its worker, and nobody else; the worker can come back with another layout."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from clusters import Cluster, local_cluster
from fault_bodies import HELD, PULLED, STEP
from neighbour import Neighbour, PlainWorker, neighbour_of
from parallel_gpt_model import TENSOR_SPLITS
from rank_groups import RankGroup, Start, rank_groups

from pushpull.protos.registrar_pb2 import JobStatus, WorkerStatus
from pushpull.worker import connect

LEASE_SECONDS = 3.0
NOTICED_SECONDS = 10.0
"""From the end of the lease until a process has ended by itself, on a busy machine."""
SHAPE = {"width": 16, "num_layers": 2, "num_heads": 2, "context": 8, "vocabulary": 31}
NUM_WINDOWS = 4
STEP_OF_TROUBLE = 12
LONG = 100_000
"""Steps: until something ends it."""


class Job:
    """A cluster with one worker of two ranks, which is worker 1, and a plain neighbour, which is worker 0."""

    def __init__(self, cluster: Cluster, start: Start, neighbour: Neighbour) -> None:
        self.cluster = cluster
        self.neighbour = neighbour
        self._start = start

    def start(self, layout: str, **arguments: Any) -> RankGroup:
        return self._start(
            layout,
            "fault_bodies:train",
            environment={"PUSHPULL_SERVERS": ",".join(self.cluster.addresses), "PUSHPULL_WORKER_ID": "1"},
            shape=SHAPE,
            num_windows=NUM_WINDOWS,
            **arguments,
        )

    @property
    def worker(self) -> WorkerStatus:
        """What the registrar says of worker 1."""
        return next(worker for worker in self.cluster.status().workers if worker.worker_id == 1)

    @property
    def status(self) -> JobStatus:
        return self.cluster.status()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.worker
            time.sleep(0.02)


@pytest.fixture
def job(tmp_path: Path, mode: str) -> Iterator[Job]:
    settings = {
        "mode": mode,
        "expected_workers": 2,
        "lease_seconds": LEASE_SECONDS,
        "layouts": ("tp2", "pp2"),
        "tensor_splits": tuple(TENSOR_SPLITS.items()),
    }
    with (
        local_cluster(**settings) as cluster,
        rank_groups(tmp_path) as start,
        neighbour_of(cluster, SHAPE, NUM_WINDOWS) as neighbour,
    ):
        yield Job(cluster, start, neighbour)


@pytest.mark.parametrize(
    ("mode", "layout", "killed", "moment"),
    [
        ("sync", "tp2", 1, "forward"),
        ("sync", "pp2", 0, "staged"),
        ("sync", "tp2", 1, "half committed"),
        ("async", "tp2", 0, "half committed"),
    ],
)
def test_a_killed_rank_ends_its_worker_which_comes_back_undivided(
    job: Job, mode: str, layout: str, killed: int, moment: str
) -> None:
    group = job.start(layout, num_steps=LONG, trouble={"rank": killed, "step": STEP_OF_TROUBLE, "moment": moment})
    group.wait_for_output(killed, HELD)
    ordinary_seconds = max(0.1, job.status.longest_round_gap_seconds)
    group.kill(killed)
    survivor_ends(group, killed, time.monotonic())
    job.neighbour.wait_for_steps(3)
    status = job.status
    assert status.failures == 1
    if mode == "sync":
        assert status.longest_round_gap_seconds <= LEASE_SECONDS + 1 + 2 * ordinary_seconds

    with connect(job.cluster.addresses, 1) as worker:
        with job.neighbour.between_steps:
            again = PlainWorker(worker, SHAPE, slice(None), NUM_WINDOWS)
            assert_equal(again.values, job.neighbour.values)
        for _ in range(3):
            again.step()
    assert again.losses[0] < job.neighbour.losses[0]
    # Without rounds a step may be applied on the shards that its worker still committed to. It is counted.
    assert job.status.split_steps == (mode == "async")
    assert job.status.failures == 1


@pytest.mark.parametrize("mode", ["sync"])
def test_a_rank_that_raises_ends_its_worker_which_comes_back_with_another_layout(job: Job, mode: str) -> None:
    group = job.start("tp2", num_steps=LONG, trouble={"rank": 0, "step": STEP_OF_TROUBLE, "moment": "raises"})
    assert group.wait() == [1, 1]
    assert "ValueError: nothing works today" in group.ranks[0].story()
    assert "RankLostError: another rank of this worker is gone" in group.ranks[1].story()
    assert (job.worker.state, job.status.failures, job.status.lease_expiries) == ("failed", 1, 0)

    with job.neighbour.between_steps:
        group = job.start("pp2", num_steps=3)
        for rank in range(2):
            group.wait_for_output(rank, PULLED)
        values = job.neighbour.values
    results = group.results()
    for result in results:
        assert_equal(result["first"], values)
        assert result["losses"][0] < job.neighbour.losses[0]
    assert {name for result in results for name in result["first"]} == values.keys()
    assert (job.worker.state, job.worker.layout, job.status.failures) == ("left", "pp2", 1)


@pytest.mark.parametrize("mode", ["sync"])
def test_a_worker_whose_ranks_were_silent_joins_again_as_a_whole(job: Job, mode: str) -> None:
    num_steps = 30
    group = job.start("tp2", num_steps=num_steps, pause_seconds=0.1)
    group.wait_for_output(0, STEP.format(3))
    for silent in ((1,), (0, 1)):
        incarnation = job.worker.incarnation
        job.wait_for(lambda: job.worker.state == "active")
        group.signal(signal.SIGSTOP, silent)
        job.wait_for(lambda: job.worker.state == "expired")
        job.neighbour.wait_for_steps(3)
        group.signal(signal.SIGCONT, silent)
        job.wait_for(lambda old=incarnation: job.worker.incarnation > old)
    first, second = group.results()
    assert first["losses"] == second["losses"]
    assert len(first["losses"]) == num_steps
    assert (job.worker.state, job.status.failures, job.status.lease_expiries) == ("left", 2, 2)
    # The gradient at hand when a lease ended is dropped, and so may be one computed before the worker counts again.
    reports = job.worker.ranks
    assert [report.num_steps for report in reports] == [num_steps] * 2
    assert reports[0].steps_dropped == reports[1].steps_dropped
    assert 2 <= reports[0].steps_dropped <= 4


def survivor_ends(group: RankGroup, killed: int, since: float) -> None:
    """The other rank ends by itself, in time, and says what to do."""
    assert group.wait()[1 - killed] == 1
    assert time.monotonic() - since < LEASE_SECONDS + NOTICED_SECONDS
    assert "RankLostError: another rank of this worker is gone" in group.ranks[1 - killed].story()


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To the bit."""
    assert found.keys() <= expected.keys()
    for name, values in found.items():
        assert torch.equal(values, expected[name]), name
