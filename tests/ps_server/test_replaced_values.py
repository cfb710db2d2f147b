"""Values that workers put in the place of the servers' own: whose count, what becomes of gradients, what everybody holds."""

from collections.abc import Sequence

import numpy as np
import pytest
from raw_worker import SIZES, RawWorker, cluster, encode, plan_for, sgd
from test_publication import Holder

from pushpull.compression.frame import parse_frame
from pushpull.compression.spec import parse_codec
from pushpull.protos.common_pb2 import ErrorCode
from pushpull.protos.registrar_pb2 import InstallPlan
from pushpull.protos.shard_pb2 import Frames, Outcome, Verdict
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.effects import AppliedPart, Job
from pushpull.ps_server.job import job_message
from pushpull.ps_server.shard import Shard
from pushpull.ps_server.steps import StagedFrame

Floats = np.ndarray
PLACEHOLDER = np.float32(123.5)
"""Becomes a NaN on the wire: no encoder would make one."""


def staged(values: Floats | Sequence[float]) -> StagedFrame:
    data = encode("fp32", np.asarray(values, np.float32))
    return StagedFrame(parse_frame(data, len(values)), memoryview(data))


class Applied:
    """One shard with initial values, and jobs carried out on it."""

    def __init__(self, optimizer: object = None, sizes: Sequence[int] = SIZES, **settings: object) -> None:
        job = job_message(JobSettings(**settings), "job", ["a:1"])  # type: ignore[arg-type]
        self.shard = Shard(0, InstallPlan(job=job, plan=plan_for(1, sizes), optimizer=optimizer or sgd(lr=1.0)))
        self.store = self.shard.store
        for number, block in enumerate(self.store.blocks):
            self.store.array(block)[:] = number + np.arange(block.num_elements, dtype=np.float32) / 100
        self.shard.publish_all()
        self._jobs = 0

    def values(self, block: int) -> Floats:
        return self.store.array(self.store.blocks[block]).copy()

    def held(self) -> Holder:
        """A worker that has pulled everything."""
        holder = Holder(self.store)
        self.pull(holder)
        return holder

    def pull(self, holder: Holder) -> bool:
        (bundle,) = self.store.bundles
        return holder.pull(self.shard.publisher, bundle)

    def run(
        self,
        replacements: Sequence[dict[int, Floats]],
        gradients: dict[int, Floats] | None = None,
        base: Sequence[int] | None = None,
        numbers: dict[str, float] | None = None,
        averaged: Sequence[dict[int, Floats]] = (),
    ) -> list[int]:
        """Blocks with a new version."""
        self._jobs += 1
        parts = [AppliedPart(0, 1.0, {block: staged(g) for block, g in gradients.items()})] if gradients else []
        job = Job(
            self._jobs,
            parts,
            [numbers or {"lr": 1.0}],
            None if base is None else np.array(base, np.int64),
            1,
            {},
            self._jobs,
            replacements=[{block: staged(v) for block, v in values.items()} for values in replacements],
            averaged=[{block: staged(v) for block, v in values.items()} for values in averaged],
        )
        updated: list[int] = []
        for each in self.shard.applier.passes(job):
            for bundle in self.store.bundles:
                updated += each.over(bundle).updated
        return sorted(updated)


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "topk:0.1+int8"])
def test_everybody_pulls_exactly_what_was_put_there(codec: str) -> None:
    applied = Applied(pull_codec=codec)
    follower = applied.held()
    loaded = np.linspace(-3, 3, SIZES[1], dtype=np.float32).astype(np.float16).astype(np.float32)
    if codec == "bf16":
        loaded = np.round(loaded * 4) / 4
    assert applied.run([{1: loaded}]) == [1]
    np.testing.assert_array_equal(applied.values(1), loaded)
    applied.pull(follower)
    for holder in (follower, applied.held()):
        np.testing.assert_array_equal(holder.values[1], loaded)


def test_elements_that_were_not_changed_keep_the_finer_value_of_the_shard() -> None:
    applied = Applied(pull_codec="bf16")
    before, holder = applied.values(1), applied.held()
    clamped = np.minimum(holder.values[1], np.float32(1.0625))  # exact in bf16
    assert not np.array_equal(holder.values[1], before)
    applied.run([{1: clamped}])
    changed = holder.values[1] > 1.0625
    assert changed.any()
    assert not changed.all()
    np.testing.assert_array_equal(applied.values(1), np.where(changed, np.float32(1.0625), before))


def test_what_workers_change_in_one_block_is_put_together_and_the_lowest_id_wins() -> None:
    applied = Applied()
    start = applied.values(1)
    first, second = start.copy(), start.copy()
    first[2], first[5] = 10.0, 11.0
    second[5], second[7] = 20.0, 21.0
    applied.run([{1: first}, {1: second}])  # in the order of worker ids
    expected = start.copy()
    expected[[2, 5, 7]] = [10.0, 11.0, 21.0]
    np.testing.assert_array_equal(applied.values(1), expected)


def test_gradients_of_replaced_blocks_are_void_and_those_of_others_count() -> None:
    applied = Applied()
    untouched = applied.values(0)
    ones = {block: np.ones(SIZES[block], np.float32) for block in (0, 1)}
    loaded = np.full(SIZES[1], 7.0, np.float32)
    assert applied.run([{1: loaded}], ones) == [0, 1]
    np.testing.assert_array_equal(applied.values(1), loaded)
    np.testing.assert_array_equal(applied.values(0), untouched - 1)


def test_without_rounds_gradients_of_the_values_before_are_void() -> None:
    applied = Applied(mode="async", damping="none")
    loaded = np.full(SIZES[1], 7.0, np.float32)
    applied.run([{1: loaded}], base=[0, 0, 0, 0])
    gradient = {1: np.ones(SIZES[1], np.float32)}
    assert applied.run([], gradient, base=[0, 0, 0, 0]) == []
    assert applied.run([], gradient, base=[0, 1, 0, 0]) == [1]
    np.testing.assert_array_equal(applied.values(1), loaded - 1)


def test_a_block_that_moved_on_since_it_was_pulled_is_replaced_whole() -> None:
    applied = Applied(mode="async", damping="none")
    pulled = applied.values(1)
    applied.run([], {1: np.ones(SIZES[1], np.float32)}, base=[0, 0, 0, 0])
    changed = pulled.copy()
    changed[3] = 9.0
    applied.run([{1: changed}], base=[0, 0, 0, 0])
    np.testing.assert_array_equal(applied.values(1), changed)


def test_momenta_stay_as_they_are() -> None:
    applied = Applied(sgd(lr=1.0, momentum=0.5, dampening=0.0, weight_decay=0.0))
    one = {1: np.ones(SIZES[1], np.float32)}
    numbers = {"lr": 1.0, "momentum": 0.5, "dampening": 0.0, "weight_decay": 0.0}
    applied.run([], one, numbers=numbers)
    applied.run([{1: np.zeros(SIZES[1], np.float32)}])
    applied.run([], one, numbers=numbers)
    np.testing.assert_array_equal(applied.values(1), np.full(SIZES[1], -1.5, np.float32))


class TestMeans:
    BUFFER = len(SIZES) - 1
    """A block that nobody optimises."""

    def test_the_mean_of_all_that_were_sent_is_pulled_by_everybody(self) -> None:
        applied = Applied()
        follower = applied.held()
        sent = [np.full(SIZES[self.BUFFER], value, np.float32) for value in (1.0, 2.0, 6.0)]
        assert applied.run([], averaged=[{self.BUFFER: values} for values in sent]) == [self.BUFFER]
        applied.pull(follower)
        for holder in (follower, applied.held()):
            np.testing.assert_array_equal(holder.values[self.BUFFER], np.full(SIZES[self.BUFFER], 3.0, np.float32))

    @pytest.mark.parametrize("number", [1 / 3, -0.0, 1e-42, 3e38])
    @pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
    def test_what_all_hold_alike_keeps_its_bits(self, number: float, num_workers: int) -> None:
        applied, values = Applied(), np.full(SIZES[self.BUFFER], number, np.float32)
        applied.run([], averaged=[{self.BUFFER: values}] * num_workers)
        assert applied.values(self.BUFFER).tobytes() == values.tobytes()

    def test_it_counts_whatever_else_is_sent_of_the_block(self) -> None:
        applied = Applied()
        ones, sevens = (np.full(SIZES[self.BUFFER], value, np.float32) for value in (1.0, 7.0))
        applied.run([{self.BUFFER: sevens}], averaged=[{self.BUFFER: ones}])
        np.testing.assert_array_equal(applied.values(self.BUFFER), ones)


class TestOverTheWire:
    def send(self, worker: RawWorker, block: int, values: Floats, announced: int = 1, average: bool = False) -> Outcome:
        """One step that replaces the values of a block, sent twice; its outcome."""
        owner = worker.plan.blocks[block].shard
        frame = encode("fp32", values).replace(PLACEHOLDER.tobytes(), np.float32("nan").tobytes())
        frames = Frames(
            step=worker.step + 1, attempt=1, blocks=[block], lengths=[len(frame)], payload=frame, values=True
        )
        for _ in range(2):
            worker.streams[owner].send(frames=frames)
        for shard, stream in enumerate(worker.streams):
            commit = worker.commit_message(
                shard,
                None,
                verdict=Verdict.VERDICT_APPLY,
                num_samples=0.0,
                absent=worker.blocks_of(shard, pushed=True),
                num_values=announced if shard == owner else 0,
                average=average,
            )
            stream.send(commit=commit)
        return worker.finish()[owner]

    @pytest.mark.parametrize("block", [1, len(SIZES) - 1], ids=["trained", "frozen"])
    def test_a_step_may_replace_any_block_that_the_rank_owns_and_counts_once(self, block: int) -> None:
        with cluster() as servers:
            worker = RawWorker(servers[0].address)
            worker.start().activate()
            loaded = np.full(SIZES[block], 7.0, np.float32)
            outcome = self.send(worker, block, loaded)
            assert outcome.kind == Outcome.KIND_APPLIED
            store = servers[worker.plan.blocks[block].shard]._engine._loaded().store
            position = store.position_of[block]
            np.testing.assert_array_equal(store.array(store.blocks[position]), loaded)
            assert store.versions[position] == 1
            worker.close()

    @pytest.mark.parametrize(
        ("values", "announced", "code"),
        [
            (np.full(SIZES[1], PLACEHOLDER, np.float32), 1, ErrorCode.NON_FINITE),
            (np.zeros(SIZES[1], np.float32), 2, ErrorCode.BAD_STEP),
            (np.zeros(SIZES[1] + 1, np.float32), 1, ErrorCode.BAD_FRAME),
        ],
        ids=["not finite", "fewer than announced", "another shape"],
    )
    def test_values_that_cannot_be_taken_refuse_the_step_and_change_nothing(
        self, values: Floats, announced: int, code: ErrorCode
    ) -> None:
        with cluster() as servers:
            worker = RawWorker(servers[0].address)
            worker.start().activate()
            store = servers[1]._engine._loaded().store
            before = store.values.clone()
            assert self.send(worker, 1, values, announced).code == code
            assert bool((store.values == before).all())
            worker.close()

    def test_there_is_no_mean_of_what_is_optimised(self) -> None:
        with cluster() as servers:
            worker = RawWorker(servers[0].address)
            worker.start().activate()
            store = servers[1]._engine._loaded().store
            before = store.values.clone()
            outcome = self.send(worker, 1, np.zeros(SIZES[1], np.float32), average=True)
            assert outcome.code == ErrorCode.BAD_STEP
            assert bool((store.values == before).all())
            worker.close()

    def test_values_beyond_what_is_reserved_for_a_step_are_refused(self) -> None:
        with cluster(push_codec="topk:0.1+int8") as servers:
            worker = RawWorker(servers[0].address)
            worker.start().activate()
            state = servers[1]._engine._loaded().state
            state._most_value_bytes = 8
            assert self.send(worker, 1, np.zeros(SIZES[1], np.float32)).code == ErrorCode.OVER_BUDGET
            worker.close()


def test_room_for_values_is_that_of_a_step_of_the_jobs_codec_or_a_little() -> None:
    sizes = (60_000, 50_000, 100)
    most = Applied(sizes=sizes, push_codec="fp32").shard.state._most_value_bytes
    assert most == sum(parse_codec("fp32").frame_bound(size) for size in sizes[:-1])
    assert Applied(sizes=sizes, push_codec="topk:0.01+int8").shard.state._most_value_bytes == parse_codec(
        "fp32"
    ).frame_bound(60_000)
    assert Applied().shard.state._most_value_bytes == 1 << 17
