"""Asks running servers for their figures."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from ..protos.errors import ServerUnreachableError
from ..protos.registrar_pb2 import JobStatus, JobStatusRequest, ShardStatus
from ..protos.registrar_pb2_grpc import RegistrarStub
from ..protos.shard_pb2 import ShardStatusRequest
from ..protos.shard_pb2_grpc import ShardStub

_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 << 20),
)


class StatusClient:
    """Figures of one job, from its registrar (shard 0)."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub: Any = RegistrarStub(self._channel)
        self._pending: Any = None

    def ask(self, timeout_seconds: float = 5.0) -> JobStatus:
        """The job's status now; raises ServerUnreachableError."""
        try:
            status: JobStatus = self._stub.Status(JobStatusRequest(), timeout=timeout_seconds)
        except grpc.RpcError as error:
            raise ServerUnreachableError(
                f"No pushpull server answered at {self._address} "
                f"({error.code().name}). Is shard 0 running there? "
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()


def ask_shard(address: str, timeout_seconds: float = 5.0) -> ShardStatus | None:
    """One shard's own figures, newer than what the registrar was last told; None if it does not answer."""
    with grpc.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
        stub: Any = ShardStub(channel)
        try:
            status: ShardStatus = stub.Status(ShardStatusRequest(), timeout=timeout_seconds)
        except grpc.RpcError:
            return None
        return status


def newest_status(client: StatusClient, addresses: Sequence[str] = (), timeout_seconds: float = 5.0) -> JobStatus:
    """The job's status with every shard's figures of this moment; raises ServerUnreachableError.

    The shards are those at `addresses`, or those that the registrar knows. One that does not answer keeps the
    figures that the registrar was last told.
    """
    status = client.ask(timeout_seconds)
    known = {shard.address: shard for shard in status.shards}
    for address in addresses or list(known):
        newer = ask_shard(address, timeout_seconds)
        if newer is not None:
            known.setdefault(address, ShardStatus()).CopyFrom(newer)
    newest = sorted(known.values(), key=lambda shard: shard.shard)
    del status.shards[:]
    status.shards.extend(newest)
    return status
