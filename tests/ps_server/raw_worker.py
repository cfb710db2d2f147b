"""A worker that speaks the wire protocol by hand, for tests that need to say things a well-behaved one never would."""

import queue
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from pushpull.compression.frame import parse_frame
from pushpull.compression.spec import parse_codec
from pushpull.protos.common_pb2 import Block, OptimizerSpecification, Parameter, ParameterGroup, Plan
from pushpull.protos.registrar_pb2 import (
    ActivateRequest,
    EnrolRequest,
    EnrolResponse,
    HeartbeatRequest,
    JobStatusRequest,
    JoinRequest,
    LeaveRequest,
    PauseRequest,
    Role,
)
from pushpull.protos.registrar_pb2_grpc import RegistrarStub
from pushpull.protos.shard_pb2 import (
    Commit,
    Frames,
    Hello,
    InitialValues,
    Outcome,
    Pull,
    PullDone,
    ShardMessage,
    Verdict,
    WorkerMessage,
)
from pushpull.protos.shard_pb2_grpc import ShardStub
from pushpull.protos.transport import dial
from pushpull.ps_server.config import JobSettings, ServerConfig
from pushpull.ps_server.server import Server

SIZES = (6, 10, 4, 12)
"""Elements of the test model's one-dimensional parameters; each is one block."""


def plan_for(num_shards: int, sizes: Sequence[int] = SIZES) -> Plan:
    """One block per parameter, dealt to the shards in turn; the last parameter is frozen."""
    plan = Plan(num_shards=num_shards, block_elements=max(sizes), fingerprint=f"sizes {tuple(sizes)}")
    for index, size in enumerate(sizes):
        frozen = index == len(sizes) - 1
        plan.parameters.append(
            Parameter(name=f"p{index}", shape=[size], trainable=not frozen, group=-1 if frozen else 0)
        )
        plan.blocks.append(Block(parameter=index, offsets=[0], sizes=[size], shard=index % num_shards))
    return plan


def sgd(lr: float = 0.1, **numbers: float) -> OptimizerSpecification:
    return OptimizerSpecification(name="SGD", groups=[ParameterGroup(numbers={"lr": lr, **numbers})])


@contextmanager
def cluster(num_shards: int = 2, **settings: object) -> Iterator[list[Server]]:
    """Servers in this process, on free ports."""
    with ExitStack() as stack:
        servers: list[Server] = []
        job = JobSettings(**{"lease_seconds": 60.0, **settings})  # type: ignore[arg-type]
        for shard in range(num_shards):
            server = Server(
                ServerConfig(
                    shard=shard,
                    num_shards=num_shards,
                    job=job if shard == 0 else None,
                    registrar=servers[0].address if shard else None,
                    metrics_listen=None,
                    num_apply_threads=1,
                )
            )
            server.start()
            stack.callback(server.stop, 0.1)
            servers.append(server)
        yield servers


class RawStream:
    """One Exchange stream."""

    def __init__(self, address: str, hello: Hello | None) -> None:
        self._channel = dial(address)
        self._outgoing: queue.SimpleQueue[WorkerMessage | None] = queue.SimpleQueue()
        self._answers = ShardStub(self._channel).Exchange(iter(self._outgoing.get, None), timeout=30)
        if hello is not None:
            self.send(hello=hello)

    def send(self, **message: object) -> None:
        self._outgoing.put(WorkerMessage(**message))

    def receive(self) -> ShardMessage:
        return next(self._answers)

    def answers(self) -> tuple[Outcome, dict[int, np.ndarray], PullDone]:
        """Everything up to PullDone: the outcome, if one came, and values by block id."""
        outcome, values = Outcome(), {}
        while True:
            message = self.receive()
            match message.WhichOneof("message"):
                case "outcome":
                    outcome = message.outcome
                case "values":
                    start = 0
                    for block, length in zip(message.values.blocks, message.values.lengths, strict=True):
                        values[block] = message.values.payload[start : start + length]
                        start += length
                case "pull_done":
                    return outcome, values, message.pull_done

    @property
    def has_ended(self) -> bool:
        return not self._answers.is_active()

    def close(self) -> None:
        self._outgoing.put(None)
        self._answers.cancel()
        self._channel.close()


class RawWorker:
    """Joins, enrols, and exchanges with every shard. One rank of its worker: the first joins, others are given what it
    was answered. Blocks of a shard go to the ranks in turn.
    """

    def __init__(
        self,
        registrar: str,
        worker_id: int = -1,
        sizes: Sequence[int] = SIZES,
        num_ranks: int = 1,
        first: "RawWorker | None" = None,
    ) -> None:
        self._channel = dial(registrar)
        self.registrar = RegistrarStub(self._channel)
        self.sizes = sizes
        self.rank, self.num_ranks = 0, num_ranks
        request = JoinRequest(worker_id=worker_id, role=Role.ROLE_TRAINER, host="test", num_ranks=num_ranks)
        join = self.registrar.Join(request) if first is None else first.join
        self.join = join
        self.id, self.incarnation, self.job = join.worker_id, join.incarnation, join.job
        self.plan = plan_for(self.job.num_shards, sizes)
        self.streams: list[RawStream] = []
        self.values: dict[int, np.ndarray] = {}
        self.rounds: list[int] = [0] * self.job.num_shards
        self.step = 0

    @classmethod
    def of_ranks(cls, registrar: str, num_ranks: int, worker_id: int = -1) -> "list[RawWorker]":
        """All ranks of one worker, by rank."""
        first = cls(registrar, worker_id, num_ranks=num_ranks)
        ranks = [first, *(cls(registrar, num_ranks=num_ranks, first=first) for _ in range(num_ranks - 1))]
        for rank, worker in enumerate(ranks):
            worker.rank = rank
        return ranks

    @property
    def key(self) -> dict[str, int]:
        return {"worker_id": self.id, "incarnation": self.incarnation}

    def enrol(self, optimizer: OptimizerSpecification | None = None) -> EnrolResponse:
        return self.registrar.Enrol(EnrolRequest(**self.key, plan=self.plan, optimizer=optimizer or sgd()))

    def hello(self, number: int, /, **other: object) -> Hello:
        fields: dict[str, object] = {
            "job_id": self.job.job_id,
            "shard": number,
            "plan_fingerprint": self.plan.fingerprint,
            **self.key,
        }
        if self.num_ranks > 1:
            fields |= {"rank": self.rank, "num_ranks": self.num_ranks, "blocks": self.blocks_of(number)}
        return Hello(**{**fields, **other})

    def open_streams(self) -> None:
        self.streams += [self._open_stream(shard) for shard in range(len(self.job.shard_addresses))]

    def _open_stream(self, shard: int) -> RawStream:
        stream = RawStream(self.job.shard_addresses[shard], self.hello(shard))
        assert stream.receive().welcome.epoch
        return stream

    def start(self, optimizer: OptimizerSpecification | None = None, initial: float = 1.0) -> "RawWorker":
        """Enrols, initialises every block with `initial` if asked to, pulls."""
        while (answer := self.enrol(optimizer)).state != EnrolResponse.STATE_READY:
            if answer.state == EnrolResponse.STATE_INITIALISE:
                if not self.streams:
                    self.open_streams()
                    for shard in range(len(self.streams)):
                        self._send_initial(shard, answer.grant, initial)
                for shard, stream in enumerate(self.streams):
                    if stream.has_ended:  # this shard had not heard of the grant yet
                        self.streams[shard] = self._open_stream(shard)
                        self._send_initial(shard, answer.grant, initial)
        if not self.streams:
            self.open_streams()
        self.pull()
        return self

    def _send_initial(self, shard: int, grant: int, initial: float) -> None:
        blocks = [number for number, block in enumerate(self.plan.blocks) if block.shard == shard]
        frames = [encode("fp32", np.full(self.sizes[block], initial, dtype=np.float32)) for block in blocks]
        self.streams[shard].send(
            initial_values=InitialValues(
                grant=grant, blocks=blocks, lengths=[len(frame) for frame in frames], payload=b"".join(frames)
            )
        )

    def activate(self) -> None:
        while not self.registrar.Activate(ActivateRequest(**self.key)).open:
            pass

    def pause(self) -> None:
        self.registrar.Pause(PauseRequest(**self.key))

    def heartbeat(self) -> None:
        self.registrar.Heartbeat(HeartbeatRequest(**self.key, rank=self.rank))

    def blocks_of(self, shard: int, pushed: bool = False) -> list[int]:
        return [
            number
            for number, block in enumerate(self.plan.blocks)
            if block.shard == shard
            and number // self.job.num_shards % self.num_ranks == self.rank
            and (not pushed or self.plan.parameters[block.parameter].group >= 0)
        ]

    def pull(self) -> None:
        for stream in self.streams:
            stream.send(pull=Pull(request=1))
        for shard in range(len(self.streams)):
            self._take(shard)

    def frames(self, shard: int, value: float, codec: str = "fp32", skip: Sequence[int] = ()) -> Frames:
        """Frames of the next step: every gradient element is `value`."""
        blocks = [block for block in self.blocks_of(shard, pushed=True) if block not in skip]
        encoded = [encode(codec, np.full(self.sizes[block], value, dtype=np.float32)) for block in blocks]
        return Frames(
            step=self.step + 1,
            attempt=1,
            blocks=blocks,
            lengths=[len(frame) for frame in encoded],
            payload=b"".join(encoded),
        )

    def commit_message(self, shard: int, frames: Frames | None, **fields: object) -> Commit:
        pushed = self.blocks_of(shard, pushed=True)
        given: dict[str, object] = {
            "step": self.step + 1,
            "attempt": 1,
            "num_frames": len(frames.blocks) if frames else 0,
            "verdict": Verdict.VERDICT_APPLY,
            "num_samples": 1.0,
            "scale": 1.0,
            "groups": sgd().groups,
            "absent": [block for block in pushed if frames is None or block not in frames.blocks],
            "round": self.rounds[shard] + 1,
        }
        return Commit(**{**given, **fields})

    def push(self, value: float, skip: Sequence[int] = (), **commit: object) -> None:
        """Sends a whole step and does not wait."""
        for shard, stream in enumerate(self.streams):
            frames = self.frames(shard, value, skip=skip)
            stream.send(frames=frames)
            stream.send(commit=self.commit_message(shard, frames, **commit))

    def finish(self) -> list[Outcome]:
        """Waits for the step's outcome on every shard."""
        outcomes = [self._take(shard) for shard in range(len(self.streams))]
        self.step += 1
        return outcomes

    def train(self, value: float, skip: Sequence[int] = (), **commit: object) -> list[Outcome]:
        self.push(value, skip, **commit)
        return self.finish()

    def status(self):
        return self.registrar.Status(JobStatusRequest())

    def leave(self, failure: str = "") -> None:
        self.registrar.Leave(LeaveRequest(**self.key, failure=failure, rank=self.rank))
        self.close()

    def close(self) -> None:
        for stream in self.streams:
            stream.close()
        self._channel.close()

    def _take(self, shard: int) -> Outcome:
        outcome, values, done = self.streams[shard].answers()
        self.rounds[shard] = done.round
        for block, data in values.items():
            self.values[block] = decode(data, self.sizes[block])
        return outcome


def encode(codec: str, values: np.ndarray) -> bytes:
    made = parse_codec(codec)
    out = np.empty(made.frame_bound(values.size), dtype=np.uint8)
    return out[: made.encode(values, out)].tobytes()


def decode(data: bytes, num_elements: int) -> np.ndarray:
    out = np.empty(num_elements, dtype=np.float32)
    parse_frame(data, num_elements).decode_into(out)
    return out
