"""The Shard service: wire <-> engine, nothing else."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import structlog

from ..protos.errors import BadRequestError, PushpullError
from ..protos.registrar_pb2 import ShardStatus
from ..protos.shard_pb2 import (
    BeatRequest,
    BeatResponse,
    MasterNumbers,
    MastersRequest,
    RecordedRequest,
    RecordedResponse,
    ShardMessage,
    ShardStatusRequest,
)
from ..protos.shard_pb2_grpc import ShardServicer
from . import calls
from .doors import Doors
from .engine import Engine
from .envelope import Received, receive
from .keys import StreamKey
from .masters import read_masters
from .metrics import ServerMetrics
from .rpc import refuse, refusing
from .session import Session

log = structlog.get_logger(__name__)


class ShardService(ShardServicer):
    """One handler thread sends and one thread of its own receives, for each worker stream."""

    def __init__(self, engine: Engine, metrics: ServerMetrics) -> None:
        self._engine = engine
        self._metrics = metrics

    def Exchange(self, request_iterator: Iterator[Received], context: grpc.ServicerContext) -> Iterator[bytes]:
        with refusing(context, self._metrics):
            first = next(request_iterator).read()
            if first.WhichOneof("message") != "hello":
                raise BadRequestError("the first message of an exchange is Hello")
            session = self._engine.open(first.hello)
        session.cut = context.cancel  # type: ignore[assignment]  # whether it was cancelled before is no matter
        context.add_callback(session.end)
        reader = threading.Thread(target=self._receive, args=(request_iterator, session), name="receive", daemon=True)
        reader.start()
        try:
            yield from session
        finally:
            self._engine.close(session)
            if session.overrun:
                log.warning("stream cut off", reason=str(session.error), peer=context.peer())
        if session.error is not None:
            refuse(context, session.error, self._metrics)

    def Beat(self, request: BeatRequest, context: grpc.ServicerContext) -> BeatResponse:
        self._engine.heard.note(StreamKey(request.worker_id, request.incarnation, request.rank))
        return BeatResponse()

    def Recorded(self, request: RecordedRequest, context: grpc.ServicerContext) -> RecordedResponse:
        with refusing(context, self._metrics):
            return self._engine.reading(lambda shard: shard.recorded(request))

    def Masters(self, request: MastersRequest, context: grpc.ServicerContext) -> Iterator[MasterNumbers]:
        with refusing(context, self._metrics):
            self._engine.reading(lambda shard: shard.check_may_be_saved(request))
            yield from read_masters(self._engine.reading)

    def Status(self, request: ShardStatusRequest, context: grpc.ServicerContext) -> ShardStatus:
        return self._engine.status()

    def _receive(self, messages: Iterator[Received], session: Session) -> None:
        try:
            for received in messages:
                self._dispatch(session, received)
        except PushpullError as error:
            session.end(error)
        except grpc.RpcError:
            session.end()
        except Exception:
            session.end(BadRequestError("internal error; the server's log has it"))
            raise
        # The end of the worker's messages does not end the stream: answers may still be on their way.

    def _dispatch(self, session: Session, received: Received) -> None:
        message = received.read(session.limits.num_blocks)
        match message.WhichOneof("message"):
            case "frames":
                self._engine.frames(session, message.frames, received)
            case "commit":
                self._engine.commit(session, message.commit)
            case "pull":
                self._engine.pull(session, message.pull)
            case "initial_values":
                self._engine.initial_values(session.key, message.initial_values, received)
            case other:
                raise BadRequestError(f"unexpected message {other} inside an exchange")


def pass_through(message: ShardMessage | bytes) -> bytes:
    """Serializer of answers: values are serialized once for everybody."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def add_shard_service(service: ShardService, doors: Doors) -> None:
    """Registers the service; like the generated function, but answers may be serialized already."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Exchange": grpc.stream_stream_rpc_method_handler(
            service.Exchange,
            request_deserializer=receive,
            response_serializer=pass_through,
        ),
        "Status": grpc.unary_unary_rpc_method_handler(
            service.Status,
            request_deserializer=ShardStatusRequest.FromString,
            response_serializer=ShardStatus.SerializeToString,
        ),
        "Recorded": grpc.unary_unary_rpc_method_handler(
            service.Recorded,
            request_deserializer=RecordedRequest.FromString,
            response_serializer=RecordedResponse.SerializeToString,
        ),
        "Masters": grpc.unary_stream_rpc_method_handler(
            service.Masters,
            request_deserializer=MastersRequest.FromString,
            response_serializer=MasterNumbers.SerializeToString,
        ),
        "Beat": grpc.unary_unary_rpc_method_handler(
            service.Beat,
            request_deserializer=BeatRequest.FromString,
            response_serializer=BeatResponse.SerializeToString,
        ),
    }
    doors.add("pushpull.v1.Shard", handlers, calls.SHARD)
