"""Why and since when a shard refuses everything. The engine's lock guards it, but for `over`."""

import threading

from ..protos.errors import JobOverError, ServerDrainingError, ServerLostError
from ..protos.registrar_pb2 import JobEnd


class ShardEnd:
    """The end of one shard, with its job. The first reason stands: it is the registrar's, but where that cannot be reached."""

    def __init__(self) -> None:
        self.over = threading.Event()
        """The registrar has said that the job is over."""
        self.reason: JobOverError | None = None

    def begin(self, reason: JobOverError) -> None:
        """From now on everything is refused."""
        self.reason = self.reason or reason

    def take_order(self, order: JobEnd) -> None:
        """The registrar says that the job is over."""
        self.begin(ServerLostError(order.message) if order.lost else ServerDrainingError(order.message))

    def check(self) -> None:
        """Raises the reason once the end has begun."""
        if self.reason is not None:
            raise self.reason

    @property
    def loss(self) -> ServerLostError | None:
        """Why the job cannot go on, if it ends because it cannot."""
        return self.reason if isinstance(self.reason, ServerLostError) else None
