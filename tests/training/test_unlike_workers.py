"""Workers with unlike layouts train one model: tensor parallelism beside a pipeline beside a plain process."""

import itertools
import json
import subprocess
from pathlib import Path

import pytest
from clusters import ROOT, Cluster, launch_command, local_cluster
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
                bounds=(first, last, JOINED),
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


def test_the_example_trains_with_unlike_workers_under_one_launch(tmp_path: Path) -> None:
    job, history = ROOT / "examples" / "parallel_gpt.yaml", tmp_path / "losses.json"
    command = launch_command(ROOT / "examples" / "parallel_gpt.py", workers=2)
    command[-1:-1] = ["--layout", "tp2", "--layout", "pp2", "--job", str(job)]
    sizes = ["--steps", "4", "--batch-size", "8", "--width", "32", "--context", "32", "--text-bytes", "50000"]
    done = subprocess.run(
        [*command, *sizes, "--autocast", "bf16", "--checkpoint", "--sequence-parallel", "--history", str(history)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert [worker["layout"] for worker in summary["workers"]] == ["tp2", "pp2"]
    assert [worker["steps"] for worker in summary["workers"]] == [4, 4]
    losses = json.loads(history.read_text())
    assert len(losses) == 4
    assert losses[-1] < losses[0]
