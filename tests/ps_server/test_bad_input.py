"""What a broken or hostile client sends gets a clear error, and no state changes."""

from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_worker import RawStream, RawWorker, cluster, encode, plan_for, sgd

from pushpull.protos.common_pb2 import ErrorCode, ParameterGroup
from pushpull.protos.errors import (
    BadRequestError,
    ConflictError,
    OptimizerMismatchError,
    OverBudgetError,
    PlanMismatchError,
    PortInUseError,
    PushpullError,
    ReplacedError,
    SettingError,
    WrongJobError,
    WrongShardError,
    error_of_call,
)
from pushpull.protos.registrar_pb2 import DealRequest, EnrolRequest, ShardHello, ShardReport
from pushpull.protos.shard_pb2 import Commit, Frames, Outcome, Pull
from pushpull.ps_server.config import JobSettings, ServerConfig
from pushpull.ps_server.server import Server

Outcomes = list[Outcome]


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with cluster(2, mode="async", damping="none") as running:
        yield running


@pytest.fixture
def worker(servers: list[Server]) -> Iterator[RawWorker]:
    worker = RawWorker(servers[0].address).start()
    worker.activate()
    yield worker
    worker.close()


def refusal(call: Callable[[], object]) -> PushpullError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = error_of_call(caught.value)
    assert error is not None, caught.value
    return error


def assert_still_trains(worker: RawWorker) -> None:
    """The servers live, and hold what they held: one more step moves every parameter by exactly one update."""
    worker.pull()
    before = {block: values.copy() for block, values in worker.values.items()}
    for outcome in worker.train(1.0):
        assert outcome.kind == Outcome.KIND_APPLIED
    for block, values in before.items():
        moved = 0.1 if block < len(worker.sizes) - 1 else 0.0
        np.testing.assert_allclose(worker.values[block], values - moved, rtol=1e-6)


def assert_still_serves(worker: RawWorker) -> None:
    """A new process in the worker's place trains on."""
    again = RawWorker(worker.job.shard_addresses[0], worker_id=worker.id).start()
    again.activate()
    assert_still_trains(again)
    again.close()


class TestStepsThatAreRefused:
    """The shard answers the step with KIND_REFUSED and a reason; nothing of it is applied there."""

    def refused(self, worker: RawWorker, frames: Frames, **commit: object) -> Outcome:
        worker.pull()
        before = {block: values.copy() for block, values in worker.values.items()}
        first, second = worker.streams
        first.send(frames=frames)
        first.send(commit=worker.commit_message(0, frames, **commit))
        second.send(commit=worker.commit_message(1, None))
        outcome, *_ = worker.finish()
        worker.pull()
        for block, values in before.items():
            np.testing.assert_array_equal(worker.values[block], values)
        assert outcome.kind == Outcome.KIND_REFUSED
        assert outcome.message
        return outcome

    def test_frame_of_another_shape(self, worker: RawWorker) -> None:
        frames = worker.frames(0, 1.0)
        wrong = encode("fp32", np.ones(worker.sizes[0] + 1, dtype=np.float32))
        rest = frames.payload[frames.lengths[0] :]
        frames.payload, frames.lengths[0] = wrong + rest, len(wrong)
        outcome = self.refused(worker, frames)
        assert outcome.code == ErrorCode.BAD_FRAME
        assert "p0" in outcome.message
        assert_still_trains(worker)

    def test_block_that_does_not_exist(self, worker: RawWorker) -> None:
        frames = worker.frames(0, 1.0)
        frames.blocks[0] = 77
        assert self.refused(worker, frames).code == ErrorCode.UNKNOWN_BLOCK
        assert_still_trains(worker)

    def test_block_of_another_shard(self, worker: RawWorker) -> None:
        frames = worker.frames(0, 1.0)
        frames.blocks[0] = worker.blocks_of(1)[0]
        assert self.refused(worker, frames).code == ErrorCode.UNKNOWN_BLOCK
        assert_still_trains(worker)

    def test_frozen_block(self, worker: RawWorker) -> None:
        frozen = len(worker.sizes) - 1
        frame = encode("fp32", np.ones(worker.sizes[frozen], dtype=np.float32))
        frames = Frames(step=1, attempt=1, blocks=[frozen], lengths=[len(frame)], payload=frame)
        stream = worker.streams[1]
        stream.send(frames=frames)
        stream.send(commit=worker.commit_message(1, frames))
        worker.streams[0].send(commit=worker.commit_message(0, None))
        assert worker.finish()[1].code == ErrorCode.UNKNOWN_BLOCK
        assert_still_trains(worker)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_gradient_that_is_not_finite(self, worker: RawWorker, value: float) -> None:
        frames = worker.frames(0, 1.0)
        payload = bytearray(frames.payload)
        payload[frames.lengths[0] - 4 : frames.lengths[0]] = np.float32(value).tobytes()
        frames.payload = bytes(payload)
        assert self.refused(worker, frames).code == ErrorCode.NON_FINITE
        assert_still_trains(worker)

    def test_lengths_that_do_not_add_up(self, worker: RawWorker) -> None:
        frames = worker.frames(0, 1.0)
        frames.lengths[0] += 4
        assert self.refused(worker, frames).code == ErrorCode.BAD_FRAME
        assert_still_trains(worker)

    def test_step_that_lacks_frames(self, worker: RawWorker) -> None:
        frames = worker.frames(0, 1.0)
        outcome = self.refused(worker, frames, num_frames=len(frames.blocks) + 1)
        assert outcome.code == ErrorCode.BAD_STEP
        assert_still_trains(worker)

    def test_gradient_from_a_version_of_the_future(self, worker: RawWorker) -> None:
        frames = worker.frames(0, 1.0)
        outcome = self.refused(worker, frames, base_versions=[9] * len(worker.blocks_of(0)))
        assert outcome.code == ErrorCode.FUTURE_BASE
        assert_still_trains(worker)

    def test_same_key_with_other_bytes(self, worker: RawWorker) -> None:
        worker.streams[0].send(frames=worker.frames(0, 2.0))
        assert self.refused(worker, worker.frames(0, 1.0)).code == ErrorCode.CONFLICT
        assert_still_trains(worker)

    @pytest.mark.parametrize(
        "groups",
        [
            [],
            [*sgd().groups, *sgd().groups],
            sgd(float("nan")).groups,
            sgd(momentum=0.9).groups,
            [ParameterGroup(numbers={"momentum": 0.0})],
        ],
        ids=["none", "too many", "not a number", "an unknown number", "lr is missing"],
    )
    def test_group_values_that_would_stop_the_optimizer(self, worker: RawWorker, groups: list[ParameterGroup]) -> None:
        assert self.refused(worker, worker.frames(0, 1.0), groups=groups).code == ErrorCode.BAD_STEP
        assert_still_trains(worker)

    @pytest.mark.parametrize("commit", [{"scale": float("nan")}, {"num_samples": -1.0}])
    def test_numbers_of_the_commit_that_cannot_be(self, worker: RawWorker, commit: dict[str, float]) -> None:
        assert self.refused(worker, worker.frames(0, 1.0), **commit).code == ErrorCode.BAD_STEP
        assert_still_trains(worker)

    @pytest.mark.parametrize("codec", ["fp32", "fp16", "int8", "topk:0.5+fp16"])
    def test_every_truncation_and_any_flip(self, servers: list[Server], codec: str) -> None:
        """A damaged frame is refused, or it is a valid frame of finite values; the server never falls."""
        worker = RawWorker(servers[0].address).start()
        worker.activate()
        shard = servers[0]._engine._shard
        assert shard is not None
        good = encode(codec, np.linspace(-1, 1, worker.sizes[0], dtype=np.float32))

        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.data())
        def damaged(data: st.DataObject) -> None:
            if data.draw(st.booleans()):
                frame = good[: data.draw(st.integers(0, len(good) - 1))]
            else:
                changed = bytearray(good)
                changed[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
                frame = bytes(changed)
            try:
                staged = shard.parse([0], [len(frame)], frame)
            except PushpullError:
                return
            out = np.empty(worker.sizes[0], dtype=np.float32)
            staged[0].frame.decode_into(out)
            assert np.isfinite(out).all()

        damaged()
        assert_still_trains(worker)
        worker.close()


def test_values_that_diverge_are_not_published_and_the_server_lives_to_say_so(worker: RawWorker) -> None:
    groups = sgd(1.0).groups
    for value in (3e38, 3e38):
        for outcome in worker.train(value, groups=groups):
            assert outcome.kind == Outcome.KIND_APPLIED
    outcomes = worker.train(1.0)
    assert {outcome.code for outcome in outcomes} == {ErrorCode.NON_FINITE}
    assert "p0" in outcomes[0].message
    assert "diverged" in outcomes[0].message
    assert all(np.isfinite(values).all() for values in worker.values.values())


def test_frames_behind_a_commit_change_nothing() -> None:
    with cluster(2, mode="sync", expected_workers=2) as servers:
        first, second = RawWorker(servers[0].address), RawWorker(servers[0].address)
        first.start()
        second.start()
        first.activate()
        second.activate()
        first.push(1.0)
        for shard, stream in enumerate(first.streams):
            for attempt in (1, 2):
                frames = first.frames(shard, 100.0)
                frames.attempt = attempt
                stream.send(frames=frames)
        second.push(1.0)
        for outcome in first.finish() + second.finish():
            assert outcome.kind == Outcome.KIND_APPLIED
        np.testing.assert_allclose(first.values[0], 0.9)
        first.close()
        second.close()


class TestStreamsThatEnd:
    """The shard refuses the whole stream; the worker's state is untouched."""

    def stream(self, worker: RawWorker, **hello: object) -> PushpullError:
        stream = RawStream(worker.job.shard_addresses[0], worker.hello(0, **hello))
        error = refusal(stream.receive)
        stream.close()
        return error

    def test_wrong_job(self, worker: RawWorker) -> None:
        assert isinstance(self.stream(worker, job_id="another"), WrongJobError)
        assert_still_trains(worker)

    def test_wrong_shard(self, worker: RawWorker) -> None:
        assert isinstance(self.stream(worker, shard=1), WrongShardError)

    def test_wrong_plan(self, worker: RawWorker) -> None:
        assert isinstance(self.stream(worker, plan_fingerprint="other"), PlanMismatchError)

    def test_no_hello(self, worker: RawWorker) -> None:
        stream = RawStream(worker.job.shard_addresses[0], None)
        stream.send(pull=Pull())
        assert "Hello" in str(refusal(stream.receive))
        stream.close()

    def test_wrong_number_of_base_versions(self, worker: RawWorker) -> None:
        worker.streams[0].send(pull=Pull(base_versions=[0] * 99))
        assert "base_versions" in str(refusal(worker.streams[0].receive))

    def test_commit_without_a_verdict(self, worker: RawWorker) -> None:
        worker.streams[0].send(commit=worker.commit_message(0, None, verdict=0))
        assert "verdict" in str(refusal(worker.streams[0].receive))
        assert_still_serves(worker)

    def test_message_that_hides_much_beside_its_frames(self, worker: RawWorker) -> None:
        frames = worker.frames(0, 1.0)
        frames.padding = bytes(1 << 20)
        worker.streams[0].send(frames=frames)
        assert "no frame" in str(refusal(worker.streams[0].receive))

    def test_step_that_is_not_due(self, worker: RawWorker) -> None:
        frames = worker.frames(0, 1.0)
        frames.step = 5
        worker.streams[0].send(frames=frames)
        assert "step 1 is due" in str(refusal(worker.streams[0].receive))

    def test_fenced_incarnation(self, servers: list[Server], worker: RawWorker) -> None:
        newer = RawWorker(servers[0].address, worker_id=worker.id)
        assert isinstance(refusal(worker.streams[0].receive), ReplacedError)
        again = RawStream(worker.job.shard_addresses[0], worker.hello(0))
        assert again.receive().welcome.last_step == 0, "the record of its steps may be read"
        again.send(frames=worker.frames(0, 5.0))
        assert isinstance(refusal(again.receive), ReplacedError)
        again.close()
        assert isinstance(refusal(worker.heartbeat), ReplacedError)
        newer.start()
        newer.activate()
        assert all((values == 1.0).all() for values in newer.values.values())
        assert_still_trains(newer)
        newer.close()


class TestDuplicates:
    def test_a_repeated_step_is_applied_once_and_told_the_same(self, servers: list[Server], worker: RawWorker) -> None:
        first = worker.train(1.0)
        worker.step -= 1
        second = worker.train(1.0)
        assert [outcome.kind for outcome in first + second] == [Outcome.KIND_APPLIED] * 4
        assert [outcome.duplicate for outcome in second] == [True, True]
        np.testing.assert_allclose(worker.values[0], 0.9)
        dropped = servers[0]._engine.status().duplicates_dropped
        assert dropped == len(worker.blocks_of(0, pushed=True)) + 1

    def test_repeated_frames_before_the_commit_are_dropped(self, worker: RawWorker) -> None:
        for shard, stream in enumerate(worker.streams):
            stream.send(frames=worker.frames(shard, 1.0))
        worker.push(1.0)
        assert [outcome.kind for outcome in worker.finish()] == [Outcome.KIND_APPLIED] * 2
        np.testing.assert_allclose(worker.values[0], 0.9)


class TestEnrolment:
    def other(self, servers: list[Server], sizes: tuple[int, ...]) -> RawWorker:
        other = RawWorker(servers[0].address)
        other.plan = plan_for(2, sizes)
        return other

    def test_another_model_is_refused_by_its_first_difference(self, servers: list[Server], worker: RawWorker) -> None:
        other = self.other(servers, (6, 11, 4, 12))
        error = refusal(other.enrol)
        assert isinstance(error, PlanMismatchError)
        assert str(error) == "the model of worker 1 differs from that of worker 0: p1 has shape (11,), not (10,)"
        other.close()

    def test_another_optimizer_is_refused_by_its_first_difference(
        self, servers: list[Server], worker: RawWorker
    ) -> None:
        other = RawWorker(servers[0].address)
        error = refusal(lambda: other.enrol(sgd(momentum=0.9)))
        assert isinstance(error, OptimizerMismatchError)
        assert "momentum" in str(error)
        other.close()

    def test_optimizer_without_its_numbers_is_refused(self, servers: list[Server]) -> None:
        worker = RawWorker(servers[0].address)
        adamw = sgd()
        adamw.name = "AdamW"
        assert "betas.0" in str(refusal(lambda: worker.enrol(adamw)))
        worker.close()

    def test_a_stranger_cannot_take_a_shards_place(self, servers: list[Server], worker: RawWorker) -> None:
        for shard in (0, 1):
            hello = ShardReport(hello=ShardHello(shard=shard, address="elsewhere:1", epoch=7))
            assert isinstance(refusal(lambda: next(worker.registrar.Link(iter([hello])))), BadRequestError)  # noqa: B023
        assert_still_trains(worker)

    def test_unknown_optimizer_is_refused(self, servers: list[Server]) -> None:
        worker = RawWorker(servers[0].address)
        unknown = sgd()
        unknown.name = "os.system"
        assert "os.system" in str(refusal(lambda: worker.enrol(unknown)))
        worker.close()

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda plan: plan.blocks[0].sizes.__setitem__(0, 5), "cover"),
            (lambda plan: plan.blocks[0].offsets.__setitem__(0, 1), "outside"),
            (lambda plan: setattr(plan.blocks[0], "shard", 9), "does not exist"),
            (lambda plan: setattr(plan, "num_shards", 3), "3 shards"),
        ],
    )
    def test_plan_that_contradicts_itself(
        self, servers: list[Server], change: Callable[[object], None], said: str
    ) -> None:
        worker = RawWorker(servers[0].address)
        change(worker.plan)
        assert said in str(refusal(worker.enrol))
        worker.close()

    def test_more_staging_than_the_budget(self) -> None:
        with cluster(1, staging_bytes=64) as servers:
            worker = RawWorker(servers[0].address)
            assert "staging_bytes" in str(refusal(worker.enrol))
            worker.close()

    @pytest.mark.parametrize("elements", [2**40, 2**62])
    def test_a_model_that_no_server_could_hold(self, elements: int) -> None:
        with cluster(1) as servers:
            worker = RawWorker(servers[0].address)
            worker.plan = plan_for(1, (elements, 4))
            assert isinstance(refusal(worker.enrol), OverBudgetError)
            RawWorker(servers[0].address).start().close()
            worker.close()

    def test_unknown_worker(self, servers: list[Server], worker: RawWorker) -> None:
        request = EnrolRequest(worker_id=55, incarnation=55, plan=worker.plan, optimizer=sgd())
        assert "has joined" in str(refusal(lambda: worker.registrar.Enrol(request)))

    def test_data_sets_of_different_sizes(self, servers: list[Server], worker: RawWorker) -> None:
        deal = DealRequest(**worker.key, dataset_size=100, batch_size=10, num_lots=1)
        worker.registrar.Deal(deal)
        deal.dataset_size = 99
        assert "100" in str(refusal(lambda: worker.registrar.Deal(deal)))


class TestServers:
    def test_port_in_use_names_the_address_and_the_option(self, servers: list[Server]) -> None:
        config = ServerConfig(shard=0, num_shards=1, job=JobSettings(), listen=servers[0].address, metrics_listen=None)
        with pytest.raises(PortInUseError, match=rf"{servers[0].address}.*--listen"):
            Server(config).start()

    def test_delta_pulls_need_rounds(self) -> None:
        job = JobSettings(mode="async", pull_codec="int8")
        with pytest.raises(SettingError, match="mode=async"):
            Server(ServerConfig(shard=0, num_shards=1, job=job))

    @pytest.mark.parametrize(
        "bad",
        [
            {"mode": "fast"},
            {"damping": "cubic"},
            {"staleness_bound": -1},
            {"quorum": 2, "mode": "async"},
            {"lease_seconds": 0},
            {"block_elements": 0},
        ],
    )
    def test_settings_that_cannot_work(self, bad: dict[str, object]) -> None:
        with pytest.raises(SettingError, match=next(iter(bad))):
            JobSettings(**bad)  # type: ignore[arg-type]


def test_conflict_is_an_error_of_its_own() -> None:
    assert issubclass(ConflictError, PushpullError)
    assert Commit().attempt == 0
