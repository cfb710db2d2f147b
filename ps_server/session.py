"""The sending side of one rank's Exchange stream."""

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..protos.errors import OverBudgetError, PushpullError
from .keys import StreamKey

Sendable = bytes | Callable[[], bytes]


@dataclass(frozen=True)
class SessionLimits:
    """What one rank may ask of a shard."""

    num_blocks: int
    """Of the shard: what the size of a question is judged by."""
    most_queued: int
    """Messages that wait for it."""


class Session:
    """Messages for one rank, in order. Values are put in as functions: they are made when the stream can take them, so
    one on a slow link holds no copies of old versions here.

    A well-behaved worker asks for nothing new before it has what it asked for, so the queue is bounded: who asks again and
    again and does not read is cut off.
    """

    def __init__(self, key: StreamKey, limits: SessionLimits) -> None:
        self.key = key
        self.error: PushpullError | None = None
        self.cut: Callable[[], None] = lambda: None
        """Ends the call under a sender that waits for room. From any thread, under any lock."""
        self.limits = limits
        self.asked_at: float | None = None
        """When its rank asked what is not answered yet, in monotonic seconds. The engine's lock guards it."""
        self.overrun = False
        """It was cut off."""
        self._queue: queue.SimpleQueue[Sendable | None] = queue.SimpleQueue()

    def send(self, message: Sendable) -> None:
        """Adds a serialized `ShardMessage`, or a function that makes one."""
        if self.overrun:
            return
        if self._queue.qsize() >= self.limits.most_queued:
            return self._cut_off()
        self._queue.put(message)

    def end(self, error: PushpullError | None = None) -> None:
        """Ends the stream behind what was sent; with an error, the call is refused with it."""
        self.error = self.error or error
        self._queue.put(None)

    def __iter__(self) -> Iterator[bytes]:
        while (message := self._queue.get()) is not None:
            yield message if isinstance(message, bytes) else message()

    def _cut_off(self) -> None:
        self.overrun = True
        self.error = OverBudgetError(
            f"worker {self.key.worker_id} does not read what it asks for: {self.limits.most_queued} messages wait for it"
        )
        self._queue = queue.SimpleQueue()  # what waits is freed now, not when the sender gets on
        self._queue.put(None)
        self.cut()
