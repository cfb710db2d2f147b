"""All shards at once: one stream to each, and waiting for all of them."""

import threading
from collections.abc import Callable, Mapping, Sequence

from ..protos.common_pb2 import JobSpecification
from ..protos.errors import PushpullError
from ..protos.shard_pb2 import Hello, Values
from .open_exchange import OpenExchange
from .shard_client import ShardClient, ShardTarget


class ShardGroup:
    """The streams of one rank of one incarnation of this worker."""

    def __init__(
        self,
        job: JobSpecification,
        hello: Hello,
        blocks_of_shard: Sequence[Sequence[int]] | None,
        on_values: Callable[[int, Values, memoryview], None],
    ) -> None:
        """`hello`: who speaks, to be addressed to each shard; with the blocks that are its own there, or None for all."""
        self._changed = threading.Condition()
        self._error: PushpullError | None = None
        self.clients = [
            ShardClient(
                ShardTarget(
                    shard, address, _addressed(hello, shard, blocks_of_shard), job.server_patience_seconds or 600.0
                ),
                _for_shard(on_values, shard),
                self._notify,
            )
            for shard, address in enumerate(job.shard_addresses)
        ]

    def start(self) -> None:
        """Opens the streams; they connect in the background."""
        for client in self.clients:
            client.start()

    def begin(self, exchanges: Mapping[int, OpenExchange]) -> None:
        """Opens an exchange on each of these shards."""
        for shard, exchange in exchanges.items():
            self.clients[shard].begin(exchange)

    def send(self, shard: int, message: bytes) -> None:
        self.clients[shard].send(message)

    def restart(self) -> None:
        for client in self.clients:
            client.restart()

    def commit(self, shard: int, message: bytes) -> None:
        self.clients[shard].commit(message)

    def fail(self, error: PushpullError) -> None:
        """Nothing more will come: whoever waits learns why."""
        self._error = error
        self._notify()

    def error(self) -> PushpullError | None:
        """Why this incarnation cannot go on, if so."""
        return self._error or next((client.error for client in self.clients if client.error), None)

    def check(self) -> None:
        """Raises the error that ended this incarnation, if any."""
        error = self.error()
        if error is not None:
            raise error

    def wait(self) -> None:
        """Waits until all open exchanges are done.

        Raises:
            PushpullError: what ended a stream for good.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._all_done() or self.error() is not None)
        if not self._all_done():
            self.check()

    def bytes_sent(self) -> int:
        return sum(client.traffic.bytes_sent for client in self.clients)

    def bytes_resent(self) -> int:
        return sum(client.traffic.bytes_resent for client in self.clients)

    def bytes_received(self) -> int:
        return sum(client.traffic.bytes_received for client in self.clients)

    def close(self) -> None:
        """Ends all streams."""
        for client in self.clients:
            client.close()

    def _all_done(self) -> bool:
        return all(client.exchange is None or client.exchange.done for client in self.clients)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _addressed(hello: Hello, shard: int, blocks_of_shard: Sequence[Sequence[int]] | None) -> Hello:
    own = Hello()
    own.CopyFrom(hello)
    own.shard = shard
    if blocks_of_shard is not None:
        own.blocks.extend(blocks_of_shard[shard])
    return own


def _for_shard(
    on_values: Callable[[int, Values, memoryview], None], shard: int
) -> Callable[[Values, memoryview], None]:
    return lambda values, payload: on_values(shard, values, payload)
