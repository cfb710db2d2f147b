"""gRPC options of servers and of those who call them: one table, because the two must agree."""

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
    # What gRPC gives an attempt to connect, whatever its name says: a handshake takes two round trips, and a second more for
    # every packet that is lost. A refused attempt ends at once all the same.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Bulk data and heartbeats to one server must not share a connection.
    ("grpc.use_local_subchannel_pool", 1),
    # Retries are ours: the same bytes under the same key.
    ("grpc.enable_retries", 0),
]
