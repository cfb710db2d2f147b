"""What a reader may do with bytes: refuse them with a documented error, or decode them to finite numbers."""

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from guarded_memory import GuardedMemory

from pushpull.compression.frame import parse_frame
from pushpull.protos.errors import FrameError, NonFiniteError

DOCUMENTED = (FrameError, NonFiniteError)
ACCEPTED = "accepted"

MOST_BYTES = 1 << 17
MOST_ELEMENTS = 1 << 16
"""Frames of larger blocks are only parsed: their caller would have to bring the memory to decode them."""

SLACK_BYTES = 16 << 10
"""What parsing and decoding may allocate whatever the block: views and messages."""

_FENCE = 32
_FENCE_VALUE = np.float32(7)


class Violation(AssertionError):
    """The reader did what it must not do."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case."""

    kind: str
    """`ACCEPTED`, or the name of the error."""
    reason: str = ""
    """The message of the error."""


class Judge:
    """Reads frames that end at an unreadable page into memory that ends at another."""

    def __init__(self) -> None:
        self._input = GuardedMemory(MOST_BYTES)
        self._output = GuardedMemory(4 * (MOST_ELEMENTS + _FENCE))
        self._is_finite = np.empty(MOST_ELEMENTS, np.bool)
        """Scratch, so that judging allocates nothing that would be counted as reading."""

    def __call__(self, contents: bytes | bytearray, num_elements: int, misaligned_by: int = 0) -> Outcome:
        """Parse, decode and accumulate; raises Violation for all that is not documented."""
        frame = self._input.tail(len(contents) + misaligned_by)[: len(contents)]
        frame[:] = np.frombuffer(contents, np.uint8)
        try:
            return self._read(frame.data, num_elements)
        except DOCUMENTED as error:
            return Outcome(type(error).__name__, str(error))
        except Violation:
            raise
        except BaseException as error:
            raise Violation(f"{type(error).__name__} instead of a documented error: {error}") from error

    def _read(self, frame: memoryview, num_elements: int) -> Outcome:
        parsed = parse_frame(frame, num_elements)
        if num_elements > MOST_ELEMENTS:
            return Outcome(ACCEPTED)
        room = self._output.tail(4 * (num_elements + _FENCE)).view(np.float32)
        fence, out = room[:_FENCE], room[_FENCE:]
        fence.fill(_FENCE_VALUE)
        out.fill(np.nan)
        parsed.decode_into(out)
        if not np.isfinite(out, self._is_finite[:num_elements]).all():
            raise Violation("an accepted frame decodes to numbers that are not finite")
        parsed.add_to(out, -1.0)
        if out.any():
            raise Violation("adding a frame gives other numbers than decoding it")
        if (fence != _FENCE_VALUE).any():
            raise Violation("decoding wrote in front of its output")
        return Outcome(ACCEPTED)


def memory_of(read: Callable[[], Outcome]) -> tuple[Outcome, int]:
    """The outcome, and the most bytes allocated at any moment of it, by Python and numpy. Slow."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        outcome = read()
        return outcome, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def check_memory(allocated_bytes: int, num_elements: int) -> None:
    """Raise Violation if reading took more than twice the block, besides the output that the caller brings."""
    limit = 2 * 4 * num_elements + SLACK_BYTES
    if allocated_bytes > limit:
        raise Violation(f"reading a block of {num_elements} elements allocated {allocated_bytes} bytes, over {limit}")
