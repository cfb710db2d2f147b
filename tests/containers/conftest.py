"""Images and a podman of the session's own. Helpers beside these tests, and those of the monitoring tests, are importable."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "monitoring")]

from images import base_image, product_image, prometheus_image  # noqa: E402
from podman import Podman, why_not  # noqa: E402


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    started = Podman(tmp_path_factory.mktemp("podman"))
    yield started
    started.clean()


@pytest.fixture(scope="session")
def base(podman: Podman) -> str:
    return base_image(podman)


@pytest.fixture(scope="session")
def image(podman: Podman, base: str) -> str:
    """pushpull, as deploy/container/Containerfile builds it."""
    return product_image(podman, base)


@pytest.fixture(scope="session")
def prometheus_stand_in(podman: Podman, base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return prometheus_image(podman, base, tmp_path_factory.mktemp("prometheus"))
