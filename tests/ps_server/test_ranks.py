"""Workers of several ranks, on real servers: each rank has a stream of its own and pushes and pulls its own blocks."""

from collections.abc import Iterator, Sequence

import grpc
import pytest
from raw_worker import RawStream, RawWorker, cluster, sgd

from pushpull.protos.common_pb2 import ErrorCode
from pushpull.protos.errors import (
    BadRequestError,
    OverBudgetError,
    PushpullError,
    StepError,
    error_of_call,
)
from pushpull.protos.registrar_pb2 import JoinRequest, LeaveRequest
from pushpull.protos.shard_pb2 import Hello, Outcome, Pull, Verdict
from pushpull.ps_server.config import JobSettings, ServerConfig
from pushpull.ps_server.server import Server


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with cluster(2, mode="async", damping="none") as running:
        yield running


@pytest.fixture
def ranks(servers: list[Server]) -> Iterator[list[RawWorker]]:
    started = start(servers, 2)
    yield started
    for rank in started:
        rank.close()


def start(servers: list[Server], num_ranks: int, worker_id: int = -1) -> list[RawWorker]:
    ranks = RawWorker.of_ranks(servers[0].address, num_ranks, worker_id)
    for rank in ranks:
        rank.start()
    ranks[0].activate()
    return ranks


def train(ranks: Sequence[RawWorker], value: float, **commit: object) -> list[Outcome]:
    """One step of all ranks; the outcomes on every shard."""
    for rank in ranks:
        rank.push(value, **commit)
    return [outcome for rank in ranks for outcome in rank.finish()]


def held(ranks: Sequence[RawWorker]) -> dict[int, float]:
    """The value of each block, as its owner holds it."""
    values = {block: data for rank in ranks for block, data in rank.values.items()}
    assert all((data == data[0]).all() for data in values.values())
    return {block: float(data[0]) for block, data in sorted(values.items())}


def refusal_of_stream(worker: RawWorker, shard: int, hello: Hello) -> PushpullError:
    stream = RawStream(worker.job.shard_addresses[shard], hello)
    with pytest.raises(grpc.RpcError) as caught:
        stream.receive()
    stream.close()
    error = error_of_call(caught.value)
    assert error is not None
    return error


class TestSteps:
    def test_each_rank_holds_its_own_blocks_and_together_they_train_all(self, ranks: list[RawWorker]) -> None:
        for _ in range(2):
            assert {outcome.kind for outcome in train(ranks, 1.0)} == {Outcome.KIND_APPLIED}
        assert [sorted(rank.values) for rank in ranks] == [[0, 1], [2, 3]]
        assert held(ranks) == pytest.approx({0: 0.8, 1: 0.8, 2: 0.8, 3: 1.0})

    def test_nothing_is_applied_before_the_last_rank_has_committed(self, ranks: list[RawWorker]) -> None:
        ranks[0].push(1.0)
        for stream in ranks[0].streams:
            # This pull stands behind the commit, and in the place of the pull that the commit implied.
            stream.send(pull=Pull(request=5))
            outcome, _, done = stream.answers()
            assert (outcome.kind, done.clock) == (Outcome.KIND_UNSPECIFIED, 0)
        ranks[1].push(1.0)
        for stream in ranks[0].streams:
            assert stream.receive().outcome.kind == Outcome.KIND_APPLIED
        assert {outcome.kind for outcome in ranks[1].finish()} == {Outcome.KIND_APPLIED}

    @pytest.mark.parametrize("mode", ["sync", "bounded", "async"])
    def test_workers_with_unlike_numbers_of_ranks_train_one_model(self, mode: str) -> None:
        with cluster(2, mode=mode, damping="none", expected_workers=2) as servers:
            plain, *pair = RawWorker(servers[0].address), *RawWorker.of_ranks(servers[0].address, 2)
            for rank in (plain, *pair):
                rank.start()
            plain.activate()
            pair[0].activate()
            for _ in range(2):
                for rank in (plain, *pair):
                    rank.push(1.0)
                for rank in (plain, *pair):
                    assert {outcome.kind for outcome in rank.finish()} == {Outcome.KIND_APPLIED}
            for rank in (plain, *pair):
                rank.pull()
            assert held([plain]) == held(pair)
            moved = 0.2 if mode == "sync" else 0.4
            assert held(pair) == pytest.approx({0: 1 - moved, 1: 1 - moved, 2: 1 - moved, 3: 1.0})
            for rank in (plain, *pair):
                rank.close()

    def test_a_step_that_is_skipped_by_all_advances_the_clock_alone(self, ranks: list[RawWorker]) -> None:
        outcomes = train(ranks, 1.0, verdict=Verdict.VERDICT_SKIP)
        assert {outcome.kind for outcome in outcomes} == {Outcome.KIND_SKIPPED}
        assert held(ranks) == dict.fromkeys(range(4), 1.0)

    def test_a_rank_that_asks_again_is_told_what_was_recorded(self, ranks: list[RawWorker]) -> None:
        train(ranks, 1.0)
        ranks[1].step -= 1
        again = ranks[1].train(1.0)
        assert {(outcome.kind, outcome.duplicate) for outcome in again} == {(Outcome.KIND_APPLIED, True)}
        assert held(ranks)[0] == pytest.approx(0.9)

    def test_a_new_stream_of_one_rank_replaces_that_ranks_alone(self, ranks: list[RawWorker]) -> None:
        old = ranks[1].streams
        ranks[1].streams = []
        ranks[1].open_streams()
        assert {outcome.kind for outcome in train(ranks, 1.0)} == {Outcome.KIND_APPLIED}
        assert list(old[0]._answers) == []
        for stream in old:
            stream.close()

    def test_a_higher_attempt_of_one_rank_replaces_its_part_alone(self, ranks: list[RawWorker]) -> None:
        ranks[0].push(1.0)
        for shard, stream in enumerate(ranks[1].streams):
            stream.send(frames=ranks[1].frames(shard, 100.0))
            frames = ranks[1].frames(shard, 1.0)
            frames.attempt = 2
            stream.send(frames=frames)
            stream.send(commit=ranks[1].commit_message(shard, frames, attempt=2))
        for rank in ranks:
            assert {outcome.kind for outcome in rank.finish()} == {Outcome.KIND_APPLIED}
        assert held(ranks)[2] == pytest.approx(0.9)


class TestStepsThatAreRefused:
    """Every rank is told; nothing is applied on the shard that refused."""

    def refused(self, ranks: list[RawWorker], **commit_of_last: object) -> Outcome:
        ranks[0].push(1.0)
        ranks[1].push(1.0, **commit_of_last)
        first, second = (rank.finish()[0] for rank in ranks)
        assert first == second
        assert first.kind == Outcome.KIND_REFUSED
        assert held(ranks)[0] == held(ranks)[2] == 1.0
        assert {outcome.kind for outcome in train(ranks, 1.0)} == {Outcome.KIND_APPLIED}
        return first

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("verdict", Verdict.VERDICT_SKIP),
            ("num_samples", 2.0),
            ("scale", 0.5),
            ("groups", sgd(0.2).groups),
            ("round", 7),
            ("lots", [5]),
        ],
    )
    def test_ranks_that_disagree_in_what_concerns_the_worker(
        self, ranks: list[RawWorker], field: str, value: object
    ) -> None:
        outcome = self.refused(ranks, **{field: value})
        assert outcome.code == ErrorCode.BAD_STEP
        assert f"do not agree in {field}" in outcome.message

    def test_a_part_that_lacks_frames_is_named_by_its_rank(self, ranks: list[RawWorker]) -> None:
        outcome = self.refused(ranks, num_frames=9)
        assert outcome.code == ErrorCode.BAD_STEP
        assert outcome.message.startswith("rank 1: step 1 has 1 frames")

    def test_a_frame_of_a_block_that_another_rank_owns(self, ranks: list[RawWorker]) -> None:
        ranks[1].streams[0].send(frames=ranks[0].frames(0, 1.0))
        outcome = self.refused(ranks)
        assert outcome.code == ErrorCode.UNKNOWN_BLOCK
        assert "block 0" in outcome.message

    def test_a_version_of_the_future(self, ranks: list[RawWorker]) -> None:
        assert self.refused(ranks, base_versions=[9]).code == ErrorCode.FUTURE_BASE

    def test_a_refused_step_is_counted_once(self, ranks: list[RawWorker], servers: list[Server]) -> None:
        self.refused(ranks, num_frames=9)
        assert dict(servers[0]._engine.status().pushes_refused) == {"BAD_STEP": 1}

    def test_a_block_that_no_rank_owns(self, servers: list[Server]) -> None:
        ranks = RawWorker.of_ranks(servers[0].address, 2)
        ranks[0].start()
        ranks[0].activate()
        ranks[1].plan = ranks[0].plan
        for shard, address in enumerate(ranks[1].job.shard_addresses):
            ranks[1].streams.append(RawStream(address, ranks[1].hello(shard, blocks=[])))
            assert ranks[1].streams[-1].receive().welcome.epoch
            frames = ranks[0].frames(shard, 1.0)
            ranks[0].streams[shard].send(frames=frames)
            ranks[0].streams[shard].send(commit=ranks[0].commit_message(shard, frames))
            ranks[1].streams[shard].send(commit=ranks[1].commit_message(shard, None, absent=[]))
        outcome = ranks[0].finish()[0]
        assert outcome.code == ErrorCode.BAD_STEP
        assert outcome.message == "step 1 is incomplete: no rank of its worker owns block 2"
        for rank in ranks:
            rank.close()


class TestGreetings:
    @pytest.mark.parametrize(
        ("hello", "said"),
        [
            ({"num_ranks": 3}, "joined with num_ranks=2"),
            ({"num_ranks": 0, "rank": 0}, "joined with num_ranks=2"),
            ({"rank": 2}, "there is no rank 2"),
            ({"blocks": [0]}, "rank 1 and rank 0 of worker 0 both own block 0"),
            ({"blocks": [1]}, "block 1, not on shard 0"),
            ({"blocks": [77]}, "block 77, not on shard 0"),
            ({"blocks": [2, 2]}, "once, in ascending order"),
            ({"blocks": []}, "owned other blocks on shard 0 before"),
            ({"on_demand": [0]}, "on_demand of rank 1 names block 0"),
        ],
    )
    def test_what_cannot_be_is_refused(self, ranks: list[RawWorker], hello: dict[str, object], said: str) -> None:
        error = refusal_of_stream(ranks[1], 0, ranks[1].hello(0, **hello))
        assert isinstance(error, BadRequestError)
        assert said in str(error)
        assert {outcome.kind for outcome in train(ranks, 1.0)} == {Outcome.KIND_APPLIED}

    def test_too_many_ranks_are_refused_when_they_join(self, ranks: list[RawWorker]) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            ranks[0].registrar.Join(JoinRequest(worker_id=-1, num_ranks=5000))
        assert "at most 1024" in str(error_of_call(caught.value))

    def test_more_streams_than_the_budget(self) -> None:
        config = ServerConfig(shard=0, num_shards=1, job=JobSettings(), metrics_listen=None, max_workers=2)
        server = Server(config)
        server.start()
        try:
            ranks = RawWorker.of_ranks(server.address, 3)
            for rank in ranks[:2]:
                rank.start()
            error = refusal_of_stream(ranks[2], 0, ranks[2].hello(0))
            assert isinstance(error, OverBudgetError)
            assert "counts streams" in str(error)
            for rank in ranks:
                rank.close()
        finally:
            server.stop(0.1)


class TestPulls:
    def test_blocks_on_demand_come_only_when_they_are_named(self, servers: list[Server]) -> None:
        worker = RawWorker(servers[0].address)
        worker.start()
        worker.activate()
        stream = RawStream(worker.job.shard_addresses[0], worker.hello(0, on_demand=[2]))
        assert stream.receive().welcome.epoch
        worker.streams[0].close()
        worker.streams[0] = stream
        worker.values.clear()
        worker.train(1.0, base_versions=[])
        assert sorted(worker.values) == [0, 1, 3]
        stream.send(pull=Pull(request=7, blocks=[2]))
        _, values, done = stream.answers()
        assert (sorted(values), done.request) == ([2], 7)
        stream.send(pull=Pull(request=8, blocks=[2], base_versions=[1]))
        _, values, done = stream.answers()
        assert (sorted(values), done.request) == ([], 8)
        stream.send(pull=Pull(request=9, blocks=[2], base_versions=[2**64 - 1]))  # nothing is held
        assert sorted(stream.answers()[1]) == [2]
        worker.close()

    def test_only_what_is_newer_is_sent(self, ranks: list[RawWorker]) -> None:
        train(ranks, 1.0)
        ranks[0].streams[0].send(pull=Pull(request=1, base_versions=[1]))
        assert ranks[0].streams[0].answers()[1] == {}
        ranks[0].streams[0].send(pull=Pull(request=2, base_versions=[0]))
        assert list(ranks[0].streams[0].answers()[1]) == [0]

    @pytest.mark.parametrize(
        ("pull", "said"),
        [
            ({"blocks": [0]}, "block 0, which the rank does not own"),
            ({"blocks": [77]}, "block 77, not on shard 0"),
            ({"blocks": [2, 2]}, "once"),
            ({"blocks": [2], "base_versions": [0, 0]}, "2 entries for 1 blocks"),
            ({"base_versions": [0, 0]}, "2 entries for 1 blocks"),
        ],
    )
    def test_pulls_that_ask_for_what_cannot_be(
        self, ranks: list[RawWorker], pull: dict[str, object], said: str
    ) -> None:
        ranks[1].streams[0].send(pull=Pull(request=1, **pull))
        with pytest.raises(grpc.RpcError) as caught:
            ranks[1].streams[0].receive()
        assert said in str(error_of_call(caught.value))


class TestLeases:
    def test_a_rank_that_says_nothing_ends_its_worker_and_nobody_else(self) -> None:
        with cluster(2, mode="sync", expected_workers=2, lease_seconds=1.0) as servers:
            plain, *pair = RawWorker(servers[0].address), *RawWorker.of_ranks(servers[0].address, 2)
            for rank in (plain, *pair):
                rank.start()
            plain.activate()
            pair[0].activate()
            plain.push(1.0)
            pair[0].push(1.0)
            error = None
            while error is None:
                plain.heartbeat()
                try:
                    pair[0].heartbeat()
                except grpc.RpcError as refused:
                    error = error_of_call(refused)
            assert "rank 1 of worker 1" in str(error)
            assert {outcome.kind for outcome in plain.finish()} == {Outcome.KIND_APPLIED}
            for stream in (*pair[0].streams, *pair[1].streams):
                with pytest.raises(grpc.RpcError):
                    stream.receive()
            assert plain.status().failures == 1
            again = RawWorker(servers[0].address, worker_id=pair[0].id).start()
            assert held([again]) == pytest.approx({0: 0.9, 1: 0.9, 2: 0.9, 3: 1.0})
            for rank in (plain, again, *pair):
                rank.close()

    def test_any_rank_may_say_that_its_worker_failed(self, ranks: list[RawWorker]) -> None:
        ranks[1].leave(failure="ValueError: no")
        (worker,) = ranks[0].status().workers
        assert worker.state == "failed"
        with pytest.raises(grpc.RpcError) as caught:
            ranks[0].heartbeat()
        assert isinstance(error_of_call(caught.value), StepError)

    def test_a_rank_that_the_worker_does_not_have(self, ranks: list[RawWorker]) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            ranks[0].registrar.Leave(LeaveRequest(**ranks[0].key, rank=2))
        assert "no rank 2" in str(error_of_call(caught.value))


def test_the_owners_base_versions_make_the_staleness(servers: list[Server], ranks: list[RawWorker]) -> None:
    plain = RawWorker(servers[0].address).start()
    plain.activate()
    for _ in range(3):
        plain.train(1.0, base_versions=[])
    for rank in ranks:
        for shard, stream in enumerate(rank.streams):
            frames = rank.frames(shard, 1.0)
            stream.send(frames=frames)
            count = len(rank.blocks_of(shard))
            # rank 0 says it started from the newest version, rank 1 from the first
            base = [3 if rank.rank == 0 else 0] * count if shard == 0 else [0] * count
            stream.send(commit=rank.commit_message(shard, frames, base_versions=base))
    for rank in ranks:
        rank.finish()
    staleness = servers[0]._engine.status().version_staleness
    before = 1 + 2 + 3  # of the plain worker, which says it held nothing: 2 blocks each
    assert (staleness.sum, staleness.max) == (2 * before + 3, 3)
    plain.close()
