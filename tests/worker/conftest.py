"""Fake servers for the tests beside this file."""

from collections.abc import Iterator

import pytest

from pushpull.worker import Worker, connect

from .fake_servers import FakeServers


@pytest.fixture
def servers() -> Iterator[FakeServers]:
    """Two fake shards, the first one also the registrar."""
    fake = FakeServers(num_shards=2)
    yield fake
    fake.stop()


@pytest.fixture
def worker(servers: FakeServers) -> Iterator[Worker]:
    """A worker of these servers."""
    with connect(servers.address) as worker:
        yield worker
