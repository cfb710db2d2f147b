"""Workers whose ranks hold the whole model and see different data; and ranks that do not go together."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from clusters import Cluster, local_cluster
from rank_groups import RankGroup, rank_groups
from replica_bodies import BATCH_SIZE, LEARNING_RATE, small_data, small_model, values

from pushpull.worker.permutation import epoch_order


@contextmanager
def started(
    folder: Path, body: str, lease_seconds: float = 20.0, **arguments: Any
) -> Iterator[tuple[Cluster, RankGroup]]:
    """One worker of two ranks."""
    settings: dict[str, Any] = {"mode": "sync", "expected_workers": 1, "seed": 0, "lease_seconds": lease_seconds}
    with local_cluster(**settings) as cluster, rank_groups(folder) as start:
        servers = {"PUSHPULL_SERVERS": ",".join(cluster.addresses)}
        yield cluster, start("dp2", f"replica_bodies:{body}", environment=servers, **arguments)


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    """One epoch in one process without servers."""
    model, data = small_model(), small_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    order = epoch_order(len(data), 0, 0, shuffle=False)
    for first in range(0, len(data), BATCH_SIZE):
        inputs, targets = data[order(first, BATCH_SIZE)]
        torch.nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return values(model)


def test_gradients_that_torch_averages_behind_its_hooks_leave_in_step(
    expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with started(tmp_path, "wrapped") as (_, group):
        for got, num_restaged in group.results():
            torch.testing.assert_close(got, expected)
            assert num_restaged == 0


def test_local_steps_with_closures_use_the_gradient_of_all_ranks(
    expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with started(tmp_path, "with_closures") as (_, group):
        for got in group.results():
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("body", ["failing", "losing_a_server"])
def test_a_rank_that_cannot_go_on_ends_its_worker(tmp_path: Path, body: str) -> None:
    with started(tmp_path, body, step=4) as (cluster, group):
        assert group.wait(40) == [1, 1]
        assert [worker.state for worker in cluster.status().workers] == ["failed"]


def test_a_rank_may_leave_long_before_the_first_one(tmp_path: Path) -> None:
    with started(tmp_path, "staying", lease_seconds=3.0, seconds=5) as (cluster, group):
        group.results()
        status = cluster.status()
        assert [worker.state for worker in status.workers] == ["left"]
        assert (status.failures, status.lease_expiries) == (0, 0)
