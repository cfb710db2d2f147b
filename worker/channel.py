"""gRPC channels from a worker to its servers."""

import grpc

MESSAGE_BYTES_LIMIT = 64 << 20
"""Largest message either side accepts. Frames are gathered into far smaller messages."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_LIMIT),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_LIMIT),
    # Bulk data and heartbeats to one server must not share a connection.
    ("grpc.use_local_subchannel_pool", 1),
    # Retries are ours: the same bytes under the same key.
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def open_channel(address: str) -> grpc.Channel:
    """A channel of its own to `address` (host:port). The caller closes it."""
    return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
