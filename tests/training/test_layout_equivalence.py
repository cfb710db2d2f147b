"""However a worker divides the model, synchronous training in fp32 is that of plain torch in one process."""

from pathlib import Path
from typing import Any

import pytest
from clusters import local_cluster
from parallel_bodies import train_plain
from parallel_gpt_model import TENSOR_SPLITS
from rank_groups import rank_groups
from second_device import SECOND_DEVICE

from pushpull.worker.layout import parse_layout

NUM_STEPS, NUM_WINDOWS = 30, 8
SHAPE = {"width": 32, "num_layers": 4, "num_heads": 4, "context": 16, "vocabulary": 101}
LAYOUTS = ("tp2", "tp4", "pp2", "fsdp2", "pp2xtp2")


@pytest.fixture(scope="module")
def expected() -> list[float]:
    return train_plain(SHAPE, NUM_STEPS, NUM_WINDOWS)


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        pytest.param("tp2", {}, id="TP 2"),
        pytest.param("tp4", {}, id="TP 4"),
        pytest.param("pp2", {"schedule": "1f1b"}, id="PP 2, 1F1B"),
        pytest.param("pp2", {"schedule": "interleaved"}, id="PP 2, interleaved"),
        pytest.param("fsdp2", {}, id="FSDP 2"),
        pytest.param("pp2xtp2", {}, id="PP 2 x TP 2"),
        pytest.param("dp2", {}, id="DP 2"),
        pytest.param("plain", {"devices": ["cpu", SECOND_DEVICE]}, id="two devices"),
    ],
)
def test_the_loss_curve_is_that_of_plain_torch_and_every_rank_pushes_its_share(
    expected: list[float], tmp_path: Path, layout: str, options: dict[str, Any]
) -> None:
    body = "train_on_two_devices" if "devices" in options else "train"
    settings = {"layouts": LAYOUTS, "tensor_splits": tuple(TENSOR_SPLITS.items())}
    with local_cluster(mode="sync", expected_workers=1, **settings) as cluster, rank_groups(tmp_path) as start:
        group = start(
            layout,
            f"parallel_bodies:{body}",
            environment={"PUSHPULL_SERVERS": ",".join(cluster.addresses)},
            shape=SHAPE,
            options=options,
            num_steps=NUM_STEPS,
            bounds=(0, NUM_WINDOWS, NUM_WINDOWS),
        )
        for losses in group.results():
            assert losses == pytest.approx(expected, rel=0, abs=1e-4)
        (worker,) = cluster.status().workers
    pushed = [rank.bytes_pushed for rank in worker.ranks or [worker.report]]
    assert len(pushed) == parse_layout(layout).num_ranks
    assert max(pushed) <= 1.1 * sum(pushed) / len(pushed)
    assert worker.report.steps_applied == NUM_STEPS
    assert worker.report.steps_restaged == 0
