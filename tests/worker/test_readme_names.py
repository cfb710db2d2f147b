"""The tables of README name everything that a script can ask of a worker, and nothing else."""

import re
from pathlib import Path

import pytest
import torch

from pushpull.worker.local_updates import LocalUpdates
from pushpull.worker.optimizer import RemoteOptimizer
from pushpull.worker.shared_data import SharedData
from pushpull.worker.worker import Worker

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
OF_THE_WORKER_ITSELF = {"average", "rejoin", "detach"}
"""Names of optimizers that other modules of ours call."""
OF_TORCH = {name for name in dir(torch.optim.Optimizer) if not name.startswith("_")} - {
    "step",
    "state_dict",
    "load_state_dict",
}


def named(table: str) -> set[str]:
    """What the first column of a table names."""
    rows = README.partition(f"| {table} | |\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert rows, table
    first = " ".join(row.split(" | ")[0] for row in rows)
    return set(re.findall(r"`(\w+)", first))


def public(*kinds: type, attributes: tuple[str, ...] = ()) -> set[str]:
    """Names that these classes define, and attributes of their objects."""
    return {name for kind in kinds for name in dir(kind) if not name.startswith("_")} | set(attributes)


@pytest.mark.parametrize(
    ("table", "there"),
    [
        ("of the worker", public(Worker, attributes=("servers", "layout"))),
        (
            "of its optimizer",
            public(RemoteOptimizer, LocalUpdates, attributes=("inner",)) - OF_TORCH - OF_THE_WORKER_ITSELF,
        ),
        ("of what `share` gives", public(SharedData, attributes=("loader", "len"))),
    ],
)
def test_readme_names_what_there_is(table: str, there: set[str]) -> None:
    assert named(table) == there
