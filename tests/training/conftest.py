"""One torch thread per process, as equivalence to the bit demands; helpers beside the tests are importable."""

import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1] / "examples")]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
