"""Asks running servers for their figures."""

import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from ..protos.errors import ServerUnreachableError
from ..protos.registrar_pb2 import AbsentRequest, JobStatus, JobStatusRequest, ShardStatus
from ..protos.registrar_pb2_grpc import RegistrarStub
from ..protos.shard_pb2 import ShardStatusRequest
from ..protos.shard_pb2_grpc import ShardStub
from ..protos.transport import dial
from ..protos.who_answers import in_words, wrong_registrar
from .status_figures import Look

_ASK_AGAIN_SECONDS = 10.0
_SHARD_SECONDS = 1.0
_TELL_SECONDS = 10.0


class StatusClient:
    """Figures of one job, from its registrar (shard 0)."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = dial(address)
        self._stub: Any = RegistrarStub(self._channel)
        self._pending: Any = None
        self._told: list[Any] = []

    def ask(self, timeout_seconds: float = 5.0) -> JobStatus:
        """The job's status now; raises ServerUnreachableError, and SettingError if who answers is not shard 0."""
        try:
            status: JobStatus = self._stub.Status(JobStatusRequest(), timeout=timeout_seconds)
        except grpc.RpcError as error:
            wrong = wrong_registrar(self._address, error)
            if wrong is not None:
                raise wrong from None
            raise ServerUnreachableError(
                f"No pushpull server answered at {self._address} "
                f"({error.code().name}: {in_words(self._address, error)}). Is shard 0 running there? "
                "The first address of --servers must be shard 0's."
            ) from None
        return status

    def poll(self, timeout_seconds: float = 5.0) -> JobStatus | None:
        """The answer to an earlier question, if it is there. Never waits; keeps one question on the way."""
        if self._pending is None:
            self._pending = self._stub.Status.future(JobStatusRequest(), timeout=timeout_seconds)
        if not self._pending.done():
            return None
        question, self._pending = self._pending, None
        try:
            status: JobStatus = question.result()
        except (grpc.RpcError, grpc.FutureCancelledError):
            return None
        return status

    def tell_absent(self, worker_id: int, pids: Sequence[int], failure: str) -> None:
        """A worker that this machine started has ended: nobody need wait for it. Never waits for an answer."""
        said = AbsentRequest(worker_id=worker_id, host=socket.gethostname(), pids=pids, failure=failure)
        self._told.append(self._stub.Absent.future(said, timeout=_TELL_SECONDS))  # dropped, it would be cancelled

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()


class ShardAsker:
    """Asks shards for their own figures, all at once. One that cannot be reached from here is asked again now and then only."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.Channel] = {}
        self._silent_until: dict[str, float] = {}

    def ask(self, addresses: Iterable[str], timeout_seconds: float) -> dict[str, ShardStatus]:
        """What those at these addresses say that answer in time, by address."""
        started = time.monotonic()
        questions = {
            address: self._stub(address).Status.future(ShardStatusRequest(), timeout=timeout_seconds)
            for address in addresses
            if address and self._silent_until.get(address, 0.0) <= started
        }
        answers: dict[str, ShardStatus] = {}
        for address, question in questions.items():
            try:
                answers[address] = question.result()
            except (grpc.RpcError, grpc.FutureCancelledError):
                self._silent_until[address] = time.monotonic() + _ASK_AGAIN_SECONDS
        return answers

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def _stub(self, address: str) -> Any:
        if address not in self._channels:
            self._channels[address] = dial(address)
        return ShardStub(self._channels[address])


class JobWatch:
    """Looks at one job again and again, from wherever shard 0 can be reached."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = StatusClient(address)
        self._shards = ShardAsker()

    def look(self, timeout_seconds: float = 5.0) -> Look:
        """What is known now; raises ServerUnreachableError. A shard that does not answer here is as the registrar knows it."""
        status = self._client.ask(timeout_seconds)
        seconds = time.monotonic()
        known = [shard.address for shard in status.shards]
        answers = self._shards.ask(known, min(timeout_seconds, _SHARD_SECONDS))
        epochs = {shard.epoch for shard in status.shards}
        answered = frozenset(address for address, answer in answers.items() if answer.epoch in epochs)
        return Look(with_answers(status, answers), seconds, answered)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shards.close()
        self._client.__exit__(kind, error, trace)


def newest_status(client: StatusClient, addresses: Sequence[str], timeout_seconds: float = 5.0) -> JobStatus:
    """The job's status with the figures of this moment of the shards at `addresses`; raises ServerUnreachableError.

    One that does not answer keeps the figures that the registrar was last told.
    """
    status = client.ask(timeout_seconds)
    asker = ShardAsker()
    try:
        return with_answers(status, asker.ask(addresses, timeout_seconds))
    finally:
        asker.close()


def with_answers(status: JobStatus, answers: Mapping[str, ShardStatus]) -> JobStatus:
    """Puts what shards said themselves in the place of what the registrar was told; returns `status`.

    Somewhere else the same address may be that of another server: one that is not the registrar's does not count.
    """
    known = {shard.shard: shard for shard in status.shards}
    for answer in answers.values():
        if answer.shard not in known or known[answer.shard].epoch == answer.epoch:
            known[answer.shard] = answer
    newest = [known[number] for number in sorted(known)]
    del status.shards[:]
    status.shards.extend(newest)
    return status
