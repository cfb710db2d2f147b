"""gRPC options of servers and of everybody who calls them: one table, because they must agree; and how one dials."""

import grpc

MOST_REQUEST_BYTES = 16 << 20
"""Of one message to a server: what is longer is refused at its first bytes. A block is at most 8 MiB, twice that encoded."""
MOST_ANSWER_BYTES = 64 << 20

IDENTITY_ONLY = 1
"""Bit set of compressions that are understood. Frames are compressed already, and a gzip of zeros is a bomb."""

# Keepalive of both ends comes from one table: a client may ping every 60 s, so the server must allow 30.
_SERVER_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MOST_REQUEST_BYTES),
    ("grpc.max_send_message_length", MOST_ANSWER_BYTES),
    ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ONLY),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_frame_size", 4 << 20),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Who vanished without a word is found out, and who has no call under way has to dial again.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 8_000),
    ("grpc.max_connection_idle_ms", 60_000),
    # Nobody of ours has more than a few on one connection.
    ("grpc.max_concurrent_streams", 16),
]

CLIENT_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MOST_ANSWER_BYTES),
    ("grpc.max_send_message_length", MOST_REQUEST_BYTES),
    # HTTP proxies that the environment names are for what is outside; streams that last for days are not.
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 60_000),
    # Also how long sent bytes may go unacknowledged (TCP_USER_TIMEOUT): less than the shortest usual lease, 10 s.
    ("grpc.keepalive_timeout_ms", 8_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # In spite of its name how long one attempt may take: two round trips, and a second more where a packet is lost.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # Bulk data and heartbeats to one server must not share a connection.
    ("grpc.use_local_subchannel_pool", 1),
    # Retries are ours: the same bytes under the same key.
    ("grpc.enable_retries", 0),
]


def server_options(most_connections: int) -> list[tuple[str, int]]:
    """Of a server that takes so many TCP connections at the same time; one more is hung up on."""
    return [*_SERVER_OPTIONS, ("grpc.max_allowed_incoming_connections", most_connections)]


def dial(address: str) -> grpc.Channel:
    """A channel of its own to `address` (host:port). The caller closes it."""
    return grpc.insecure_channel(address, options=CLIENT_OPTIONS)


def bind(server: grpc.Server, listen: str) -> int:
    """The port that the server listens on at `listen` (host:port); 0 if it cannot."""
    try:
        return server.add_insecure_port(listen)
    except RuntimeError:
        return 0
