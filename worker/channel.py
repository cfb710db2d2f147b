"""gRPC channels from a worker to its servers."""

import grpc

from ..protos.transport import CLIENT_OPTIONS


def open_channel(address: str) -> grpc.Channel:
    """A channel of its own to `address` (host:port). The caller closes it."""
    return grpc.insecure_channel(address, options=CLIENT_OPTIONS)
