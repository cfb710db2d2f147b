"""The edge between our errors and gRPC's: options of a server, refusal of a call."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import grpc

from ..protos.common_pb2 import ErrorCode
from ..protos.errors import ERROR_CODE_METADATA_KEY, STATUS_OF, PushpullError, code_of
from .metrics import ServerMetrics

MAX_MESSAGE_BYTES = 64 << 20

# Keepalive of both ends comes from one table: a client may ping every 60 s, so the server must allow 30.
SERVER_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_frame_size", 4 << 20),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.server_handshake_timeout_ms", 10_000),
]

CLIENT_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]


def refuse(context: grpc.ServicerContext, error: PushpullError, metrics: ServerMetrics) -> NoReturn:
    """Ends a call with the error's status, its code in the trailing metadata and its sentence as details."""
    code = code_of(error)
    name = ErrorCode.Name(code)
    metrics.refusals.labels(reason=name).inc()
    context.set_trailing_metadata(((ERROR_CODE_METADATA_KEY, name),))
    context.abort(STATUS_OF[code], str(error))
    raise AssertionError("abort() raises")


@contextmanager
def refusing(context: grpc.ServicerContext, metrics: ServerMetrics) -> Iterator[None]:
    """Turns our errors inside the block into a refused call."""
    try:
        yield
    except PushpullError as error:
        refuse(context, error, metrics)
