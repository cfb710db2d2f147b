"""A model of 200 million parameters: no message-size error, and the servers' memory stays within what is promised.

Takes minutes and about 14 GiB: `make test-large`, not part of `make test`.
"""

from pathlib import Path

import pytest
from clusters import launch

NUM_ELEMENTS = 200_000_000
NUM_WORKERS = 2
BASE_BYTES = 0.45e9
"""A bare server process: torch, compiled kernels, gRPC."""

SCRIPT = """
import torch
from pushpull.benchmarks.scripts.exchange_worker import Table
from pushpull.worker import connect

torch.manual_seed(0)
model = Table({num_elements})
with connect() as worker:
    optimizer = worker.optimizer(model, torch.optim.AdamW, lr=1e-4)
    for step in range(4):
        for parameter in model.parameters():
            parameter.grad = 1e-3 * torch.ones_like(parameter)
        optimizer.step(num_samples=1)
        worker.log(loss=float(step))
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "large.py"
    path.write_text(SCRIPT.format(num_elements=NUM_ELEMENTS), encoding="utf-8")
    return path


@pytest.mark.parametrize("mode", ["sync", "bounded", "async"])
def test_memory_with_int8_pushes_and_bf16_pulls(script: Path, mode: str) -> None:
    settings = (f"mode={mode}", "push_codec=int8", "pull_codec=bf16", "lease_seconds=60")
    summary = launch(script, settings=settings, timeout_seconds=500)
    assert [worker["steps"] for worker in summary["workers"]] == [4, 4]
    for shard in summary["shards"]:
        print(mode, shard["id"], shard["peak_memory_bytes"] / shard["bytes"], "x", shard["bytes"])
        assert shard["peak_memory_bytes"] < 4.5 * shard["bytes"] + 0.5e9


def test_memory_with_fp32_is_what_the_formula_says(script: Path) -> None:
    """P x 4 x (1 + 2 states) + W x encoded step + published copy + base, within 10 %."""
    summary = launch(script, settings=("lease_seconds=60",), timeout_seconds=500)
    for shard in summary["shards"]:
        formula = (3 + NUM_WORKERS + 1) * shard["bytes"] + BASE_BYTES
        print(shard["id"], shard["peak_memory_bytes"], formula)
        assert shard["peak_memory_bytes"] <= 1.1 * formula
