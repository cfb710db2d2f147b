"""Launched runs end with their test; helpers beside the tests are importable."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from launches import Launch


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    started: list[Launch] = []

    def start(program: str, *options: str, servers: int = 2, workers: int | None = 2) -> Launch:
        started.append(Launch(tmp_path, program, *options, servers=servers, workers=workers))
        return started[-1]

    yield start
    for one in started:
        one.close()
