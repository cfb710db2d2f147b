"""Values that the script has put into the model, on their way to become the servers' own."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .plan import PlanBlock
from .ranks.model import RankModel
from .ranks.rank_blocks import RankBlocks
from .tensor_memory import Floats, TensorMemory
from .value_messages import frame_bytes, gathered
from .wire import frames_message

LEAST_ROOM_BYTES = 1 << 17
"""Of values that a shard takes in a step; part of the wire contract."""


@dataclass(frozen=True)
class ValuePush:
    """What one step replaces: copies, so that values may be pulled over them before they are sent, or sent again."""

    own: RankBlocks
    blocks: tuple[tuple[PlanBlock, Floats], ...] = ()
    average: bool = False
    """Their mean over the workers that ask for it in the same round counts."""

    def without(self, shards: Collection[int]) -> "ValuePush":
        """The same but for what these shards have already."""
        return replace(
            self, blocks=tuple((block, values) for block, values in self.blocks if block.shard not in shards)
        )

    def num_blocks(self) -> list[int]:
        """By shard."""
        counts = [0] * self.own.num_shards
        for block, _ in self.blocks:
            counts[block.shard] += 1
        return counts

    def messages(self, step: int, attempt: int, message_bytes: int) -> list[tuple[int, bytes]]:
        """Messages of frames, each with its shard.

        Raises:
            NonFiniteError: names the parameter.
        """
        messages: list[tuple[int, bytes]] = []
        for shard in range(self.own.num_shards):
            of_shard = [(block, values) for block, values in self.blocks if block.shard == shard]
            for got in gathered(of_shard, self.own.entries, message_bytes):
                raw = frames_message(step, attempt, got.blocks, got.lengths, got.payload, values=True)
                messages.append((shard, raw))
        return messages


def value_pushes(model: RankModel, changed: Iterable[PlanBlock], bounds: Sequence[int]) -> list[ValuePush]:
    """What these blocks of the rank hold now, in as many steps as it takes, as many on every rank of the worker.

    A shard has room for one step of each worker, encoded as gradients are; `bounds` are most bytes of each block's frame then.
    """
    own = model.blocks
    pushes = [ValuePush(own, step) for step in steps_of(own, model.memory, changed, bounds)]
    most = -model.ranks.smallest([-len(pushes)])[0]
    return pushes + [ValuePush(own)] * (most - len(pushes))


def room_of_step(own: RankBlocks, bounds: Sequence[int]) -> list[int]:
    """Bytes of values of this rank that each shard takes in a step: as many as of its gradients, or LEAST_ROOM_BYTES."""
    room = [0] * own.num_shards
    for block in own.blocks.values():
        room[block.shard] += bounds[block.id] if own.entries[block.entry].group >= 0 else 0
    return [max(bytes_of_shard, LEAST_ROOM_BYTES) for bytes_of_shard in room]


def steps_of(
    own: RankBlocks, memory: TensorMemory, changed: Iterable[PlanBlock], bounds: Sequence[int]
) -> Iterator[tuple[tuple[PlanBlock, Floats], ...]]:
    """Copies of what these blocks hold now, in the portions that a step has room for."""
    room = room_of_step(own, bounds)
    left, portion = list(room), list[tuple[PlanBlock, Floats]]()
    for block in changed:
        if block.id not in own.blocks:
            continue  # a copy: its owner pushes it
        size = frame_bytes(block)
        if portion and size > left[block.shard]:
            yield tuple(portion)
            left, portion = list(room), []
        left[block.shard] -= size
        portion.append((block, memory.values(block).copy()))
    if portion:
        yield tuple(portion)
