"""Connections that die without a word: packets are swallowed, and neither end is told."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
import pytest
from raw_worker import cluster

from pushpull.protos.registrar_pb2 import HeartbeatRequest, HeartbeatResponse, JoinResponse, WorkerReport
from pushpull.worker import registrar_client
from pushpull.worker.registrar_client import RegistrarClient


class Relay:
    """Another address of a server. After `swallow` the connections that exist carry nothing any more; new ones do."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = host, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._generation = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def swallow(self) -> None:
        self._generation += 1

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listening.accept()
                server = socket.create_connection(self._target)
                for ends in ((caller, server), (server, caller)):
                    threading.Thread(target=self._carry, args=(*ends, self._generation), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket, generation: int) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                if generation == self._generation:
                    far.sendall(data)
            far.shutdown(socket.SHUT_RDWR)


@contextmanager
def joined_through_a_relay(lease_seconds: float) -> Iterator[tuple[RegistrarClient, Relay]]:
    with cluster(1, lease_seconds=lease_seconds) as (server,):
        relay = Relay(server.address)
        registrar = RegistrarClient(relay.address, patience_seconds=20.0, patience_setting="patience")
        try:
            joined = registrar.join(-1)
            registrar.speak_for(joined)
            registrar.follow(joined.job)
            yield registrar, relay
        finally:
            registrar.close()
            relay.close()


def test_a_heartbeat_over_a_dead_connection_costs_no_lease() -> None:
    with joined_through_a_relay(lease_seconds=6.0) as (registrar, relay):
        registrar.beat(WorkerReport())
        relay.swallow()
        with pytest.raises(grpc.RpcError):
            registrar.beat(WorkerReport())
        registrar.beat(WorkerReport())  # FENCED_EXPIRED if the lease had run out


class StubOfTwoThreads:
    """Of a registrar that answers over any connection but one, which another thread's beat gives up just before this one's."""

    def __init__(self, client: RegistrarClient) -> None:
        self._client = client
        self._dead = client._beat_channel

    def __call__(self, channel: grpc.Channel) -> "StubOfTwoThreads":
        self._channel = channel
        return self

    def Heartbeat(self, request: HeartbeatRequest, timeout: float) -> HeartbeatResponse:
        if self._channel is self._dead:
            self._client._give_up_beats_over(self._dead)
            self._dead.unary_unary("/any")(b"", timeout=timeout)
        return HeartbeatResponse(num_workers=3)


def test_a_beat_over_a_connection_that_another_thread_gave_up_goes_over_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = RegistrarClient("127.0.0.1:1", patience_seconds=20.0, patience_setting="patience")
    client.speak_for(JoinResponse(worker_id=3, incarnation=7))
    monkeypatch.setattr(registrar_client, "RegistrarStub", StubOfTwoThreads(client))
    assert client.beat(WorkerReport()).num_workers == 3
    assert client.counts.heartbeats_failed == 0
    client.close()
    with pytest.raises(ValueError, match="closed"):
        client._beat_channel.unary_unary("/any")(b"", timeout=1.0)
