"""Which threads handle which calls, and for how long and with how many bytes a call may begin.

A gRPC thread waits for the first message of its call, so whoever opens calls and says nothing takes the threads of everybody
else. Therefore calls come in by *doors*: each kind of call has threads of its own, a bound on calls that have said nothing
yet (the oldest makes room for one more) and on calls that wait for a thread (one more is told to ask again).
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from ..protos.errors import BadRequestError, BusyError
from .handler_pool import HandlerPool
from .metrics import ServerMetrics
from .reading import Reader
from .rpc import end_call, refuse, refusing
from .shard_readings import PoolFigures
from .silent_call_log import AGAIN_SECONDS, Seldom, tell_silent_call
from .silent_calls import SilentCalls

FIRST_MESSAGE_SECONDS = 10.0
"""From a call's beginning to its first message. The largest is a plan: 4 MiB, at 3 Mbit/s."""
SWEEP_SECONDS = 0.5
CONTROL_BYTES = 1 << 16
"""Of one request, unless its method needs more."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(frozen=True)
class Method:
    """How calls of it come in."""

    door: str = "control"
    most_bytes: int = CONTROL_BYTES
    """Of one request."""
    most_first_bytes: int = 1 << 62
    """Of the first message of a stream, if that is less: of a caller who has not said yet who it is."""


class Door:
    """Calls of one kind. May be used by any thread."""

    def __init__(
        self, name: str, num_threads: int, most_silent: int, most_waiting: int, metrics: ServerMetrics
    ) -> None:
        self.pool = HandlerPool(name, num_threads)
        self.pool.on_shortage = self._make_room
        self._most_waiting = most_waiting
        self._metrics = metrics
        self._silent: SilentCalls[grpc.ServicerContext] = SilentCalls(most_silent, FIRST_MESSAGE_SECONDS)
        self._seldom = Seldom(AGAIN_SECONDS)
        self._lock = threading.Lock()

    @property
    def is_crowded(self) -> bool:
        """Whether one more call would only wait."""
        return self.pool.figures().num_waiting >= self._most_waiting

    def first(self, method: str, messages: Iterator[Any], context: grpc.ServicerContext) -> Any:
        """The first message of a call. Who stays silent is cut off; such a call is counted, told of, and ended here."""
        opened_at, peer = time.monotonic(), context.peer()  # of a call that has ended, nobody knows whose it was
        with self._lock:
            in_the_way = self._silent.opened(opened_at, context)
        self._cut_off(in_the_way)
        message = None
        try:
            message = next(messages, None)
        finally:
            now = time.monotonic()
            with self._lock:
                was_cut_off = not self._silent.heard(context)
                # of one that was gone before a thread was free for it nobody can say more than that
                num_untold = self._seldom.happened(now, method) if message is None and peer else None
            if message is None and not was_cut_off:
                self._metrics.silent_calls.inc()
            if num_untold is not None:
                tell_silent_call(method, peer, now - opened_at, was_cut_off, num_untold)
        if message is None:
            end_call(context, BadRequestError(f"the call ended after {now - opened_at:.1f} s without a message"))
        return message

    def sweep(self, now: float) -> None:
        """Cuts off whoever has been silent for too long."""
        with self._lock:
            overdue = self._silent.overdue(now)
        self._cut_off(overdue)

    def _make_room(self) -> None:
        with self._lock:
            oldest = self._silent.make_room()
        self._cut_off([] if oldest is None else [oldest])

    def _cut_off(self, calls: list[grpc.ServicerContext]) -> None:
        for call in calls:
            self._metrics.silent_calls.inc()
            call.cancel()


class _Opened:
    """The messages of one call: the first in time, and each read when it is asked for.

    gRPC itself would read them before anybody has measured them, and write a traceback into the log for each stranger's byte.
    """

    def __init__(self, method: "_Opening", messages: Iterator[bytes], context: grpc.ServicerContext) -> None:
        self._method, self._messages, self._context = method, messages, context
        self._begun = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._begun:
            return self._method.reader.read(next(self._messages))
        self._begun = True
        return self._method.first_reader.read(self._method.door.first(self._method.name, self._messages, self._context))


@dataclass(frozen=True)
class _Opening:
    """What it takes to begin a call of a method."""

    name: str
    door: Door
    first_reader: Reader
    reader: Reader

    def opened(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> _Opened:
        """Its messages."""
        return _Opened(self, messages, context)


class Doors(grpc.GenericRpcHandler):
    """All doors of one server. Stands in for the server where generated code adds a service."""

    def __init__(self, doors: Mapping[str, Door], metrics: ServerMetrics) -> None:
        self._doors = doors
        self._metrics = metrics
        self._methods: dict[str, tuple[Door, Handler]] = {}
        self._refusals = HandlerPool("refusals", 2)
        self._closed = threading.Event()

    def open(self, server: grpc.Server) -> None:
        """Serves what was added."""
        server.add_generic_rpc_handlers((self,))
        threading.Thread(target=self._sweep, name="doors", daemon=True).start()

    def close(self) -> None:
        """Ends what `open` has started; the threads of the doors end with their calls."""
        self._closed.set()
        for pool in [self._refusals, *(door.pool for door in self._doors.values())]:
            pool.shutdown(wait=False)

    def figures(self) -> list[PoolFigures]:
        """Of all threads."""
        return [door.pool.figures() for door in self._doors.values()]

    def add(self, service: str, handlers: Mapping[str, Handler], methods: Mapping[str, Method]) -> None:
        """Adds the methods of a service. Those that `methods` does not name are small questions to the registrar."""
        for name, handler in handlers.items():
            method = methods.get(name, Method())
            door = self._doors[method.door]
            opening = _Opening(
                name,
                door,
                Reader(handler.request_deserializer, min(method.most_bytes, method.most_first_bytes)),
                Reader(handler.request_deserializer, method.most_bytes),
            )
            self._methods[f"/{service}/{name}"] = door, self._behind(opening, handler)

    def adder(self, methods: Mapping[str, Method]) -> Any:
        """To be given to a generated `add_...Servicer_to_server` instead of a server."""
        return _Adder(self, methods)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """Of gRPC: who handles a call, decided before a thread is given to it."""
        found = self._methods.get(handler_call_details.method)
        if found is None:
            return None
        door, handler = found
        return self._busy(handler) if door.is_crowded else handler

    def _behind(self, opening: _Opening, handler: Handler) -> Handler:
        """The same method, read as a stream: only so can a call without a message be ended, or be refused unread."""
        pool = opening.door.pool
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                _on(pool, self._streaming(opening, handler)), None, handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(
            _on(pool, self._answering(opening, handler)), None, handler.response_serializer
        )

    def _answering(self, opening: _Opening, handler: Handler) -> Callable[..., Any]:
        assert handler.unary_unary is not None
        method = handler.unary_unary

        def answer(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            return method(self._only_request(opening.opened(messages, context), context), context)

        return answer

    def _streaming(self, opening: _Opening, handler: Handler) -> Callable[..., Any]:
        if handler.request_streaming:
            assert handler.stream_stream is not None
            both = handler.stream_stream
            return lambda messages, context: both(opening.opened(messages, context), context)
        assert handler.unary_stream is not None
        method = handler.unary_stream

        def answers(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            yield from method(self._only_request(opening.opened(messages, context), context), context)

        return answers

    def _only_request(self, messages: _Opened, context: grpc.ServicerContext) -> Any:
        with refusing(context, self._metrics):
            return next(messages)

    def _busy(self, handler: Handler) -> Handler:
        def refuse_unread(messages: object, context: grpc.ServicerContext) -> Any:
            refuse(context, BusyError("the server has more calls than it takes on; ask again"), self._metrics)

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(_on(self._refusals, refuse_unread), None, handler.response_serializer)

    def _sweep(self) -> None:
        while not self._closed.wait(SWEEP_SECONDS):
            for door in self._doors.values():
                door.sweep(time.monotonic())


class _Adder:
    """What generated code needs of a server."""

    def __init__(self, doors: Doors, methods: Mapping[str, Method]) -> None:
        self._doors = doors
        self._methods = methods

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same handlers come by name, too."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        self._doors.add(service, handlers, self._methods)


def _on(pool: HandlerPool, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    behaviour.experimental_thread_pool = pool  # type: ignore[attr-defined]  # gRPC's way to say where it runs
    return behaviour
