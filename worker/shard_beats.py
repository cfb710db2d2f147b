"""Tells every shard again and again that this rank lives, whatever else is under way with it."""

import logging
import threading
from collections.abc import Sequence

import grpc

from ..protos.errors import error_of_call
from ..protos.shard_pb2 import BeatRequest, BeatResponse
from ..protos.shard_pb2_grpc import ShardStub
from ..protos.transport import dial
from .identity import same_identity

logger = logging.getLogger(__name__)

LONGEST_INTERVAL_SECONDS = 1.0
LONGEST_TIMEOUT_SECONDS = 5.0


class ShardBeats:
    """One thread for all shards; each has a connection of its own without bulk data, so that a push that fills the link for
    a minute delays nothing here. A shard that does not answer delays no other.
    """

    def __init__(self, addresses: Sequence[str], request: BeatRequest, lease_seconds: float) -> None:
        self._interval_seconds = min(lease_seconds / 3, LONGEST_INTERVAL_SECONDS)
        timeout_seconds = min(lease_seconds / 2, LONGEST_TIMEOUT_SECONDS)
        self._lines = [BeatLine(address, request, timeout_seconds) for address in addresses]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=same_identity(self._run), name="pushpull-shard-beats", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for line in self._lines:
                line.beat()
            self._stopping.wait(self._interval_seconds)
        for line in self._lines:
            line.close()


class BeatLine:
    """To one shard: one beat at a time. One without an answer costs the connection, which may have died without a word."""

    def __init__(self, address: str, request: BeatRequest, timeout_seconds: float) -> None:
        self._address = address
        self._request = request
        self._timeout_seconds = timeout_seconds
        self._channel: grpc.Channel | None = None
        self._call: grpc.Future[BeatResponse] | None = None

    def beat(self) -> None:
        """Sends the next beat unless the one before is still under way."""
        if self._call is not None and not self._call.done():
            return
        if self._call is not None and _unanswered(self._call):
            logger.debug("no answer to a beat from %s", self._address)
            self.close()
        if self._channel is None:
            self._channel = dial(self._address)
        self._call = ShardStub(self._channel).Beat.future(self._request, timeout=self._timeout_seconds)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel = self._call = None


def _unanswered(call: "grpc.Future[BeatResponse]") -> bool:
    failure = call.exception()
    return isinstance(failure, grpc.RpcError) and error_of_call(failure) is None
