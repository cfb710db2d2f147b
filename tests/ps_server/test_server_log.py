"""What a server's log says of its workers and of whom it refused."""

import grpc
import pytest
from structlog.testing import capture_logs

from pushpull.protos.registrar_pb2 import HeartbeatRequest, JoinRequest, LeaveRequest, ShardHello, ShardReport
from pushpull.protos.registrar_pb2_grpc import RegistrarStub
from pushpull.ps_server.config import JobSettings, ServerConfig
from pushpull.ps_server.roster import Worker
from pushpull.ps_server.roster_log import RosterLog
from pushpull.ps_server.server import Server


def test_every_change_of_the_roster_is_told_once() -> None:
    told = RosterLog()
    worker = Worker(3, 70, observer=False, host="h", pid=1)
    with capture_logs() as lines:
        for state in ("joined", "joined", "enrolled", "active", "active", "paused", "active"):
            worker.state = state
            told.observe("training", [worker])
        worker.state, worker.silent_rank = "expired", 0
        told.observe("training", [worker])
        told.observe("training", [Worker(3, 71, observer=False, host="h", pid=2, life=1)])
        told.observe("training", [Worker(3, 72, observer=False, host="h", pid=3, life=2)])
    assert [line["event"] for line in lines] == [
        *("phase", "worker joined", "worker enrolled", "worker active", "worker paused", "worker active"),
        *("worker expired", "worker joined", "worker replaced", "worker joined"),
    ]
    assert [line["log_level"] for line in lines if line["event"] in ("worker expired", "worker replaced")] == [
        "warning"
    ] * 2


def test_refusals_are_told_with_their_reason_and_what_is_to_be_asked_again_is_not() -> None:
    server = Server(ServerConfig(shard=0, num_shards=1, job=JobSettings(lease_seconds=60), metrics_listen=None))
    server.start()
    try:
        with grpc.insecure_channel(server.address) as channel, capture_logs() as lines:
            stub = RegistrarStub(channel)
            with pytest.raises(grpc.RpcError):
                stub.Heartbeat(HeartbeatRequest(worker_id=9, incarnation=2**63), timeout=20)
            with pytest.raises(grpc.RpcError):
                next(stub.Link(iter([ShardReport(hello=ShardHello(shard=9))]), timeout=20))
            joined = stub.Join(JoinRequest(worker_id=4, host="somewhere"), timeout=20)
            stub.Leave(
                LeaveRequest(worker_id=4, incarnation=joined.incarnation, failure="disk full " * 1000), timeout=20
            )
    finally:
        server.stop(0.1)
    refused = {line["reason"]: line["log_level"] for line in lines if line["event"] == "call refused"}
    assert refused == {"UNKNOWN_INCARNATION": "debug", "BAD_REQUEST": "warning"}
    (failed,) = [line for line in lines if line["event"] == "worker failed"]
    assert failed["failure"].startswith("disk full")
    assert len(failed["failure"]) == 500
