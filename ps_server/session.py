"""The sending side of one rank's Exchange stream."""

import queue
from collections.abc import Callable, Iterator

from ..protos.errors import PushpullError
from .keys import StreamKey

Sendable = bytes | Callable[[], bytes]


class Session:
    """Messages for one rank, in order. Values are put in as functions: they are made when the stream can take them, so
    one on a slow link holds no copies of old versions here.
    """

    def __init__(self, key: StreamKey) -> None:
        self.key = key
        self.error: PushpullError | None = None
        self._queue: queue.SimpleQueue[Sendable | None] = queue.SimpleQueue()

    def send(self, message: Sendable) -> None:
        """Adds a serialized `ShardMessage`, or a function that makes one."""
        self._queue.put(message)

    def end(self, error: PushpullError | None = None) -> None:
        """Ends the stream behind what was sent; with an error, the call is refused with it."""
        self.error = self.error or error
        self._queue.put(None)

    def __iter__(self) -> Iterator[bytes]:
        while (message := self._queue.get()) is not None:
            yield message if isinstance(message, bytes) else message()
