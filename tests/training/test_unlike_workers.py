"""Workers with unlike layouts train one model: tensor parallelism beside a pipeline beside a plain process."""

import itertools
from pathlib import Path

import pytest
from clusters import Cluster, local_cluster
from parallel_bodies import train_plain
from parallel_gpt_model import TENSOR_SPLITS
from rank_groups import rank_groups

NUM_STEPS = 30
SHAPE = {"width": 32, "num_layers": 4, "num_heads": 4, "context": 16, "vocabulary": 101}
WINDOWS = {"tp2": 6, "pp2": 8, "plain": 10}
"""Of each worker's batch."""
JOINED = sum(WINDOWS.values())
SETTINGS = {
    "layouts": ("tp2", "pp2"),
    "tensor_splits": tuple(TENSOR_SPLITS.items()),
    "expected_workers": len(WINDOWS),
}


def train(cluster: Cluster, folder: Path) -> list[list[float]]:
    """The losses of each worker, on its own part of the batches."""
    bounds = [0, *itertools.accumulate(WINDOWS.values())]
    with rank_groups(folder) as start:
        groups = [
            start(
                layout,
                "parallel_bodies:train",
                environment={"PUSHPULL_SERVERS": ",".join(cluster.addresses)},
                shape=SHAPE,
                options={},
                num_steps=NUM_STEPS,
                windows=(first, last, JOINED),
            )
            for layout, (first, last) in zip(WINDOWS, itertools.pairwise(bounds), strict=True)
        ]
        losses = []
        for group in groups:
            mine, *others = group.results()
            assert all(other == mine for other in others)
            losses.append(mine)
        return losses


def test_synchronous_they_equal_plain_torch_on_the_joined_batch(tmp_path: Path) -> None:
    with local_cluster(mode="sync", **SETTINGS) as cluster:
        by_worker = train(cluster, tmp_path)
    weights = [size / JOINED for size in WINDOWS.values()]
    joined = [sum(w * loss for w, loss in zip(weights, step, strict=True)) for step in zip(*by_worker, strict=True)]
    assert joined == pytest.approx(train_plain(SHAPE, NUM_STEPS, JOINED), rel=0, abs=1e-4)


@pytest.mark.parametrize(
    "mode", [{"mode": "bounded", "staleness_bound": 2}, {"mode": "async"}], ids=["bounded", "async"]
)
def test_asynchronous_every_step_is_applied_and_the_loss_falls(tmp_path: Path, mode: dict[str, object]) -> None:
    with local_cluster(**mode, **SETTINGS) as cluster:
        by_worker = train(cluster, tmp_path)
        applied = [shard.steps_applied for shard in cluster.status().shards]
    assert applied == [len(WINDOWS) * NUM_STEPS] * 2
    for losses in by_worker:
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
