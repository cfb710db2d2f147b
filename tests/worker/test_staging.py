"""Gradients that are sent early are sent again unless they are still the same."""

import logging
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pushpull.compression.frame import parse_frame
from pushpull.compression.parameter_encoders import parse_parameter_encoders
from pushpull.protos.errors import NonFiniteError
from pushpull.protos.shard_pb2 import WorkerMessage
from pushpull.worker.block_encoding import BlockEncoding, encoding_of
from pushpull.worker.plan import TableEntry, make_plan
from pushpull.worker.ranks.gradients import RankGradients
from pushpull.worker.ranks.group import SoleRank
from pushpull.worker.ranks.rank_blocks import all_blocks
from pushpull.worker.staging import Stager, StagingSettings

from .fake_servers import wait_until

PLAN = make_plan([TableEntry("weight", (30, 40), True, group=0), TableEntry("bias", (40,), True, group=0)], 2, 100)
GRADIENTS = RankGradients(SoleRank(), {entry: torch.zeros(shaped.shape) for entry, shaped in enumerate(PLAN.entries)})


class Sink:
    """Keeps the messages of the highest attempt."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []

    def send(self, shard: int, message: bytes) -> None:
        self.messages.append((shard, message))

    def restart(self) -> None:
        self.messages.clear()

    def decoded(self) -> tuple[set[int], dict[int, NDArray[np.float32]]]:
        """Attempts seen, and each block's values."""
        attempts, values = set(), {}
        for shard, raw in self.messages:
            frames = WorkerMessage.FromString(raw).frames
            attempts.add(frames.attempt)
            first = 0
            for number, length in zip(frames.blocks, frames.lengths, strict=True):
                block = PLAN.blocks[number]
                assert block.shard == shard
                assert number not in values
                values[number] = np.empty(block.num_elements, np.float32)
                parse_frame(frames.payload[first : first + length], block.num_elements).decode_into(values[number])
                first += length
        return attempts, values


class Stage:
    """A stager, its sink and gradients to play with."""

    def __init__(self, stager: Stager, sink: Sink, encoding: BlockEncoding) -> None:
        self.stager, self.sink, self.encoding = stager, sink, encoding
        self.gradients = {0: torch.randn(30, 40), 1: torch.randn(40)}
        stager.open(1, seed=0)

    def backward(self) -> None:
        for entry, gradient in self.gradients.items():
            self.stager.on_gradient(entry, gradient)

    def wait_until_encoded(self) -> None:
        blocks = {block.id for block in PLAN.blocks}
        wait_until(lambda: self.stager._checksums.keys() == blocks)

    def sent(self) -> dict[int, torch.Tensor]:
        """What arrived, put together again."""
        _, values = self.sink.decoded()
        whole = {}
        for entry in {PLAN.blocks[number].entry for number in values}:
            parts = [values[block.id] for block in PLAN.blocks_of_entry[entry]]
            whole[entry] = torch.from_numpy(np.concatenate(parts)).view(PLAN.entries[entry].shape)
        return whole

    def attempts(self) -> set[int]:
        return self.sink.decoded()[0]


@pytest.fixture
def make_stage() -> Iterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(codec: str = "fp32", on_device: bool = False, **settings: object) -> Stage:
        _, encoding = encoding_of(PLAN, parse_parameter_encoders(codec), on_device)
        sink = Sink()
        chosen = {"message_bytes": 1000, "num_threads": 2, "early": True, **settings}
        stager = Stager(all_blocks(PLAN), GRADIENTS, encoding, sink, StagingSettings(**chosen))  # type: ignore[arg-type]
        stages.append(Stage(stager, sink, encoding))
        return stages[-1]

    yield make
    for stage in stages:
        stage.stager.close()


def assert_sent(stage: Stage, expected: dict[int, torch.Tensor]) -> None:
    sent = stage.sent()
    assert sent.keys() == expected.keys()
    assert all(torch.equal(sent[entry], expected[entry]) for entry in expected)


def test_early_frames_that_still_hold_are_not_sent_again(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.backward()
    staged = stage.stager.finish(stage.gradients, 1.0)
    assert (staged.attempt, set(staged.entries), stage.stager.num_restaged) == (1, {0, 1}, 0)
    assert stage.attempts() == {1}
    assert_sent(stage, stage.gradients)


def clipped(stage: Stage) -> None:
    for gradient in stage.gradients.values():
        gradient.mul_(0.5)


def replaced(stage: Stage) -> None:
    stage.gradients[1] = stage.gradients[1].clone()


def removed(stage: Stage) -> None:
    del stage.gradients[1]


@pytest.mark.parametrize("change", [clipped, replaced, removed])
def test_early_frames_of_other_gradients_are_sent_again_under_a_higher_attempt(
    make_stage: Callable[..., Stage], caplog: pytest.LogCaptureFixture, change: Callable[[Stage], None]
) -> None:
    stage = make_stage()
    stage.backward()
    change(stage)
    with caplog.at_level(logging.WARNING):
        staged = stage.stager.finish(stage.gradients, 1.0)
    assert (staged.attempt, stage.stager.num_restaged) == (2, 1)
    assert stage.attempts() == {2}
    assert_sent(stage, stage.gradients)
    assert "changed between backward" in caplog.text


def test_after_a_wrong_guess_nothing_is_sent_early_any_more(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.backward()
    clipped(stage)
    stage.stager.finish(stage.gradients, 1.0)
    stage.stager.settled()
    stage.sink.restart()
    stage.stager.open(2, seed=0)
    stage.backward()
    clipped(stage)
    staged = stage.stager.finish(stage.gradients, 1.0)
    assert (staged.attempt, stage.stager.num_restaged) == (1, 1)
    assert_sent(stage, stage.gradients)


def test_gradients_that_changed_without_a_trace_are_sent_again(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.backward()
    assert stage.stager.finish(stage.gradients, 1.0, unchanged=False).attempt == 2


def through_data(gradient: torch.Tensor) -> None:
    gradient.data.clamp_(-0.5, 0.5)


def through_numpy(gradient: torch.Tensor) -> None:
    gradient.numpy()[3] *= 2


def one_sign(gradient: torch.Tensor) -> None:
    gradient.data.view(-1)[-1:].neg_()


def two_neighbours_swapped(gradient: torch.Tensor) -> None:
    flat = gradient.numpy().reshape(-1)
    flat[[10, 11]] = flat[[11, 10]]


def zeroed_through_a_view_that_was_kept(gradient: torch.Tensor) -> None:
    memoryview(gradient.numpy()).cast("B").cast("f")[5] = 0.0


def other_memory(gradient: torch.Tensor) -> None:
    gradient.data = gradient.data * 0.1


def foreach(gradient: torch.Tensor) -> None:
    torch._foreach_mul_([gradient.data], 0.1)


WITHOUT_A_TRACE = [
    through_data,
    through_numpy,
    one_sign,
    two_neighbours_swapped,
    zeroed_through_a_view_that_was_kept,
    other_memory,
    foreach,
]


@pytest.mark.parametrize("change", WITHOUT_A_TRACE)
@pytest.mark.parametrize("entry", [0, 1])
def test_what_is_written_past_torchs_version_counter_is_noticed(
    make_stage: Callable[..., Stage], change: Callable[[torch.Tensor], None], entry: int
) -> None:
    stage = make_stage()
    stage.backward()
    stage.wait_until_encoded()
    version = stage.gradients[entry]._version
    change(stage.gradients[entry])
    assert stage.gradients[entry]._version == version
    assert stage.stager.finish(stage.gradients, 1.0).attempt == 2
    assert_sent(stage, stage.gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_that_have_to_be_copied_are_watched_as_well(
    make_stage: Callable[..., Stage], dtype: torch.dtype, transposed: bool
) -> None:
    stage = make_stage()
    whole = torch.randn(40, 30, dtype=dtype).t() if transposed else torch.randn(30, 40, dtype=dtype)
    stage.gradients[0] = whole
    stage.backward()
    assert stage.stager.finish(stage.gradients, 1.0).attempt == 1
    stage.sink.restart()
    stage.stager.open(2, seed=0)
    stage.backward()
    stage.wait_until_encoded()
    stage.gradients[0].data[3, 7] += 1.0
    assert stage.stager.finish(stage.gradients, 1.0).attempt == 2
    assert_sent(stage, {entry: gradient.float() for entry, gradient in stage.gradients.items()})


def test_the_sum_of_micro_batches_is_watched_as_well(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(accumulate=2)
    stage.backward()
    through_data(stage.gradients[0])  # ahead of the last backward: part of what is sent early
    stage.backward()
    stage.wait_until_encoded()
    through_data(stage.gradients[1])
    assert stage.stager.finish(stage.gradients, 1.0).attempt == 2
    assert_sent(stage, stage.gradients)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_gradient_that_changes_while_it_is_encoded_is_sent_again(
    make_stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch, on_device: bool
) -> None:
    """Of a block either the values before are noted and those behind encoded, or both are of the same moment."""
    stage = make_stage(on_device=on_device, num_threads=1)
    encode = stage.encoding.encode

    def change_and_encode(block: int, values: object, out: NDArray[np.uint8], seed: int) -> int:
        if stage.stager.num_restaged == 0:
            stage.gradients[PLAN.blocks[block].entry].data.mul_(-1)  # another thread's hook, say
        return encode(block, values, out, seed)

    monkeypatch.setattr(stage.encoding, "encode", change_and_encode)
    stage.backward()
    assert stage.stager.finish(stage.gradients, 1.0).attempt == 2
    assert_sent(stage, stage.gradients)


def test_a_gradient_that_was_made_finite_in_time_is_sent(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.gradients[0][3, 4] = float("nan")
    stage.backward()
    stage.gradients[0].data.nan_to_num_()
    stage.stager.finish(stage.gradients, 1.0)
    assert_sent(stage, stage.gradients)


def test_micro_batches_are_sent_with_the_last_one(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(accumulate=2)
    stage.backward()
    clipped(stage)
    stage.backward()
    assert stage.stager.finish(stage.gradients, 1.0).attempt == 1
    assert_sent(stage, stage.gradients)


def test_scaled_gradients_are_sent_unscaled(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.stager.scale_early_by(lambda: 0.25)
    stage.backward()
    assert stage.stager.finish(stage.gradients, 0.25).attempt == 1
    assert_sent(stage, {entry: gradient * 0.25 for entry, gradient in stage.gradients.items()})


def test_another_scale_than_the_early_one_sends_again(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.backward()
    assert stage.stager.finish(stage.gradients, 0.5).attempt == 2
    assert_sent(stage, {entry: gradient * 0.5 for entry, gradient in stage.gradients.items()})


def test_a_step_opened_again_goes_on_under_a_higher_attempt(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.backward()
    stage.stager.suspend()
    stage.stager.open(1, seed=0)
    assert stage.stager.finish(stage.gradients, 1.0).attempt > 2
    assert_sent(stage, stage.gradients)


def test_nothing_is_taken_while_suspended(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.stager.suspend()
    stage.backward()
    assert stage.stager.finish({}, 1.0).entries == frozenset()
    assert stage.sink.messages == []


def test_micro_batches_go_on_behind_an_interruption(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(accumulate=2)
    stage.backward()
    stage.stager.suspend()
    stage.stager.resume()
    stage.backward()
    wait_until(lambda: len(stage.sink.messages) > 0)  # early: `finish` has not been called
    assert stage.stager.finish(stage.gradients, 1.0).attempt == 1
    assert_sent(stage, stage.gradients)


def test_what_was_sent_before_an_interruption_is_sent_again_under_a_higher_attempt(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage()
    stage.backward()
    stage.stager.suspend()
    stage.stager.resume()
    assert (stage.stager.finish(stage.gradients, 1.0).attempt, stage.stager.num_restaged) == (2, 0)
    assert_sent(stage, stage.gradients)


@pytest.mark.parametrize("early", [True, False])
def test_a_gradient_that_is_not_finite_names_its_parameter(make_stage: Callable[..., Stage], early: bool) -> None:
    stage = make_stage(early=early)
    stage.gradients[0][3, 4] = float("inf")
    stage.backward()
    with pytest.raises(NonFiniteError, match="parameter weight is not finite"):
        stage.stager.finish(stage.gradients, 1.0)
    assert stage.stager.abandon() == 2


def test_restaging_reads_the_untouched_residual(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage("int8")
    stage.backward()
    clipped(stage)
    stage.stager.finish(stage.gradients, 1.0)
    once = stage.sent()
    fresh = make_stage("int8", early=False)
    fresh.stager.finish(stage.gradients, 1.0)
    assert_sent(fresh, once)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_gradients_of_other_types_travel_as_float32(make_stage: Callable[..., Stage], dtype: torch.dtype) -> None:
    stage = make_stage()
    gradients = {entry: gradient.to(dtype) for entry, gradient in stage.gradients.items()}
    stage.stager.finish(gradients, 1.0)
    assert_sent(stage, {entry: gradient.float() for entry, gradient in gradients.items()})


def test_gradients_in_another_memory_order_are_read_in_their_own(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.gradients[0] = torch.randn(40, 30).t()
    stage.gradients[1] = torch.ones(1).expand(40)
    stage.stager.finish(stage.gradients, 1.0)
    assert_sent(stage, stage.gradients)


def test_sparse_gradients_are_sent_whole(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    dense = torch.zeros(30, 40)
    dense[7] = 1.0
    stage.gradients[0] = dense.to_sparse(1)
    stage.backward()
    stage.stager.finish(stage.gradients, 1.0)
    assert_sent(stage, {0: dense, 1: stage.gradients[1]})


def test_the_norm_is_that_of_all_gradients(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(measure_norm=True)
    stage.backward()
    squares = stage.stager.finish(stage.gradients, 1.0).squares
    expected = sum(float(gradient.double().square().sum()) for gradient in stage.gradients.values())
    assert squares == pytest.approx(expected, rel=1e-12)


def test_messages_stay_below_their_target_size(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(num_threads=1)
    stage.stager.finish(stage.gradients, 1.0)
    payloads = [len(WorkerMessage.FromString(raw).frames.payload) for _, raw in stage.sink.messages]
    assert max(payloads) <= 1000
    assert len(payloads) < len(PLAN.blocks)
