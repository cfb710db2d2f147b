"""Values that the script pushes arrive once, whatever becomes of the connection or the lease on the way: what others have built
on them is not undone."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from clusters import local_cluster
from test_cut_off_steps import Model, Network, values

from pushpull.worker import Worker
from pushpull.worker.shards import ShardGroup

LOADED = 3.0


def load(model: Model) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(LOADED)


def loaded_with_steps_behind(
    network: Network, cut: Callable[[Callable[[], None]], None]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """On each shard, behind one worker's loading: what another worker's step made of it, and what it is in the end.

    `cut` loses something of the push of the values, and calls what it is given before the worker joins again.
    """
    applied, stepped, between = threading.Event(), threading.Event(), list[list[np.ndarray]]()

    def loads(worker: Worker) -> None:
        network.worker = worker
        model = Model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1.0)

        def other_steps() -> None:
            applied.set()
            assert stepped.wait(60)

        load(model)
        cut(other_steps)
        optimizer.push_values()

    def steps(worker: Worker) -> None:
        model = Model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1.0)
        assert applied.wait(60)
        optimizer.skip_step()  # pulls what was loaded
        model.set_gradients()
        optimizer.step()
        between.append(values(cluster))
        stepped.set()

    with local_cluster(mode="async", damping="none") as cluster:
        cluster.train(loads, steps)
        return between[0], values(cluster)


@pytest.mark.parametrize("lost", [{0, 1}, {1}, {0}])
def test_a_lease_that_ends_before_the_outcome_pushes_nothing_twice(
    lost: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(monkeypatch)

    def cut(other_steps: Callable[[], None]) -> None:
        def then() -> None:
            other_steps()
            network.expire()

        network.cut(lost, set(), then)

    between, found = loaded_with_steps_behind(network, cut)
    for mine, right in zip(found, between, strict=True):
        np.testing.assert_array_equal(mine, right)
        assert mine.max() < LOADED


@pytest.mark.parametrize("lost", [0, 1])
def test_a_shard_that_never_got_them_gets_them_and_the_other_one_not_again(
    lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(monkeypatch)

    def cut(other_steps: Callable[[], None]) -> None:
        def then() -> None:
            other_steps()
            network.expire()

        network.cut({1 - lost}, {lost}, then)

    between, found = loaded_with_steps_behind(network, cut)
    np.testing.assert_array_equal(found[1 - lost], between[1 - lost])
    assert (found[lost] == LOADED).all()


def test_a_connection_that_breaks_before_the_outcome_sends_them_again_and_they_count_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Network(monkeypatch)
    broken = []

    def cut(other_steps: Callable[[], None]) -> None:
        original = ShardGroup.wait

        def wait(group: ShardGroup, shards: object) -> None:
            if group.clients[0].exchange is not network.clients[0].exchange:
                return original(group, shards)  # type: ignore[arg-type]
            monkeypatch.setattr(ShardGroup, "wait", original)
            original(group, shards)  # type: ignore[arg-type]
            other_steps()
            for client in group.clients:  # the worker has not heard of it: everything is sent once more
                client.exchange.outcome = client.exchange.pull_done = None  # type: ignore[union-attr]
                assert client._call is not None
                client._call.cancel()
            broken.append(group)
            return original(group, shards)  # type: ignore[arg-type]

        monkeypatch.setattr(ShardGroup, "wait", wait)

    between, found = loaded_with_steps_behind(network, cut)
    assert [group.failures() for group in broken] == [[1, 1]]
    for mine, right in zip(found, between, strict=True):
        np.testing.assert_array_equal(mine, right)
        assert mine.max() < LOADED


def test_a_lease_that_ends_before_the_outcome_of_a_mean_leaves_everybody_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Network(monkeypatch)

    def body(worker: Worker) -> torch.Tensor:
        model = Model()
        model.register_buffer("mean", torch.zeros(3000))
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1.0)
        model.mean.fill_(float(1 + 2 * worker.id))
        if worker.id == 0:
            network.worker = worker
            network.cut({0, 1}, set(), network.expire)
        optimizer.average_buffers()
        mean: torch.Tensor = model.mean.clone()
        model.set_gradients()
        optimizer.step()
        return mean

    with local_cluster(expected_workers=2, block_elements=1000) as cluster:
        for mean in cluster.train(body, body):
            assert bool((mean == 2.0).all())
