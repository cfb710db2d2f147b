"""What `pushpull plan` predicts for the ranks of unlike workers, and what they then count and need."""

from pathlib import Path
from typing import Any

import pytest
from clusters import launch

from pushpull.deploy.planning.cluster import Cluster
from pushpull.deploy.planning.planner import Forecast, plan_job
from pushpull.ps_server.config import JobSettings

NUM_STEPS = 4
HANG_SECONDS = 240
"""Eight processes that load torch take a minute of two idle cores: this only ends what hangs."""
LAYOUTS = ("tp2", "fsdp2")
SPLITS = {"0.*": 0, "2.weight": 1}

MODEL = """
import torch
from torch import nn

def make_model():
    return nn.Sequential(nn.Linear({width}, 4 * {width}), nn.ReLU(), nn.Linear(4 * {width}, {width}))

def loss(model, batch_size):
    return model(torch.ones(batch_size, {width})).square().mean()
"""

TRAINING = """
import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from pushpull.worker import connect
from planned import loss, make_model

torch.manual_seed(0)
model = make_model()
with connect() as worker:
    if worker.layout.tp > 1:
        parallelize_module(model, worker.mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    else:
        fully_shard(model, mesh=worker.mesh["fsdp"])
    optimizer = worker.optimizer(model, torch.optim.AdamW, lr=1e-4)
    for _ in range(STEPS):
        value = loss(model, 8)
        value.backward()
        optimizer.step(num_samples=8)
        optimizer.zero_grad()
        worker.log(loss=value.item())
"""


def plan_and_run(folder: Path, width: int, push_codec: str) -> tuple[Forecast, dict[str, Any]]:
    (folder / "planned.py").write_text(MODEL.format(width=width), encoding="utf-8")
    script = folder / "train.py"
    script.write_text(TRAINING.replace("STEPS", str(NUM_STEPS)), encoding="utf-8")
    device = {"kind": "cpu", "memory": "64GiB", "tflops": 0.1, "count": 2}
    cluster = Cluster.model_validate(
        {
            "model": "planned.py:make_model",
            "loss": "planned.py:loss",
            "batch_size": 16,
            "servers": [{"memory": "64GiB", "bandwidth": "10Gbit/s", "count": 2}],
            "workers": [{"devices": [device], "bandwidth": "10Gbit/s", "layout": layout} for layout in LAYOUTS],
        }
    )
    job = JobSettings(push_codec=push_codec, layouts=LAYOUTS, tensor_splits=tuple(SPLITS.items()))
    options = [word for layout in LAYOUTS for word in ("--layout", layout)]
    settings = [f"push_codec={push_codec}", "lease_seconds=60"]
    settings += [f"tensor_splits.{name}={dimension}" for name, dimension in SPLITS.items()]
    summary = launch(script, options=options, settings=settings, timeout_seconds=HANG_SECONDS)
    return plan_job(job, cluster, folder), summary


@pytest.mark.timeout(HANG_SECONDS + 60)
def test_every_rank_moves_what_was_planned_for_it(tmp_path: Path) -> None:
    plan, summary = plan_and_run(tmp_path, 256, "int8")
    for planned, counted in zip(plan.workers, summary["workers"], strict=True):
        assert counted["layout"] == planned.forecast.layout.spec
        for rank, said in zip(planned.forecast.ranks, counted["ranks"], strict=True):
            pushed = NUM_STEPS * (sum(band.most for band in rank.pushed) + rank.control_bytes)
            assert said["bytes_pushed"] == pytest.approx(pushed, rel=0.02)
            assert said["bytes_pulled"] == pytest.approx(NUM_STEPS * sum(band.most for band in rank.pulled), rel=0.02)


@pytest.mark.slow
def test_memory_of_every_rank_is_within_ten_percent(tmp_path: Path) -> None:
    plan, summary = plan_and_run(tmp_path, 2048, "int8")
    for planned, counted in zip(plan.workers, summary["workers"], strict=True):
        for rank, said in zip(planned.forecast.ranks, counted["ranks"], strict=True):
            print(counted["layout"], rank.rank, said["peak_memory_bytes"], rank.memory.host.total)
            assert rank.memory.host.total == pytest.approx(said["peak_memory_bytes"], rel=0.1)
