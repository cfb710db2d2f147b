"""Servers for one worker, in this process, that speak the wire protocol and go wrong on demand.

Every commit is applied at once with plain gradient descent. `FakeShard.received` holds the bytes of every message, stream by
stream, as they came.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import numpy as np
from numpy.typing import NDArray

from pushpull.compression.frame import parse_frame
from pushpull.compression.spec import parse_codec
from pushpull.protos.common_pb2 import ErrorCode, JobSpecification, Mode, Plan
from pushpull.protos.errors import ERROR_CODE_METADATA_KEY, STATUS_OF
from pushpull.protos.registrar_pb2 import (
    ActivateRequest,
    ActivateResponse,
    DealRequest,
    DealResponse,
    EnrolRequest,
    EnrolResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    JoinRequest,
    JoinResponse,
    LeaveRequest,
    LeaveResponse,
    Lot,
    PauseRequest,
    PauseResponse,
)
from pushpull.protos.registrar_pb2_grpc import RegistrarServicer, add_RegistrarServicer_to_server
from pushpull.protos.shard_pb2 import (
    Commit,
    Frames,
    Outcome,
    Pull,
    PullDone,
    ShardMessage,
    Values,
    Verdict,
    Welcome,
    WorkerMessage,
)

Floats = NDArray[np.float32]
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
DEADLINE_SECONDS = 20.0


class Lost(Exception):
    """Ends a stream as a broken connection would."""


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for something that another thread does soon."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def refuse(context: grpc.ServicerContext, code: ErrorCode, message: str) -> None:
    """Ends a call with an error of the contract."""
    context.set_trailing_metadata(((ERROR_CODE_METADATA_KEY, ErrorCode.Name(code)),))
    context.abort(STATUS_OF[code], message)


@dataclass
class FakeShard:
    """One shard. Faults are callables that see each message first and may raise `Lost`."""

    number: int
    servers: "FakeServers"
    epoch: int = 1
    received: list[list[bytes]] = field(default_factory=list)
    """Messages of each stream, Hello first."""
    values: dict[int, Floats] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    staged: dict[int, bytes] = field(default_factory=dict)
    staged_values: dict[int, bytes] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    """Every commit that was received, repetitions included."""
    last_outcome: Outcome = field(default_factory=Outcome)
    round: int = 0
    before_message: Callable[[WorkerMessage], None] = lambda message: None
    before_answer: Callable[[Commit], None] = lambda commit: None
    outcome_kind: Callable[[Commit], "Outcome.Kind"] = lambda commit: Outcome.KIND_APPLIED
    refusal: tuple[ErrorCode, str] = (ErrorCode.BAD_FRAME, "refused by the test")

    @property
    def applied(self) -> int:
        """Steps that were applied: each counts once however often it was sent."""
        return sum(1 for _ in self._applied)

    def __post_init__(self) -> None:
        self._applied: list[int] = []
        self._attempt = 0

    def exchange(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[ShardMessage]:
        """The stream's handler."""
        stream: list[bytes] = []
        self.received.append(stream)
        try:
            for raw in requests:
                stream.append(raw)
                message = WorkerMessage.FromString(raw)
                self.before_message(message)
                yield from self._answer(message, context)
        except Lost:
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost by the test")

    def lose_stream_once(self, when: Callable[[WorkerMessage], bool]) -> None:
        """The first message for which this holds breaks the connection before anything is done with it."""
        armed = [True]

        def fault(message: WorkerMessage) -> None:
            if armed[0] and when(message):
                armed[0] = False
                raise Lost

        self.before_message = fault

    def lose_answer_once(self) -> None:
        """The next commit is applied, but the connection breaks before the worker is told."""
        armed = [True]

        def fault(commit: Commit) -> None:
            if armed[0]:
                armed[0] = False
                raise Lost

        self.before_answer = fault

    def frames_of(self, stream: int) -> list[Frames]:
        """Messages of frames that came on one stream."""
        messages = [WorkerMessage.FromString(raw) for raw in self.received[stream]]
        return [message.frames for message in messages if message.HasField("frames")]

    def _answer(self, message: WorkerMessage, context: grpc.ServicerContext) -> Iterator[ShardMessage]:
        match message.WhichOneof("message"):
            case "hello":
                if self.servers.fence is not None and message.hello.incarnation <= self.servers.fenced_up_to:
                    refuse(context, self.servers.fence, "fenced by the test")
                yield ShardMessage(welcome=Welcome(epoch=self.epoch, last_step=self.last_step(message)))
            case "initial_values":
                initial = message.initial_values
                for block, frame in _frames(initial.blocks, initial.lengths, initial.payload):
                    self.values[block] = self._decoded(block, frame)
                    self.versions[block] = 0
            case "frames":
                if message.frames.attempt > self._attempt:
                    self.staged.clear()
                    self.staged_values.clear()
                    self._attempt = message.frames.attempt
                frames = message.frames
                staged = self.staged_values if frames.values else self.staged
                staged.update(_frames(frames.blocks, frames.lengths, frames.payload))
            case "commit":
                yield from self._commit(message.commit)
            case "pull":
                yield from self._pull(message.pull)

    def last_step(self, message: WorkerMessage) -> int:
        """Of the incarnation that says Hello."""
        return int(self.last_outcome.step) if message.hello.incarnation == self.servers.incarnation else 0

    def _commit(self, commit: Commit) -> Iterator[ShardMessage]:
        self.commits.append(commit)
        duplicate = commit.step <= self.last_outcome.step
        if not duplicate:
            self._settle(commit)
            self.before_answer(commit)
        outcome = Outcome()
        outcome.CopyFrom(self.last_outcome)
        outcome.duplicate = duplicate
        yield from self._newer(dict(zip(self._ids(), commit.base_versions, strict=True)))
        yield ShardMessage(outcome=outcome)
        yield ShardMessage(pull_done=PullDone(step=commit.step, round=self.round, clock=self.round))

    def _settle(self, commit: Commit) -> None:
        kind = Outcome.KIND_SKIPPED if commit.verdict == Verdict.VERDICT_SKIP else self.outcome_kind(commit)
        self.last_outcome = Outcome(step=commit.step, kind=kind)
        if kind == Outcome.KIND_REFUSED:
            self.last_outcome.code, self.last_outcome.message = self.refusal
        if kind == Outcome.KIND_APPLIED:
            assert commit.num_frames == len(self.staged)
            assert commit.num_values == len(self.staged_values)
            for block, frame in self.staged_values.items():
                self.values[block] = self._decoded(block, frame)
                self.versions[block] += 1
            self._applied.append(commit.step)
            for block, frame in self.staged.items():
                rate = commit.groups[self._group(block)].numbers["lr"]
                self.values[block] -= np.float32(rate * commit.scale) * self._decoded(block, frame)
                self.versions[block] += 1
        self.staged.clear()
        self.staged_values.clear()
        self._attempt = 0
        self.round += 1

    def _pull(self, pull: Pull) -> Iterator[ShardMessage]:
        asked = pull.blocks or self._ids()
        base = dict(zip(asked, pull.base_versions, strict=True)) if pull.base_versions else {}
        if pull.blocks:
            base |= {block: self.versions[block] for block in self._ids() if block not in asked}
        yield from self._newer(base)
        yield ShardMessage(pull_done=PullDone(request=pull.request, round=self.round, clock=self.round))

    def _newer(self, base: dict[int, int]) -> Iterator[ShardMessage]:
        codec = parse_codec(self.servers.job.pull_codec)
        for block in self._ids():
            if self.versions[block] > base.get(block, -1):
                out = np.empty(codec.frame_bound(self.values[block].size), np.uint8)
                num_bytes = codec.encode(self.values[block], out)
                yield ShardMessage(
                    values=Values(
                        blocks=[block],
                        versions=[self.versions[block]],
                        lengths=[num_bytes],
                        payload=out[:num_bytes].tobytes(),
                    )
                )

    def _ids(self) -> list[int]:
        return [n for n, block in enumerate(self.servers.plan.blocks) if block.shard == self.number]

    def _group(self, block: int) -> int:
        return self.servers.plan.parameters[self.servers.plan.blocks[block].parameter].group

    def _decoded(self, block: int, frame: bytes) -> Floats:
        out = np.empty(int(np.prod(self.servers.plan.blocks[block].sizes, dtype=np.int64)), np.float32)
        parse_frame(frame, out.size).decode_into(out)
        return out


class FakeServers(RegistrarServicer):
    """A registrar and shards. One epoch of data is dealt; `fence` refuses incarnations up to `fenced_up_to`."""

    def __init__(self, num_shards: int, mode: Mode = Mode.MODE_ASYNC, **job: object) -> None:
        self.shards = [FakeShard(number, self) for number in range(num_shards)]
        self.plan = Plan()
        self.incarnation = 0
        self.fence: ErrorCode | None = None
        self.fenced_up_to = 0
        self.joins: list[JoinRequest] = []
        self.enrolments: list[EnrolRequest] = []
        self.activations: list[ActivateRequest] = []
        self.pauses: list[PauseRequest] = []
        self.deals: list[DealRequest] = []
        self.leaves: list[LeaveRequest] = []
        self.first_round = 1
        self.answer_deal: Callable[[DealRequest], DealResponse] = FakeDealer(64)
        self._servers = [self._serve(shard) for shard in self.shards]
        self.job = JobSpecification(
            job_id="fake",
            mode=mode,
            push_codec="fp32",
            pull_codec="fp32",
            lease_seconds=0.3,
            num_shards=num_shards,
            shard_addresses=[address for _, address in self._servers],
            server_patience_seconds=5.0,
            message_bytes=1 << 16,
        )
        for name, value in job.items():
            setattr(self.job, name, value)

    @property
    def address(self) -> str:
        return self._servers[0][1]

    def stop(self) -> None:
        for server, _ in self._servers:
            server.stop(None).wait()

    def expire(self) -> None:
        """Every incarnation so far loses its lease."""
        self.fence, self.fenced_up_to = ErrorCode.FENCED_EXPIRED, self.incarnation

    def replace(self) -> None:
        """Another process takes the worker's id."""
        self.fence, self.fenced_up_to = ErrorCode.FENCED_REPLACED, self.incarnation

    # ---- the registrar's calls ----

    def Join(self, request: JoinRequest, context: grpc.ServicerContext) -> JoinResponse:
        self.joins.append(request)
        self.incarnation += 1
        for shard in self.shards:
            shard.last_outcome = Outcome()
        worker_id = max(0, request.worker_id)
        return JoinResponse(worker_id=worker_id, incarnation=self.incarnation, job=self.job, num_workers=1)

    def Enrol(self, request: EnrolRequest, context: grpc.ServicerContext) -> EnrolResponse:
        self._check(request.incarnation, context)
        self.enrolments.append(request)
        self.plan = request.plan
        held = sum(len(shard.values) for shard in self.shards)
        if held < len(request.plan.blocks):
            return EnrolResponse(state=EnrolResponse.STATE_INITIALISE, grant=1)
        return EnrolResponse(state=EnrolResponse.STATE_READY, clock=self.shards[0].round)

    def Activate(self, request: ActivateRequest, context: grpc.ServicerContext) -> ActivateResponse:
        self._check(request.incarnation, context)
        self.activations.append(request)
        return ActivateResponse(open=True, first_round=self.first_round, clock=request.last_clock)

    def Pause(self, request: PauseRequest, context: grpc.ServicerContext) -> PauseResponse:
        self._check(request.incarnation, context)
        self.pauses.append(request)
        return PauseResponse()

    def Heartbeat(self, request: HeartbeatRequest, context: grpc.ServicerContext) -> HeartbeatResponse:
        self._check(request.incarnation, context)
        return HeartbeatResponse(num_workers=1)

    def Deal(self, request: DealRequest, context: grpc.ServicerContext) -> DealResponse:
        self._check(request.incarnation, context)
        self.deals.append(request)
        return self.answer_deal(request)

    def Leave(self, request: LeaveRequest, context: grpc.ServicerContext) -> LeaveResponse:
        self._check(request.incarnation, context)
        self.leaves.append(request)
        return LeaveResponse()

    def _check(self, incarnation: int, context: grpc.ServicerContext) -> None:
        if self.fence is not None and incarnation <= self.fenced_up_to:
            refuse(context, self.fence, "fenced by the test")

    def _serve(self, shard: FakeShard) -> tuple[grpc.Server, str]:
        server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
        handler: grpc.RpcMethodHandler[bytes, ShardMessage] = grpc.stream_stream_rpc_method_handler(
            shard.exchange, response_serializer=ShardMessage.SerializeToString
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("pushpull.v1.Shard", {"Exchange": handler}),)
        )
        if shard.number == 0:
            add_RegistrarServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return server, f"127.0.0.1:{port}"


class FakeDealer:
    """Deals each epoch of each data set to one worker; what is given back does not come again."""

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self._cursors: dict[tuple[str, int], int] = {}
        self._ids = itertools.count(1)

    def __call__(self, request: DealRequest) -> DealResponse:
        lots, key = [], (request.data_set, request.epoch)
        for _ in range(request.num_lots):
            first = self._cursors.get(key, 0)
            size = min(request.batch_size, self._num_samples - first)
            if size == 0 or request.leave_epoch:
                break
            lots.append(Lot(id=next(self._ids), epoch=request.epoch, first=first, size=size))
            self._cursors[key] = first + size
        state = DealResponse.STATE_LOTS if lots else DealResponse.STATE_OVER
        return DealResponse(state=state, lots=lots)


def _frames(blocks: Iterable[int], lengths: Iterable[int], payload: bytes) -> Iterator[tuple[int, bytes]]:
    first = 0
    for block, length in zip(blocks, lengths, strict=True):
        yield block, payload[first : first + length]
        first += length
