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


def results_of(folder: Path, layout: str, body: str, **arguments: Any) -> list[Any]:
    """By rank."""
    with local_cluster(mode="sync", **SETTINGS) as cluster, rank_groups(folder) as start:
        servers = {"PUSHPULL_SERVERS": ",".join(cluster.addresses)}
        group = start(layout, f"parallel_bodies:{body}", environment=servers, shape=TIED, **arguments)
        return group.results()


def test_a_weight_tied_over_two_stages_gets_the_gradient_of_both(expected: list[float], tmp_path: Path) -> None:
    bounds = (0, NUM_WINDOWS, NUM_WINDOWS)
    for losses in results_of(
        tmp_path, "pp2", "train", options={"schedule": "gpipe"}, num_steps=NUM_STEPS, bounds=bounds
    ):
        assert losses == pytest.approx(expected, rel=0, abs=1e-4)


@pytest.mark.parametrize("layout", ["tp2", "pp2", "fsdp2"])
def test_local_steps_of_several_ranks_are_those_of_one_process(
    expected: list[float], tmp_path: Path, layout: str
) -> None:
    for losses in results_of(
        tmp_path, layout, "train_locally", options={}, num_steps=NUM_STEPS, num_windows=NUM_WINDOWS, every=3
    ):
        assert losses == pytest.approx(expected, rel=0, abs=1e-4)


def test_ranks_whose_loss_scales_have_parted_are_told_what_to_use(tmp_path: Path) -> None:
    """torch's own scaler lets each rank decide alone, and gradients would be divided by different scales in silence."""
    for told in results_of(tmp_path, "tp2", "push_with_a_loss_scale_of_its_own"):
        assert told.startswith(
            "SettingError: the ranks of this worker have different loss scales; use worker.grad_scaler()"
        )
