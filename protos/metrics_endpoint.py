"""The HTTP endpoint that Prometheus scrapes."""

import io
import logging
import socket
import threading
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
"""Longest wait for the next bytes of a request, or for room for those of an answer."""


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
        self._server.set_app(_logging_failures(make_wsgi_app(registry)))
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the server; connections that are open end by themselves."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)


class _BoundedServer(ThreadingMixIn, WSGIServer):
    """A thread for each connection, of which there are never many."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        infos = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = infos[0]
        self._connections: dict[Any, None] = {}
        """Oldest first."""
        self._lock = threading.Lock()
        super().__init__((str(address[0]), port), _SilentHandler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks DNS for the host's full name, which can take many seconds and is of no use here.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            while len(self._connections) >= MOST_CONNECTIONS:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                _hang_up(oldest)
            self._connections[request] = None
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._connections.pop(request, None)
        super().close_request(request)

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


def _logging_failures(app: Callable[..., Any]) -> Callable[..., Any]:
    def serve(environ: Any, start_response: Any) -> Any:
        try:
            return app(environ, start_response)
        except Exception:
            logger.exception("the metrics cannot be read")
            raise

    return serve
