"""All shards at once: one stream to each, and waiting for all of them."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..protos.common_pb2 import JobSpecification
from ..protos.errors import JobOverError, PushpullError
from ..protos.shard_pb2 import BeatRequest, Hello, Outcome, PullDone, Values
from .open_exchange import OpenExchange, OpenStep
from .shard_beats import ShardBeats
from .shard_client import ShardClient, ShardTarget


class ShardGroup:
    """The streams of one rank of one incarnation of this worker."""

    def __init__(
        self,
        job: JobSpecification,
        greetings: Sequence[Hello],
        on_values: Callable[[int, Values, memoryview], None],
        on_job_over: Callable[[JobOverError], None],
        traffic_before: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        """`greetings`: what to say to each shard; `traffic_before`: of earlier incarnations, see `traffic`."""
        self._traffic_before = traffic_before
        self._on_job_over = on_job_over
        self._changed = threading.Condition()
        self._error: PushpullError | None = None
        who = greetings[0]
        beat = BeatRequest(worker_id=who.worker_id, incarnation=who.incarnation, rank=who.rank)
        self._beats = ShardBeats(job.shard_addresses, beat, job.lease_seconds or 10.0)
        self.clients = [
            ShardClient(
                ShardTarget(shard, address, hello, job.server_patience_seconds or 600.0),
                _for_shard(on_values, shard),
                self._notify,
            )
            for shard, (address, hello) in enumerate(zip(job.shard_addresses, greetings, strict=True))
        ]

    def start(self) -> None:
        """Opens the streams; they connect in the background."""
        self._beats.start()
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

    def wait(self, shards: Iterable[int]) -> None:
        """Waits until the open exchanges with these shards are done.

        Raises:
            PushpullError: what ended a stream for good.
        """
        exchanges = [self.clients[shard].exchange for shard in shards]
        with self._changed:
            self._changed.wait_for(lambda: _done(exchanges) or self.error() is not None)
        if not _done(exchanges):
            self.check()

    def outcomes(self) -> list[Outcome | None]:
        """Of the open step, by shard."""
        return [None if step is None else step.outcome for step in self._open_steps()]

    def answers(self) -> list[PullDone]:
        """The ends of the pulls behind the open step that are here."""
        return [step.pull_done for step in self._open_steps() if step is not None and step.pull_done is not None]

    def failures(self) -> list[int]:
        """Times that the stream broke or could not be opened, by shard."""
        return [client.traffic.failures for client in self.clients]

    def traffic(self) -> tuple[int, int, int]:
        """Bytes sent, received and sent again so far, over all incarnations."""
        sent, received, resent = self._traffic_before
        for client in self.clients:
            sent += client.traffic.bytes_sent
            received += client.traffic.bytes_received
            resent += client.traffic.bytes_resent
        return sent, received, resent

    def _open_steps(self) -> list[OpenStep | None]:
        exchanges = [client.exchange for client in self.clients]
        return [exchange if isinstance(exchange, OpenStep) else None for exchange in exchanges]

    def close(self) -> None:
        """Ends all streams."""
        self._beats.stop()
        for client in self.clients:
            client.close()

    def _notify(self) -> None:
        error = self.error()
        if isinstance(error, JobOverError):
            self._on_job_over(error)
        with self._changed:
            self._changed.notify_all()


def _done(exchanges: Sequence[OpenExchange | None]) -> bool:
    return all(exchange is None or exchange.done for exchange in exchanges)


def _for_shard(
    on_values: Callable[[int, Values, memoryview], None], shard: int
) -> Callable[[Values, memoryview], None]:
    return lambda values, payload: on_values(shard, values, payload)
