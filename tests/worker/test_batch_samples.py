"""Samples of a batch of any structure."""

from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pushpull.worker.batch_samples import batch_samples

Pair = namedtuple("Pair", ["scale", "values"])
ROWS = torch.zeros(6, 2)


@dataclass
class Graph:
    name: str
    nodes: torch.Tensor


class Encoding(UserDict[str, Any]):
    """As tokenizers give them."""


@pytest.mark.parametrize(
    "batch",
    [
        ROWS,
        np.zeros((6, 2)),
        (ROWS, torch.zeros(6)),
        [[ROWS], torch.zeros(3)],
        {"label": {"deep": [ROWS]}},
        {"scale": torch.tensor(2.0), "x": ROWS},
        Pair(torch.tensor(1.0), ROWS),
        Graph("g", ROWS),
        Encoding(input_ids=ROWS),
        SimpleNamespace(x=ROWS),
        {"text": ["a"] * 5, "ids": ROWS},
        ["a"] * 6,
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_the_first_tensor_says_it_however_deep(batch: object) -> None:
    assert batch_samples(batch) == 6


def test_a_single_thing_is_one_sample() -> None:
    assert batch_samples(3.5) == batch_samples(torch.tensor(2.0).item()) == 1
