"""Addresses that are mixed up, servers that are one too many, and why a server is not ready: everybody is told in words."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from raw_worker import RawWorker, cluster

from pushpull.deploy.health import check_health
from pushpull.deploy.status import StatusClient
from pushpull.protos.errors import BadRequestError, PushpullError, ServerUnreachableError, SettingError
from pushpull.ps_server.config import ServerConfig
from pushpull.ps_server.server import Server
from pushpull.worker import connect

DEADLINE_SECONDS = 30.0


@pytest.fixture
def other_grpc_server() -> Iterator[str]:
    """Speaks gRPC, and has no service of ours."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


@pytest.fixture
def web_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        serving.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def join(address: str) -> None:
    connect(address, patience_seconds=1.0).close()


def ask_status(address: str) -> None:
    with StatusClient(address) as client:
        client.ask()


ASKERS = pytest.mark.parametrize("ask", [join, ask_status], ids=["worker", "status"])


@ASKERS
def test_servers_in_the_wrong_order_are_named(ask: Callable[[str], None]) -> None:
    with cluster(3) as servers:
        for shard in (1, 2):
            address = servers[shard].address
            with pytest.raises(SettingError, match=f"^{address} is shard {shard}; shard 0 must come first"):
                ask(address)


@ASKERS
def test_another_grpc_service_is_no_server(ask: Callable[[str], None], other_grpc_server: str) -> None:
    with pytest.raises(SettingError, match=f"^{other_grpc_server} is no pushpull server"):
        ask(other_grpc_server)


@ASKERS
def test_what_does_not_speak_grpc_is_no_server(ask: Callable[[str], None], web_server: str) -> None:
    with pytest.raises(ServerUnreachableError, match=f"what answers at {web_server} does not speak gRPC"):
        ask(web_server)


def test_health_of_something_else_is_bad_and_says_so(
    other_grpc_server: str, web_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_health(other_grpc_server, "ready", 5.0) == 1
    assert f"{other_grpc_server} is no pushpull server" in capsys.readouterr().err
    assert check_health(web_server, "ready", 5.0) == 1
    assert "does not speak gRPC" in capsys.readouterr().err


def one_more(shard: int, registrar: str, num_shards: int = 2) -> Server:
    server = Server(
        ServerConfig(shard=shard, num_shards=num_shards, job=None, registrar=registrar, metrics_listen=None)
    )
    server.start()
    return server


def failure_of(server: Server) -> PushpullError:
    ending = threading.Thread(target=server.wait_for_end, daemon=True)
    ending.start()
    ending.join(DEADLINE_SECONDS)
    assert not ending.is_alive(), "the server goes on"
    with pytest.raises(PushpullError) as failure:
        server.wait()
    return failure.value


def test_a_second_server_for_a_shard_ends_and_the_first_one_stays() -> None:
    with cluster(2) as servers:
        failure = failure_of(one_more(1, servers[0].address))
        assert isinstance(failure, BadRequestError)
        assert f"shard 1 is held by the server at {servers[1].address}" in str(failure)
        joins(servers[0].address)


def test_a_server_beyond_the_jobs_ends() -> None:
    with cluster(2) as servers:
        assert "there is no shard 2" in str(failure_of(one_more(2, servers[0].address, num_shards=3)))
        joins(servers[0].address)


def test_a_server_whose_registrar_is_another_shard_ends() -> None:
    with cluster(2) as servers:
        failure = failure_of(one_more(1, servers[1].address))
        assert f"{servers[1].address} is shard 1; shard 0 must come first" in str(failure)


def test_a_server_whose_registrar_is_not_there_yet_stays_and_its_health_says_why(
    web_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = one_more(1, web_server)
    try:
        said = health_says(server.address, "ready", "does not speak gRPC", capsys)
        assert said.startswith(f"not serving: it is not linked to shard 0 at {web_server}: ")
    finally:
        server.stop(0.1)


def joins(address: str) -> None:
    RawWorker(address).start()


def health_says(address: str, service: str, what: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What health says on standard error, once it says this."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        status, said = check_health(address, service, 5.0), capsys.readouterr()
        if what in said.err:
            assert (status, said.out.splitlines()[-1]) == (1, "NOT_SERVING")
            return said.err.strip()
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


def test_health_says_why_a_server_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with cluster(2) as servers:
        first, second = servers
        health_says(second.address, "trained", "it holds no parameters: no worker has initialised them yet", capsys)
        second.stop(0.1)
        assert health_says(first.address, "ready", "shard 1", capsys) == "not serving: shard 1 is not linked to shard 0"
        assert check_health(first.address, "", 5.0) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "SERVING"


def test_health_of_a_server_that_drains_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with cluster(1) as servers:
        worker = RawWorker(servers[0].address).start()
        draining = threading.Thread(target=servers[0].drain, daemon=True)
        draining.start()
        health_says(servers[0].address, "ready", "it was told to end, or its job ends", capsys)
        del worker
        draining.join(DEADLINE_SECONDS)
