"""Who answers at an address that was taken for the registrar's: people mix up addresses, and gRPC says `Method not found!`."""

import grpc

from .errors import SettingError
from .shard_pb2 import ShardStatusRequest
from .shard_pb2_grpc import ShardStub
from .transport import dial

_ASK_SECONDS = 3.0
_NO_GRPC = ("Failed parsing HTTP/2", "http1.x", "before receiving SETTINGS frame")
"""In what gRPC says when the other side speaks something else."""


def wrong_registrar(address: str, failure: grpc.RpcError) -> SettingError | None:
    """What is wrong with host:port `address` if a call to the registrar failed there so; None if it may be the registrar.

    Asks who it is. Takes up to 3 s.
    """
    if failure.code() is not grpc.StatusCode.UNIMPLEMENTED:
        return None
    with dial(address) as channel:
        try:
            shard = ShardStub(channel).Status(ShardStatusRequest(), timeout=_ASK_SECONDS).shard
        except grpc.RpcError:
            return SettingError(
                f"{address} is no pushpull server: another gRPC service answers there. Correct the address."
            )
    return SettingError(
        f"{address} is shard {shard}; shard 0 must come first. Name the servers in the order of their shards everywhere."
    )


def in_words(address: str, failure: grpc.RpcError) -> str:
    """Why a call to `address` got no answer, for people."""
    details = failure.details() or failure.code().name
    if any(sign in details for sign in _NO_GRPC):
        return f"what answers at {address} does not speak gRPC: it is no pushpull server ({details})"
    return str(details)
