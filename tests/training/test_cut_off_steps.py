"""A worker is cut off between its commit and the outcome: what encoders remember follows what each shard did, and so does what
the worker is told. The servers' values show it: they must be those of a run that nothing disturbed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from clusters import Cluster, local_cluster
from torch.utils.data import TensorDataset

from pushpull.protos.errors import ExpiredError
from pushpull.protos.shard_pb2 import Outcome
from pushpull.worker import Worker
from pushpull.worker.open_exchange import OpenStep
from pushpull.worker.optimizer import RemoteOptimizer
from pushpull.worker.shard_client import ShardClient
from pushpull.worker.shards import ShardGroup

CODECS = ("topk:0.05+fp32", "momentum:0.9+fp16", "dgc:0.9:4+topk:0.05+fp32")
NUM_STEPS = 6
CUT = 3
"""In which step, from 0."""


class Model(torch.nn.Module):
    """Constant gradients, of blocks on both shards."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.zeros(40, 50))
        self.second = torch.nn.Parameter(torch.zeros(40, 50))

    def set_gradients(self) -> None:
        for number, parameter in enumerate(self.parameters()):
            parameter.grad = torch.linspace(0.5, 1.5 + number, 2000).view(40, 50)


@dataclass
class Network:
    """Between one worker and its shards: loses what it is told to, once."""

    patch: pytest.MonkeyPatch
    worker: Worker | None = None
    lost_commits: set[int] = field(default_factory=set)
    lost_outcomes: set[int] = field(default_factory=set)
    """Of shards."""
    on_outcomes: Callable[[], None] | None = None
    """Once every shard that has its commit has answered."""

    def __post_init__(self) -> None:
        take, commit = OpenStep.take_outcome, ShardClient.commit

        def take_outcome(step: OpenStep, outcome: Outcome) -> None:
            shard = next((n for n, client in enumerate(self.clients) if client.exchange is step), None)
            if shard not in self.lost_outcomes:
                take(step, outcome)
            self.answered |= set() if shard is None else {shard}
            if self.on_outcomes is not None and self.answered | self.lost_commits == {0, 1}:
                done, self.on_outcomes, self.lost_outcomes = self.on_outcomes, None, set()
                done()

        def commit_once(client: ShardClient, message: bytes) -> None:
            if client.target.shard not in self.lost_commits:
                commit(client, message)

        self.answered: set[int] = set()
        self.patch.setattr(OpenStep, "take_outcome", take_outcome)
        self.patch.setattr(ShardClient, "commit", commit_once)

    @property
    def clients(self) -> list[ShardClient]:
        assert self.worker is not None
        return self.worker._training.replica._shards.clients  # type: ignore[union-attr]

    def cut(self, outcomes: set[int], commits: set[int], then: Callable[[], None]) -> None:
        """In the next step these outcomes and commits are lost; then something happens."""
        self.answered, self.lost_outcomes, self.lost_commits = set(), outcomes, commits

        def happen() -> None:
            self.lost_commits = set()
            then()

        self.on_outcomes = happen

    def expire(self) -> None:
        assert self.worker is not None
        self.worker._membership._take_end(ExpiredError("the lease ran out while it was silent"))


def values(cluster: Cluster) -> list[np.ndarray]:
    return [server._engine._shard.store.values.numpy().copy() for server in cluster.servers]  # type: ignore[union-attr]


@lru_cache
def undisturbed(num_steps: int, **settings: Any) -> list[np.ndarray]:
    def body(worker: Worker) -> None:
        model = Model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1.0)
        for _ in range(num_steps):
            model.set_gradients()
            optimizer.step()

    with local_cluster(**settings) as cluster:
        cluster.train(body)
        return values(cluster)


def report_of(worker: Worker) -> tuple[int, int]:
    report = worker._recorder.report()
    return report.steps_applied, report.steps_dropped


def train(
    network: Network,
    cut: Callable[[Worker], None],
    behind_step: Callable[[int, RemoteOptimizer], None] = lambda step, optimizer: None,
) -> Callable[[Worker], tuple[int, int]]:
    def body(worker: Worker) -> tuple[int, int]:
        network.worker = worker
        model = Model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1.0)
        for step in range(NUM_STEPS):
            model.set_gradients()
            if step == CUT:
                cut(worker)
            try:
                optimizer.step()
            except KeyboardInterrupt:
                assert step == CUT
            behind_step(step, optimizer)
        return report_of(worker)

    return body


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("lost", [{0, 1}, {1}])
def test_a_step_that_was_applied_is_told_so_and_pushed_once(
    codec: str, lost: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(monkeypatch)
    with local_cluster(push_codec=codec) as cluster:
        (told,) = cluster.train(train(network, lambda worker: network.cut(lost, set(), network.expire)))
        found = values(cluster)
    assert told == (NUM_STEPS, 0)
    for mine, right in zip(found, undisturbed(NUM_STEPS, push_codec=codec), strict=True):
        np.testing.assert_array_equal(mine, right)


@pytest.mark.parametrize("codec", CODECS[:1])
def test_of_a_split_step_each_block_follows_its_own_shard(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    settings = {"push_codec": codec, "mode": "async"}
    with local_cluster(**settings) as cluster:
        (told,) = cluster.train(train(network, lambda worker: network.cut({0}, {1}, network.expire)))
        found = values(cluster)
    assert told == (NUM_STEPS - 1, 1)
    np.testing.assert_array_equal(found[0], undisturbed(NUM_STEPS, **settings)[0])
    np.testing.assert_array_equal(found[1], undisturbed(NUM_STEPS - 1, **settings)[1])


def test_a_step_that_no_shard_took_is_dropped_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    settings = {"push_codec": CODECS[0], "mode": "sync"}
    with local_cluster(**settings) as cluster:
        # shard 0 holds the whole step, shard 1 never gets it: the round cannot close
        def cut(worker: Worker) -> None:
            network.cut(set(), {1}, lambda: None)
            original = ShardGroup.wait

            def wait(group: ShardGroup, shards: Any) -> None:
                monkeypatch.setattr(ShardGroup, "wait", original)
                network.lost_commits = set()
                network.expire()
                original(group, shards)

            monkeypatch.setattr(ShardGroup, "wait", wait)

        (told,) = cluster.train(train(network, cut))
        found = values(cluster)
    assert told == (NUM_STEPS - 1, 1)
    for mine, right in zip(found, undisturbed(NUM_STEPS - 1, **settings), strict=True):
        np.testing.assert_array_equal(mine, right)


def test_what_ctrl_c_interrupts_is_settled_before_the_next_step_and_before_saving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, saved = Network(monkeypatch), []

    def cut(worker: Worker) -> None:
        original = ShardGroup.wait

        def wait(group: ShardGroup, shards: Any) -> None:
            monkeypatch.setattr(ShardGroup, "wait", original)
            original(group, shards)
            network.clients[0].exchange.outcome = None  # type: ignore[union-attr]
            raise KeyboardInterrupt

        monkeypatch.setattr(ShardGroup, "wait", wait)

    def save(step: int, optimizer: RemoteOptimizer) -> None:
        if step in (CUT - 1, CUT):
            saved.append(optimizer.state_dict()["pushpull"]["memory"])

    settings = {"push_codec": CODECS[0]}
    with local_cluster(**settings) as cluster:
        cluster.train(train(network, cut, save))
        found = values(cluster)
    # the interrupted step counts, the one behind it is dropped on joining again
    for mine, right in zip(found, undisturbed(NUM_STEPS - 1, **settings), strict=True):
        np.testing.assert_array_equal(mine, right)
    before, after = ({block: np.asarray(m["residual"]).copy() for block, m in memory.items()} for memory in saved)
    assert all((before[block] != after[block]).any() for block in before)


def test_data_of_a_step_that_was_cut_off_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = Network(monkeypatch), []
    data = TensorDataset(torch.arange(48, dtype=torch.float32))

    def body(worker: Worker) -> tuple[float, tuple[int, int]]:
        network.worker = worker
        model = torch.nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            model.weight.zero_()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1.0)
        for number, (batch,) in enumerate(worker.share(data, batch_size=4, shuffle=False)):
            if number == CUT:
                network.cut({0, 1}, set(), network.expire)
            model.weight.grad = batch.sum().view(1, 1)
            seen.append(batch)
            optimizer.step()
        return float(model.weight.detach()), report_of(worker)

    with local_cluster(1, mode="sync") as cluster:
        network.lost_commits = set()
        monkeypatch.setattr(Network, "cut", lambda self, *_: _cut_single(self))
        ((weight, told),) = cluster.train(body)
    assert told == (12, 0)
    assert weight == -float(sum(range(48)))


def _cut_single(network: Network) -> None:
    network.answered, network.lost_outcomes, network.on_outcomes = {1}, {0}, network.expire


def test_a_window_of_local_updates_that_was_applied_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)

    def local(worker: Worker, disturb: bool) -> tuple[int, int]:
        network.worker = worker
        model = Model()
        optimizer = worker.local_updates(model, torch.optim.SGD(model.parameters(), lr=0.1), every=2)
        for step in range(2 * NUM_STEPS):
            model.set_gradients()
            if disturb and step == 2 * CUT + 1:
                network.cut({0, 1}, set(), network.expire)
            optimizer.step()
        return report_of(worker)

    found = []
    for disturb in (True, False):
        with local_cluster(push_codec=CODECS[0]) as cluster:
            (told,) = cluster.train(lambda worker, disturb=disturb: local(worker, disturb))
            assert told == (NUM_STEPS, 0)
            found.append(values(cluster))
    for mine, right in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, right)
