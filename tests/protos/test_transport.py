"""How those who call servers connect."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server

from pushpull.protos.transport import CLIENT_OPTIONS


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    add_HealthServicer_to_server(HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


@contextmanager
def far_away(address: str, seconds: float) -> Iterator[str]:
    """Another address of the same server, from which the first bytes come so late."""
    host, _, port = address.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def relay(near: socket.socket, far: socket.socket, seconds: float) -> None:
            with suppress(OSError):
                time.sleep(seconds)
                while data := near.recv(65536):
                    far.sendall(data)
            with suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    caller, _ = listening.accept()
                    server = socket.create_connection((host, int(port)))
                    for args in ((caller, server, 0.0), (server, caller, seconds)):
                        threading.Thread(target=relay, args=args, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def test_one_attempt_is_enough_for_a_server_far_away(address: str) -> None:
    with far_away(address, 0.6) as distant, grpc.insecure_channel(distant, options=CLIENT_OPTIONS) as channel:
        assert HealthStub(channel).Check(HealthCheckRequest(), timeout=20).status


def test_proxies_of_the_environment_are_not_used(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with grpc.insecure_channel(address, options=CLIENT_OPTIONS) as channel:
        assert HealthStub(channel).Check(HealthCheckRequest(), timeout=20).status
