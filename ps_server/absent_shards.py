"""Asks after shards whose link broke: is it a link, which comes back by itself, or is the process gone?"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from ..protos.absence import Absence, is_refused
from ..protos.shard_pb2 import ShardStatusRequest
from ..protos.shard_pb2_grpc import ShardStub
from ..protos.transport import dial
from .shard_table import Holder

ASK_TIMEOUT_SECONDS = 2.0
ASK_AGAIN_SECONDS = 0.3


@dataclass(frozen=True)
class Answer:
    """What came of asking who is at an address."""

    life: int | None
    """Of the process that answered."""
    refused: bool = False
    """Nobody listens there."""


def ask(address: str) -> Answer:
    """Asks whoever listens at the address of a shard who he is."""
    try:
        with dial(address) as channel:
            status = ShardStub(channel).Status(ShardStatusRequest(), timeout=ASK_TIMEOUT_SECONDS)
            return Answer(status.epoch)
    except grpc.RpcError as failure:
        return Answer(None, is_refused(failure))


class AbsentShards:
    """A thread for each shard that is not linked, until it is again, or `on_gone` has been told why it will not be."""

    def __init__(
        self, patience_seconds: float, is_absent: Callable[[int], bool], on_gone: Callable[[int, Holder, str], None]
    ) -> None:
        self._patience_seconds = patience_seconds
        self._is_absent = is_absent
        self._on_gone = on_gone
        self._stopped = threading.Event()

    def watch(self, shard: int, holder: Holder) -> None:
        """The shard's link broke."""
        threading.Thread(target=self._watch, args=(shard, holder), name=f"absent-{shard}", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self, shard: int, holder: Holder) -> None:
        absence = Absence(holder.address, self._patience_seconds)
        while not self._stopped.is_set() and self._is_absent(shard):
            answer = ask(holder.address)
            now = time.monotonic()
            if answer.life == holder.life:
                absence.answered()
            elif answer.life is not None:
                return self._on_gone(shard, holder, "another server answers there, without its part of the model")
            elif answer.refused:
                absence.refused(now)
            else:
                absence.silent(now)
            if reason := absence.verdict(now):
                return self._on_gone(shard, holder, reason)
            self._stopped.wait(ASK_AGAIN_SECONDS)
