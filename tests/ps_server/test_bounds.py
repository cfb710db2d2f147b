"""What one client can make a shard keep: frames inside the job's codec, one message once, and answers that are read."""

import time
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from raw_worker import RawWorker, cluster, encode

from pushpull.protos.common_pb2 import ErrorCode, ParameterGroup
from pushpull.protos.errors import BadRequestError, FrameError, OverBudgetError, error_of_call
from pushpull.protos.shard_pb2 import Frames, Outcome, Pull
from pushpull.ps_server.envelope import MOST_QUESTION_BYTES
from pushpull.ps_server.keys import StreamKey
from pushpull.ps_server.server import Server
from pushpull.ps_server.session import Session, SessionLimits

SIZES = (50_000, 40_000, 30_000, 12)


def started(server: Server) -> RawWorker:
    worker = RawWorker(server.address, sizes=SIZES).start()
    worker.activate()
    return worker


def staged_bytes(server: Server) -> int:
    return server._engine.status().staged_bytes


def soon(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize(
    ("settings", "wide"),
    [
        ({"push_codec": "int8"}, "fp16"),
        ({"push_codec": "sign"}, "int8"),
        ({"push_overrides": (("p0", "fp16"),)}, "fp32"),
        ({"push_codec": "momentum:0.9+int8"}, "fp32"),
    ],
)
def test_frames_wider_than_the_jobs_codec_are_refused_and_not_kept(settings: dict[str, object], wide: str) -> None:
    with cluster(1, **settings) as (server,):
        worker = started(server)
        frames = worker.frames(0, 1.0, codec=wide)
        worker.streams[0].send(frames=frames)
        worker.streams[0].send(commit=worker.commit_message(0, frames))
        (outcome,) = worker.finish()
        assert (outcome.kind, outcome.code) == (Outcome.KIND_REFUSED, ErrorCode.BAD_FRAME)
        assert "the job's codec" in outcome.message
        assert staged_bytes(server) == 0
        worker.close()


def test_a_frame_of_the_jobs_codec_is_as_wide_as_it_may_be() -> None:
    with cluster(1, push_codec="int8") as (server,):
        worker = started(server)
        frames = worker.frames(0, 1.0, codec="int8")
        worker.streams[0].send(frames=frames)
        worker.streams[0].send(commit=worker.commit_message(0, frames))
        (outcome,) = worker.finish()
        assert outcome.kind == Outcome.KIND_APPLIED
        worker.close()


def test_an_initial_value_wider_than_fp32_is_refused() -> None:
    with cluster(1) as (server,):
        worker = started(server)
        shard = server._engine._shard
        assert shard is not None
        frame = encode("topk:1+fp32", np.ones(SIZES[0], dtype=np.float32))
        assert len(frame) > len(encode("fp32", np.ones(SIZES[0], dtype=np.float32)))
        with pytest.raises(FrameError, match=r"block 0 of p0: .* more than an initial value needs"):
            shard.parse_values([0], [len(frame)], frame)
        worker.close()


def test_a_message_is_kept_for_all_of_its_frames_or_for_none() -> None:
    """Else message n, with n - 1 frames that are known and a new one, would be kept as well: a square of the step."""
    with cluster(1) as (server,):
        worker = started(server)
        whole = worker.frames(0, 1.0)
        first = Frames(step=1, attempt=1, blocks=whole.blocks[:1], lengths=whole.lengths[:1])
        first.payload = whole.payload[: whole.lengths[0]]
        worker.streams[0].send(frames=first)
        worker.streams[0].send(frames=whole)
        worker.streams[0].send(commit=worker.commit_message(0, whole))
        (outcome,) = worker.finish()
        assert (outcome.kind, outcome.code) == (Outcome.KIND_REFUSED, ErrorCode.CONFLICT)
        worker.close()


@pytest.mark.parametrize("kind", ["commit", "pull"])
def test_a_question_that_is_much_larger_than_the_shard_is_refused(kind: str) -> None:
    with cluster(1) as (server,):
        worker = started(server)
        many = MOST_QUESTION_BYTES // 4
        if kind == "pull":
            worker.streams[0].send(pull=Pull(request=1, base_versions=[2**63] * many))
        else:
            groups = [ParameterGroup(numbers={f"number {index}": 1.0 for index in range(many)})]
            worker.streams[0].send(commit=worker.commit_message(0, None, groups=groups))
        with pytest.raises(grpc.RpcError) as refused:
            worker.streams[0].receive()
        assert isinstance(error_of_call(refused.value), BadRequestError)
        worker.close()


def test_who_asks_again_and_again_and_does_not_read_is_cut_off_and_others_train() -> None:
    with cluster(1) as (server,):
        worker, greedy = started(server), started(server)
        greedy.pause()
        for request in range(4_000):
            greedy.streams[0].send(pull=Pull(request=request + 2))
        sessions = server._engine._streams._sessions
        assert soon(lambda: len(sessions) == 1)
        frames = worker.frames(0, 1.0)
        worker.streams[0].send(frames=frames)
        worker.streams[0].send(commit=worker.commit_message(0, frames))
        (outcome,) = worker.finish()
        assert outcome.kind == Outcome.KIND_APPLIED
        greedy.close()
        worker.close()


def test_a_session_keeps_nothing_for_who_is_cut_off() -> None:
    cut: list[bool] = []
    session = Session(StreamKey(7, 1, 0), SessionLimits(num_blocks=1, most_queued=3))
    session.cut = lambda: cut.append(True)
    for number in range(5):
        session.send(bytes([number]))
    assert cut == [True]
    assert isinstance(session.error, OverBudgetError)
    assert "worker 7 does not read" in str(session.error)
    assert list(session) == []
