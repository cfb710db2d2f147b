"""The HTTP endpoint that Prometheus scrapes."""

import io
import logging
import socket
import threading
import time
from collections.abc import Callable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from .addresses import split_address
from .errors import PortInUseError

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 8
"""Served at the same time; the oldest makes room for one more. A scrape takes milliseconds."""
SILENCE_SECONDS = 5.0
"""Longest wait for the next bytes of a request, for an answer to be taken, or for the figures while others read them."""
DEADLINE_SECONDS = 15.0
"""Of a whole connection, however it passes its time."""
SWEEP_SECONDS = 0.5


class MetricsEndpoint:
    """An HTTP server for one registry. It survives who connects and says nothing, and who says it slowly.

    Raises:
        SettingError: not host:port.
        PortInUseError: nobody can listen at `listen` (host:port); names `setting`.
    """

    def __init__(self, listen: str, registry: CollectorRegistry, setting: str) -> None:
        host, port = split_address(listen, setting)
        try:
            self._server = _BoundedServer(host, port)
        except OSError as error:
            raise PortInUseError(
                f"cannot serve metrics at {listen} ({error.strerror}); choose another {setting} host:port (port 0 takes any "
                "free one)"
            ) from error
        self._server.set_app(_one_at_a_time(_logging_failures(make_wsgi_app(registry))))
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(SWEEP_SECONDS,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends the server; connections that are open end by themselves."""
        self._server.refuse_more()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)


class _BoundedServer(ThreadingMixIn, WSGIServer):
    """A thread for each connection, of which there are never more than `MOST_CONNECTIONS`."""

    daemon_threads = True
    request_queue_size = 128
    """Of the system; who finds no place in it tries again only after a second."""

    def __init__(self, host: str, port: int) -> None:
        infos = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = infos[0]
        self._connections: dict[Any, float] = {}
        """When each was accepted, in monotonic seconds; the oldest first. Its thread ends with it."""
        self._changed = threading.Condition()
        self._refuses = False
        super().__init__((str(address[0]), port), _SilentHandler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks DNS for the host's full name, which can take many seconds and is of no use here.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Waits until one of the threads is free: more connections wait in the system's queue, where they cost nothing."""
        with self._changed:
            while len(self._connections) >= MOST_CONNECTIONS and not self._refuses:
                _hang_up(next(iter(self._connections)))
                self._changed.wait(SWEEP_SECONDS)
            self._connections[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                self._connections.pop(request, None)
                self._changed.notify_all()

    def service_actions(self) -> None:
        """Of the base class: called now and then. Ends connections that have had their time."""
        with self._changed:
            for connection, since in self._connections.items():
                if time.monotonic() - since > DEADLINE_SECONDS:
                    _hang_up(connection)

    def refuse_more(self) -> None:
        """The server is about to end, and waits for nobody."""
        with self._changed:
            self._refuses = True
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection failed: nothing that a server's log should be filled with."""


class _SilentHandler(WSGIRequestHandler):
    timeout = SILENCE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def get_stderr(self) -> io.StringIO:
        return io.StringIO()  # tracebacks of connections that broke


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has gone by itself


def _one_at_a_time(app: Callable[..., Any]) -> Callable[..., Any]:
    """Many who scrape take one thread's time from the process, not many; who would wait too long is told to come again."""
    reading = threading.Lock()

    def serve(environ: Any, start_response: Any) -> Any:
        if not reading.acquire(timeout=SILENCE_SECONDS):
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"others are reading the figures; ask again\n"]
        try:
            return app(environ, start_response)
        finally:
            reading.release()

    return serve


def _logging_failures(app: Callable[..., Any]) -> Callable[..., Any]:
    def serve(environ: Any, start_response: Any) -> Any:
        try:
            return app(environ, start_response)
        except Exception:
            logger.exception("the metrics cannot be read")
            raise

    return serve
