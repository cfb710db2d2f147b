"""Lost connections, lost answers, fences and dead servers, from the worker's side."""

from collections.abc import Callable

import grpc
import pytest
import torch
from torch import nn

from pushpull.protos.errors import ReplacedError, ServerLostError, ServerUnreachableError
from pushpull.protos.shard_pb2 import WorkerMessage
from pushpull.worker import Worker, connect
from pushpull.worker.optimizer import RemoteOptimizer

from .fake_servers import FakeServers, wait_until

Faulty = Callable[[FakeServers], None]


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(300, 200)


def start(worker: Worker) -> tuple[nn.Linear, RemoteOptimizer]:
    model = linear()
    return model, worker.optimizer(model, torch.optim.SGD, lr=0.5)


def train_step(model: nn.Linear, optimizer: RemoteOptimizer, seed: int = 0) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(8, 300)).square().mean().backward()
    optimizer.step()


def is_second_frames() -> Callable[[WorkerMessage], bool]:
    seen = []

    def when(message: WorkerMessage) -> bool:
        if message.HasField("frames"):
            seen.append(message)
        return len(seen) == 2

    return when


def expected_after(num_steps: int) -> torch.Tensor:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for seed in range(num_steps):
        train_step(model, optimizer, seed)  # type: ignore[arg-type]
    return model.weight.detach()


@pytest.mark.parametrize(
    "fault",
    [
        lambda servers: servers.shards[1].lose_stream_once(is_second_frames()),
        lambda servers: servers.shards[1].lose_stream_once(lambda message: message.HasField("commit")),
        lambda servers: servers.shards[1].lose_answer_once(),
    ],
    ids=["among frames", "before the commit", "before the answer"],
)
def test_a_step_counts_once_though_its_stream_is_lost(servers: FakeServers, fault: Faulty) -> None:
    with connect(servers.address) as worker:
        model, optimizer = start(worker)
        train_step(model, optimizer, 0)
        fault(servers)
        train_step(model, optimizer, 1)
        train_step(model, optimizer, 2)
    assert [shard.applied for shard in servers.shards] == [3, 3]
    torch.testing.assert_close(model.weight.detach(), expected_after(3), rtol=1e-6, atol=1e-7)
    assert worker._recorder.report().steps_applied == 3
    assert worker._recorder.report().bytes_resent > 0


def test_retries_send_the_same_bytes(servers: FakeServers) -> None:
    with connect(servers.address) as worker:
        model, optimizer = start(worker)
        servers.shards[1].lose_stream_once(lambda message: message.HasField("commit"))
        train_step(model, optimizer)
    first, second = servers.shards[1].received

    def step_of(stream: list[bytes]) -> list[bytes]:
        kinds = [WorkerMessage.FromString(raw).WhichOneof("message") for raw in stream]
        return [raw for raw, kind in zip(stream, kinds, strict=True) if kind in ("frames", "commit")]

    assert len(step_of(first)) > 2
    assert step_of(first) == step_of(second)


def test_a_step_whose_answer_was_lost_sends_its_commit_alone(servers: FakeServers) -> None:
    with connect(servers.address) as worker:
        model, optimizer = start(worker)
        servers.shards[1].lose_answer_once()
        train_step(model, optimizer)
    kinds = [WorkerMessage.FromString(raw).WhichOneof("message") for raw in servers.shards[1].received[1]]
    assert kinds == ["hello", "commit"]


def test_initial_values_survive_a_lost_stream(servers: FakeServers) -> None:
    servers.shards[0].lose_stream_once(lambda message: message.HasField("initial_values"))
    with connect(servers.address) as worker:
        model, _ = start(worker)
    assert torch.equal(model.weight, linear().weight)


def test_an_expired_lease_is_followed_by_a_new_incarnation(
    servers: FakeServers, caplog: pytest.LogCaptureFixture
) -> None:
    servers.job.push_codec = "int8"
    with connect(servers.address) as worker:
        model, optimizer = start(worker)
        train_step(model, optimizer, 0)
        memory = optimizer.state_dict()["pushpull"]["memory"]
        servers.expire()
        wait_until(lambda: worker._membership._fenced is not None)
        train_step(model, optimizer, 1)
        kept = optimizer.state_dict()["pushpull"]["memory"]
        train_step(model, optimizer, 2)
    assert [join.worker_id for join in servers.joins] == [-1, 0]
    assert [shard.applied for shard in servers.shards] == [2, 2]
    assert [commit.step for commit in servers.shards[0].commits] == [1, 1]
    assert all(torch.equal(memory[key]["residual"], kept[key]["residual"]) for key in memory)
    assert worker._recorder.report().steps_dropped == 1
    assert "joins again" in caplog.text


def test_a_lease_that_expires_during_a_step_drops_that_step(servers: FakeServers) -> None:
    with connect(servers.address) as worker:
        model, optimizer = start(worker)

        def expire_first(message: WorkerMessage) -> bool:
            if message.HasField("commit"):
                servers.expire()
            return message.HasField("commit")

        servers.shards[1].lose_stream_once(expire_first)
        train_step(model, optimizer, 0)
        train_step(model, optimizer, 1)
    assert len(servers.joins) == 2
    assert servers.shards[1].applied == 1


def test_a_lease_that_expires_between_batches_does_not_end_the_loop(servers: FakeServers) -> None:
    with connect(servers.address) as worker:
        model, optimizer = start(worker)
        samples = 0
        for number, batch in enumerate(worker.share(list(range(64)), batch_size=8)):  # type: ignore[arg-type]
            samples += len(batch)
            train_step(model, optimizer)
            if number == 3:
                servers.expire()
    assert len(servers.joins) == 2
    assert samples == 64


def test_a_replaced_worker_ends(servers: FakeServers) -> None:
    with connect(servers.address) as worker:
        model, optimizer = start(worker)
        train_step(model, optimizer)
        servers.replace()
        wait_until(lambda: worker._membership._fenced is not None)
        with pytest.raises(ReplacedError):
            train_step(model, optimizer)
    assert len(servers.joins) == 1


def test_a_server_that_comes_back_without_its_state_ends_the_run(servers: FakeServers) -> None:
    with connect(servers.address) as worker:
        model, optimizer = start(worker)
        servers.shards[1].lose_stream_once(lambda message: message.HasField("commit"))
        servers.shards[1].epoch = 1

        def lose_and_forget(message: WorkerMessage) -> bool:
            servers.shards[1].epoch = 2
            return message.HasField("commit")

        servers.shards[1].lose_stream_once(lose_and_forget)
        with pytest.raises(ServerLostError, match=r"shard 1 at 127\.0\.0\.1"):
            train_step(model, optimizer)


def test_a_dead_shard_is_named_with_its_address(servers: FakeServers) -> None:
    servers.job.server_patience_seconds = 0.5
    with connect(servers.address) as worker:
        model, optimizer = start(worker)
        train_step(model, optimizer)
        dead, address = servers._servers[1]
        dead.stop(None).wait()
        with pytest.raises(ServerUnreachableError, match=rf"shard 1 at {address}.*server_patience_seconds"):
            train_step(model, optimizer)


def test_an_unreachable_registrar_is_named_with_what_to_change() -> None:
    unused = grpc.server(None)  # type: ignore[arg-type]
    port = unused.add_insecure_port("127.0.0.1:0")
    unused.stop(None)
    with pytest.raises(ServerUnreachableError, match=rf"127\.0\.0\.1:{port}.*patience_seconds"):
        connect(f"127.0.0.1:{port}", patience_seconds=0.5)
