"""What code costs, counted and not timed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def counted_events(*events: str) -> Iterator[list[int]]:
    """How many of these events, as `sys.settrace` names them, this thread comes through."""
    count = [0]

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        count[0] += event in events
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)
