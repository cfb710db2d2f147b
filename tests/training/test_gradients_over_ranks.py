"""Gradients that no rank has whole: a weight tied over pipeline stages, replicas; and local steps of several ranks."""

from pathlib import Path
from typing import Any

import pytest
from clusters import local_cluster
from parallel_bodies import train_plain
from parallel_gpt_model import TENSOR_SPLITS
from rank_groups import rank_groups

NUM_STEPS, NUM_WINDOWS = 8, 8
TIED = {"width": 32, "num_layers": 2, "num_heads": 4, "context": 16, "vocabulary": 101, "tied": True}
SETTINGS = {"layouts": ("tp2", "pp2", "fsdp2"), "tensor_splits": tuple(TENSOR_SPLITS.items()), "expected_workers": 1}


@pytest.fixture(scope="module")
def expected() -> list[float]:
    return train_plain(TIED, NUM_STEPS, NUM_WINDOWS)


def losses_of(folder: Path, layout: str, body: str, **arguments: Any) -> list[list[float]]:
    """By rank."""
    with local_cluster(mode="sync", **SETTINGS) as cluster, rank_groups(folder) as start:
        servers = {"PUSHPULL_SERVERS": ",".join(cluster.addresses)}
        group = start(
            layout, f"parallel_bodies:{body}", environment=servers, shape=TIED, num_steps=NUM_STEPS, **arguments
        )
        return group.results()


def test_a_weight_tied_over_two_stages_gets_the_gradient_of_both(expected: list[float], tmp_path: Path) -> None:
    bounds = (0, NUM_WINDOWS, NUM_WINDOWS)
    for losses in losses_of(tmp_path, "pp2", "train", options={"schedule": "gpipe"}, bounds=bounds):
        assert losses == pytest.approx(expected, rel=0, abs=1e-4)


@pytest.mark.parametrize("layout", ["tp2", "pp2", "fsdp2"])
def test_local_steps_of_several_ranks_are_those_of_one_process(
    expected: list[float], tmp_path: Path, layout: str
) -> None:
    for losses in losses_of(tmp_path, layout, "train_locally", options={}, num_windows=NUM_WINDOWS, every=3):
        assert losses == pytest.approx(expected, rel=0, abs=1e-4)
