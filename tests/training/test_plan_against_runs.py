"""What `pushpull plan` predicts, and what real servers and workers then count and need."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from clusters import launch, local_cluster
from torch import nn

from pushpull.deploy.planning.cluster import Cluster
from pushpull.deploy.planning.planner import Forecast, plan_job
from pushpull.deploy.planning.traffic import Band, total
from pushpull.ps_server.config import JobSettings
from pushpull.worker import Worker

WIDTH, NUM_STEPS, NUM_WORKERS, BATCH_SIZE = 1024, 5, 2, 64

MODEL = """
import torch
from torch import nn

def make_model():
    layers = [part for _ in range({depth}) for part in (nn.Linear({width}, {width}), nn.ReLU())]
    return nn.Sequential(nn.BatchNorm1d({width}), *layers, nn.Linear({width}, 10))

def loss(model, batch_size):
    return nn.functional.cross_entropy(model(torch.randn(batch_size, {width})), torch.zeros(batch_size, dtype=torch.long))
"""

TRAINING = """
import json, resource, sys
import torch
from pushpull.worker import connect
from planned import loss, make_model

torch.manual_seed(0)
model = make_model()
with connect() as worker:
    optimizer = worker.optimizer(model, torch.optim.AdamW, lr=1e-4)
    for _ in range(int(sys.argv[2])):
        value = loss(model, int(sys.argv[3]))
        value.backward()
        optimizer.step(num_samples=1)
        optimizer.zero_grad()
        worker.log(loss=value)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    open(f"{sys.argv[1]}/peak.{worker.id}", "w").write(str(peak))
"""


def forecast(folder: Path, depth: int, width: int, optimizer: str, **settings: Any) -> Forecast:
    (folder / "planned.py").write_text(MODEL.format(depth=depth, width=width), encoding="utf-8")
    machine = {"memory": "64GiB", "bandwidth": "10Gbit/s"}
    device = {"kind": "cpu", "memory": "64GiB", "tflops": 0.1}
    cluster = Cluster.model_validate(
        {
            "model": "planned.py:make_model",
            "loss": "planned.py:loss",
            "optimizer": optimizer,
            "batch_size": BATCH_SIZE,
            "servers": [{**machine, "count": 2}],
            "workers": [{"devices": [device], "bandwidth": "10Gbit/s", "count": NUM_WORKERS}],
        }
    )
    return plan_job(JobSettings(**settings), cluster, folder)


def pulled_in_all(plan: Forecast) -> Band:
    """With what every worker gets when it comes in."""
    return total(
        [worker.forecast.ranks[0].pulled_first for worker in plan.workers] + [s.pulled for s in plan.shards] * NUM_STEPS
    )


def small_model(depth: int, width: int) -> nn.Module:
    namespace: dict[str, Any] = {}
    exec(MODEL.format(depth=depth, width=width), namespace)
    model: nn.Module = namespace["make_model"]()
    return model


def train(worker: Worker) -> None:
    torch.manual_seed(worker.id)
    model = small_model(3, 96)
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
    for _ in range(NUM_STEPS):
        nn.functional.cross_entropy(model(torch.randn(8, 96)), torch.zeros(8, dtype=torch.long)).backward()
        optimizer.step()
        optimizer.zero_grad()


class TestBytes:
    @pytest.mark.parametrize(
        ("push_codec", "pull_codec"),
        [
            ("fp32", "fp32"),
            ("fp16", "fp16"),
            ("int8", "bf16"),
            ("int4", "int8"),
            ("int2", "int4"),
            ("randk:0.1:unscaled+fp16", "fp32"),
        ],
    )
    def test_of_dense_codecs_are_within_two_percent_on_every_shard(
        self, tmp_path: Path, push_codec: str, pull_codec: str
    ) -> None:
        settings = {"push_codec": push_codec, "pull_codec": pull_codec}
        plan = forecast(tmp_path, 3, 96, "SGD", **settings)
        with local_cluster(expected_workers=NUM_WORKERS, **settings) as cluster:
            cluster.train(*[train] * NUM_WORKERS)
            counted = cluster.status().shards
        assert all(shard.pushed.exact and shard.pulled.exact for shard in plan.shards)
        for shard, planned in zip(counted, plan.shards, strict=True):
            # every step moves all running statistics; the first worker sends its own
            in_a_step = planned.pushed.most + planned.moved_bytes
            assert shard.bytes_pushed == pytest.approx(NUM_STEPS * in_a_step, rel=0.02)
            assert shard.parameter_bytes == planned.parameter_bytes
        assert sum(s.bytes_pulled for s in counted) == pytest.approx(pulled_in_all(plan).most, rel=0.02)

    @pytest.mark.parametrize(
        "push_codec", ["sign", "topk:0.01+fp16", "threshold:0.001+int8", "int4+zstd", "dgc:0.9:4+topk:0.01+fp16"]
    )
    def test_of_sparse_and_compressed_frames_are_inside_the_band(self, tmp_path: Path, push_codec: str) -> None:
        plan = forecast(tmp_path, 3, 96, "SGD", push_codec=push_codec)
        with local_cluster(expected_workers=NUM_WORKERS, push_codec=push_codec) as cluster:
            cluster.train(*[train] * NUM_WORKERS)
            counted = cluster.status().shards
        for shard, planned in zip(counted, plan.shards, strict=True):
            assert planned.pushed.least < planned.pushed.most
            in_a_step = Band(planned.pushed.least, planned.pushed.most + planned.moved_bytes)
            assert NUM_STEPS * in_a_step.least <= shard.bytes_pushed <= NUM_STEPS * in_a_step.most


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("depth", [16, 32])
@pytest.mark.parametrize(
    "settings",
    [
        ("push_codec=fp32", "pull_codec=fp32"),
        ("push_codec=int8", "pull_codec=bf16"),
        ("push_codec=int8", "pull_codec=int8"),
        ("push_codec=topk:0.01+fp16", "pull_codec=fp32"),
    ],
    ids="/".join,
)
def test_memory_of_every_process_is_within_ten_percent(tmp_path: Path, settings: tuple[str, ...], depth: int) -> None:
    plan = forecast(tmp_path, depth, WIDTH, "AdamW", **dict(setting.split("=") for setting in settings))
    script = tmp_path / "train.py"
    script.write_text(TRAINING, encoding="utf-8")
    arguments = (str(tmp_path), str(NUM_STEPS), str(BATCH_SIZE))
    summary = launch(script, *arguments, settings=(*settings, "lease_seconds=60"), timeout_seconds=280)
    counted = {
        **{f"server {s['id']}": s["peak_memory_bytes"] for s in summary["shards"]},
        **{f"worker {k}": int((tmp_path / f"peak.{k}").read_text()) for k in range(NUM_WORKERS)},
    }
    planned = {
        **{f"server {s.shard}": s.memory.total for s in plan.shards},
        **{f"worker {k}": w.forecast.ranks[0].memory.host.total for k, w in enumerate(plan.workers)},
    }
    print(json.dumps({name: [counted[name], planned[name], planned[name] / counted[name]] for name in counted}))
    pushed = Band(
        NUM_STEPS * sum(s.pushed.least for s in plan.shards), NUM_STEPS * sum(s.pushed.most for s in plan.shards)
    )
    assert 0.98 * pushed.least <= summary["bytes_pushed"] <= 1.02 * pushed.most
    assert summary["bytes_pulled"] == pytest.approx(pulled_in_all(plan).most, rel=0.02)
    for name in counted:
        assert planned[name] == pytest.approx(counted[name], rel=0.1), name
