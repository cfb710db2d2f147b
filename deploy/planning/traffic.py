"""Bytes that a step moves, worked out from the messages themselves: the same heads, packed as workers and servers pack them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...compression.any_bits import ANY_BITS
from ...compression.codec import Codec
from ...compression.encoder_spec import EncoderSpec, parse_pull_codec
from ...compression.parameter_encoders import ParameterEncoders
from ...compression.spec import WHOLE_VALUE_CODECS
from ...protos.common_pb2 import OptimizerSpecification, ParameterGroup
from ...protos.payloads import joined_bytes
from ...protos.shard_pb2 import Commit, Frames, Outcome, PullDone, ShardMessage, Values, Verdict, WorkerMessage
from ...ps_server.blocks import OwnedBlock, bundles_of
from ...ps_server.config import JobSettings
from ...ps_server.published_bundle import WASTE
from ...ps_server.shard import BUNDLE_ELEMENTS
from ...worker.gradient_encoder import names_of
from ...worker.local_state import most_bytes_of_a_kind
from ...worker.plan import ShardingPlan
from ...worker.value_pushes import LEAST_ROOM_BYTES

TYPICAL_NUMBER = 1000
"""Of a step or a version: numbers take one byte below 128 and two below 16384."""


@dataclass(frozen=True)
class Band:
    """Fewest and most bytes; one number for dense codecs."""

    least: int = 0
    most: int = 0

    def __add__(self, other: "Band") -> "Band":
        return Band(self.least + other.least, self.most + other.most)

    @property
    def exact(self) -> bool:
        return self.least == self.most


def total(bands: Iterable[Band]) -> Band:
    return sum(bands, Band())


class Traffic:
    """Bytes between ranks, which own some blocks each, and shards."""

    def __init__(
        self, plan: ShardingPlan, encoders: ParameterEncoders, job: JobSettings, optimizer: OptimizerSpecification
    ) -> None:
        self._plan = plan
        self._job = job
        self._optimizer = optimizer
        self._encoder_of_entry: list[EncoderSpec] = [encoders.of(names_of(e), e.shape) for e in plan.entries]
        self._pull_codec = parse_pull_codec(job.pull_codec)
        self.pulls_differences = self._pull_codec.spec not in WHOLE_VALUE_CODECS

    def encoder_of(self, block: int) -> EncoderSpec:
        return self._encoder_of_entry[self._plan.blocks[block].entry]

    def optimised(self, blocks: Iterable[int]) -> list[int]:
        """Those that gradients are pushed for."""
        return [block for block in blocks if self._plan.entries[self._plan.blocks[block].entry].group >= 0]

    def of_shard(self, blocks: Iterable[int], shard: int) -> list[int]:
        return [block for block in blocks if self._plan.blocks[block].shard == shard]

    def frame_bytes(self, blocks: Iterable[int]) -> Band:
        """Frames alone, of one step."""
        return total(self._frame(block) for block in self.optimised(blocks))

    def pushed(self, owned: Sequence[int], shard: int) -> Band:
        """Messages of frames that one rank sends in a step, as the shard counts them."""
        bands = []
        # encoders take gradients as backward makes them: the last layer's first
        blocks = sorted(self.of_shard(self.optimised(owned), shard), key=lambda i: (-self._plan.blocks[i].entry, i))
        for message in self._packed(blocks, self.largest_message_bytes(self.of_shard(owned, shard))):
            frames = [self._frame(block) for block in message]
            bands.append(
                Band(
                    _frames_bytes(message, [frame.least for frame in frames]),
                    _frames_bytes(message, [frame.most for frame in frames]),
                )
            )
        return total(bands)

    def pulled(self, owned: Sequence[int], shard: int) -> Band:
        """Messages of values that one rank gets in a step, as the shard counts them: what is optimised, each of it changed."""
        wanted = set(self.optimised(owned))
        return total(
            self._values(blocks, self._pull_codec, self.pulls_differences) for blocks in self._bundled(wanted, shard)
        )

    def pulled_first(self, owned: Sequence[int], shard: int) -> Band:
        """Messages of values when a worker comes in and holds nothing yet."""
        codec = parse_pull_codec("fp32") if self.pulls_differences else self._pull_codec
        return total(self._values(blocks, codec, False) for blocks in self._bundled(set(owned), shard))

    def replaced_bytes(self, shard: int) -> int:
        """What a shard keeps at most of frames that newer ones have replaced: in a message of several blocks, where a step
        changes some of them and others stay the newest."""
        if self.pulls_differences:
            return 0
        several = [bundle for bundle in self._bundles[shard] if len(bundle) > 1 and self.optimised(bundle)]
        return round(WASTE * total(self._values(blocks, self._pull_codec, False) for blocks in several).most)

    def moved_bytes(self, shard: int, num_ranks: int) -> int:
        """What the first worker, of this many ranks, sends a shard in a step at most beside its gradients: what no optimizer
        touches, if the script moves it (running statistics, teachers); see `LocalState`."""
        blocks = [block for block in self._plan.blocks_of_shard[shard] if not self.optimised([block])]
        if not blocks:
            return 0
        gradients = [self.frame_bytes(of_shard).most for of_shard in self._plan.blocks_of_shard]
        room = sum(max(of_shard, LEAST_ROOM_BYTES) for of_shard in gradients)
        lengths = [ANY_BITS.frame_bound(self._plan.blocks[block].num_elements) for block in blocks]
        return min(_frames_bytes(blocks, lengths, values=True), round(2 * num_ranks * most_bytes_of_a_kind(room)))

    def control_bytes(self, owned: Sequence[int], shard: int) -> int:
        """Commit, outcome and end of the pull."""
        versions = [TYPICAL_NUMBER] * len(self.of_shard(owned, shard))
        groups = [ParameterGroup(numbers=group.numbers) for group in self._optimizer.groups]
        number = TYPICAL_NUMBER
        commit = Commit(
            step=number, attempt=1, num_frames=len(versions), verdict=Verdict.VERDICT_APPLY, num_samples=1.0, scale=1.0,
            groups=groups, base_versions=versions, round=number,
        )  # fmt: skip
        outcome = Outcome(step=number, kind=Outcome.KIND_APPLIED, round=number)
        done = PullDone(step=number, round=number, clock=number, smallest_clock=number)
        return (
            WorkerMessage(commit=commit).ByteSize()
            + ShardMessage(outcome=outcome).ByteSize()
            + ShardMessage(pull_done=done).ByteSize()
        )

    def largest_message_bytes(self, blocks: Iterable[int]) -> int:
        """Of frames; an encoder's thread has a buffer of this size for each shard."""
        return max([self._job.message_bytes, *(self._frame(block).most for block in blocks)])

    def _bundled(self, wanted: set[int], shard: int) -> Iterator[list[int]]:
        """Of these blocks, those of each bundle that has any."""
        chosen = ([block for block in bundle if block in wanted] for bundle in self._bundles[shard])
        return (blocks for blocks in chosen if blocks)

    def _values(self, blocks: Sequence[int], codec: Codec, delta: bool) -> Band:
        """One message; what no optimizer touches goes bit for bit."""
        optimised = set(self.optimised(blocks))
        each = [(codec if block in optimised else ANY_BITS, self._plan.blocks[block].num_elements) for block in blocks]
        return Band(
            _values_bytes(blocks, [of_it.frame_least(n) for of_it, n in each], delta),
            _values_bytes(blocks, [of_it.frame_bound(n) for of_it, n in each], delta),
        )

    @cached_property
    def _bundles(self) -> list[list[list[int]]]:
        """Block ids of each bundle of each shard."""
        bundles = []
        for ids in self._plan.blocks_of_shard:
            owned, start = [], 0
            for block in ids:
                stop = start + self._plan.blocks[block].num_elements
                owned.append(OwnedBlock(block, start, stop, -1, ""))
                start = stop
            bundles.append([[ids[i] for i in bundle] for bundle in bundles_of(owned, BUNDLE_ELEMENTS)])
        return bundles

    def _frame(self, block: int) -> Band:
        encoder, size = self.encoder_of(block), self._plan.blocks[block].num_elements
        return Band(encoder.frame_least(size), encoder.frame_bound(size))

    def _packed(self, blocks: Sequence[int], capacity_bytes: int) -> Iterator[list[int]]:
        """Frames of one shard, gathered until the next might not fit."""
        message: list[int] = []
        room = capacity_bytes
        for block in blocks:
            bound = self._frame(block).most
            if message and bound > room:
                yield message
                message, room = [], capacity_bytes
            message.append(block)
            room -= bound
        if message:
            yield message


def _frames_bytes(blocks: Sequence[int], lengths: Sequence[int], values: bool = False) -> int:
    head = Frames(step=TYPICAL_NUMBER, attempt=1, blocks=blocks, lengths=lengths, values=values).SerializeToString()
    return joined_bytes(WorkerMessage.FRAMES_FIELD_NUMBER, head, Frames.PAYLOAD_FIELD_NUMBER, sum(lengths))


def _values_bytes(blocks: Sequence[int], lengths: Sequence[int], delta: bool) -> int:
    versions = [TYPICAL_NUMBER] * len(blocks)
    head = Values(blocks=blocks, versions=versions, lengths=lengths, delta=delta).SerializeToString()
    return joined_bytes(ShardMessage.VALUES_FIELD_NUMBER, head, Values.PAYLOAD_FIELD_NUMBER, sum(lengths))
