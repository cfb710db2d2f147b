"""Consistency as workers see it: a recorded history with one worker slowed tenfold."""

import threading
import time
from dataclasses import dataclass, field

import pytest
import torch
from clusters import Body, local_cluster

from pushpull.ps_server.consistency import BoundedStaleness
from pushpull.worker import Worker
from pushpull.worker.shard_client import ShardClient

BOUND = 2
FAST_SECONDS, SLOW_SECONDS = 0.004, 0.04
NUM_SLOW_STEPS = 30


@dataclass
class Event:
    """One thing a worker did, at a time of the machine's monotonic clock."""

    worker: int
    seconds: float
    clock: int = 0


@dataclass
class History:
    """Commits when they are first sent, and pulls when they return."""

    commits: list[Event] = field(default_factory=list)
    pulls: list[Event] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def violations(self, bound: int) -> list[str]:
        """Pulls by a worker at clock c that returned before another member had even sent step c - bound.

        Free of false alarms: no shard can have applied a commit that was not sent. Pulls behind a member's last commit do
        not count: it may have left.
        """
        found = []
        ends = {event.worker: event.seconds for event in self.commits}
        for pull in self.pulls:
            for other, end in ends.items():
                if other == pull.worker or pull.seconds > end:
                    continue
                sent = sum(event.worker == other and event.seconds < pull.seconds for event in self.commits)
                if sent < pull.clock - bound:
                    found.append(f"worker {pull.worker} at clock {pull.clock} pulled when {other} had sent {sent}")
        return found


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> History:
    """Records what the shard clients of every worker send and receive."""
    recorded = History()
    original_commit = ShardClient.commit

    def commit(client: ShardClient, message: bytes) -> None:
        with recorded.lock:
            recorded.commits.append(Event(client.target.hello.worker_id, time.monotonic()))
        original_commit(client, message)

    monkeypatch.setattr(ShardClient, "commit", commit)
    return recorded


def stepping(history: History, model: torch.nn.Module, slow: bool, fast_done: threading.Event) -> Body:
    def body(worker: Worker) -> None:
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1e-4)
        step = 0
        while (step < NUM_SLOW_STEPS) if slow else not fast_done.is_set():
            step += 1
            model(torch.ones(2, 16)).sum().backward()
            optimizer.step(num_samples=2)
            with history.lock:
                history.pulls.append(Event(worker.id, time.monotonic(), step))
            optimizer.zero_grad()
            time.sleep(SLOW_SECONDS if slow else FAST_SECONDS)
        fast_done.set()

    return body


def run_bounded(history: History) -> int:
    """One shard, so that a worker sends one commit a step. Returns how many pulls the servers held back."""
    torch.manual_seed(0)
    done = threading.Event()
    models = [torch.nn.Linear(16, 16) for _ in range(2)]
    with local_cluster(1, mode="bounded", staleness_bound=BOUND, expected_workers=2) as cluster:
        cluster.train(
            stepping(history, models[0], False, done),
            stepping(history, models[1], True, done),
        )
        return sum(shard.pulls_waited for shard in cluster.status().shards)


def test_no_pull_is_answered_beyond_the_bound(history: History) -> None:
    assert run_bounded(history) >= 20
    assert len(history.pulls) >= 2 * NUM_SLOW_STEPS
    assert history.violations(BOUND) == []


def test_the_history_check_catches_a_bound_that_is_one_too_large(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedStaleness, "may_answer", lambda policy, lag: lag <= policy.bound + 1)
    run_bounded(history)
    assert history.violations(BOUND)


def test_an_asynchronous_worker_keeps_its_rate_beside_a_slow_one() -> None:
    """Its steps per second before and after the other becomes ten times slower, in the same run."""
    torch.manual_seed(0)
    models = [torch.nn.Linear(64, 64) for _ in range(2)]
    slowed = threading.Event()
    ended = threading.Event()
    rates: list[float] = []

    def fast(worker: Worker) -> None:
        optimizer = worker.optimizer(models[0], torch.optim.SGD, lr=1e-4)
        for phase in range(2):
            if phase == 1:
                slowed.set()
            started, steps = time.monotonic(), 0
            while time.monotonic() - started < 3.0:
                models[0](torch.ones(2, 64)).sum().backward()
                optimizer.step(num_samples=2)
                optimizer.zero_grad()
                time.sleep(0.005)
                steps += 1
            rates.append(steps / (time.monotonic() - started))
        ended.set()

    def other(worker: Worker) -> None:
        optimizer = worker.optimizer(models[1], torch.optim.SGD, lr=1e-4)
        while not ended.is_set():
            models[1](torch.ones(2, 64)).sum().backward()
            optimizer.step(num_samples=2)
            optimizer.zero_grad()
            time.sleep(0.05 if slowed.is_set() else 0.005)

    with local_cluster(mode="async", expected_workers=2) as cluster:
        cluster.train(fast, other)
    assert rates[1] >= 0.85 * rates[0]


def test_version_staleness_is_seen_and_damped_in_asynchronous_mode() -> None:
    torch.manual_seed(0)
    models = [torch.nn.Linear(16, 16) for _ in range(3)]

    def body(worker: Worker) -> None:
        optimizer = worker.optimizer(models[worker.id], torch.optim.SGD, lr=1e-4)
        for _ in range(30):
            models[worker.id](torch.ones(2, 16)).sum().backward()
            optimizer.step(num_samples=2)
            optimizer.zero_grad()

    with local_cluster(mode="async", expected_workers=3) as cluster:
        cluster.train(body, body, body)
        status = cluster.status()
        assert max(shard.version_staleness.max for shard in status.shards) >= 1
        assert sum(shard.steps_applied for shard in status.shards) == 2 * 3 * 30
        assert {worker.report.steps_applied for worker in status.workers} == {30}
