"""For all tests: what this suite was started with does not change what they see."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def hangups_are_heard() -> Iterator[None]:
    """Under `nohup`, too: this process goes on then, while those that tests start are hung up on as from any terminal."""
    started_with = signal.getsignal(signal.SIGHUP)
    if started_with is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    yield
    signal.signal(signal.SIGHUP, started_with)
