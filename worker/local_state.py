"""What no optimizer touches, but the script moves (running statistics, teachers): sent now and then, for later joiners."""

from collections import deque
from collections.abc import Callable, Sequence

from .plan import PlanBlock
from .ranks.model import RankModel
from .value_messages import frame_bytes
from .value_pushes import ValuePush, room_of_step, steps_of

SHARE_OF_STEP = 0.01
"""Bytes of buffers that are looked at and sent, to the bytes of a step's gradients; as much again for frozen parameters."""
ALWAYS_BYTES = 1 << 16
"""So much of either in every step, however small the model is."""


def most_bytes_of_a_kind(room_bytes: int) -> float:
    """Of buffers, and as many again of frozen parameters, that one rank sends in a step; `room_bytes`: see `room_of_step`."""
    return max(ALWAYS_BYTES, SHARE_OF_STEP * room_bytes)


class _Rotation:
    """Goes through blocks again and again, a bounded number of bytes at a time."""

    def __init__(self, blocks: Sequence[PlanBlock], bytes_each_time: float) -> None:
        self._waiting = deque(blocks)
        self._bytes_each_time = bytes_each_time
        self._credit = 0.0

    def next(self) -> list[PlanBlock]:
        """Those whose turn it is: none twice, and none ahead of its time because it is large."""
        self._credit += self._bytes_each_time
        taken: list[PlanBlock] = []
        while self._waiting and frame_bytes(self._waiting[0]) <= self._credit:
            self._credit -= frame_bytes(self._waiting[0])
            taken.append(self._waiting.popleft())
        if not self._waiting:
            self._credit = 0.0
        self._waiting.extend(taken)
        return taken


class LocalState:
    """The newest values of this rank's blocks in no group. One live worker sends its own: they are not averaged."""

    def __init__(self, model: RankModel, bounds: Sequence[int], is_first: Callable[[], bool]) -> None:
        """`bounds`: most bytes of each block's gradient; `is_first`: whether this worker is the one."""
        self._own = model.blocks
        self._memory = model.memory
        self._bounds = bounds
        self._is_first = is_first
        blocks = [block for block in self._own.blocks.values() if self._own.entries[block.entry].group < 0]
        budget = most_bytes_of_a_kind(sum(room_of_step(self._own, bounds)))
        buffers = [block for block in blocks if block.entry >= model.num_parameters]
        frozen = [block for block in blocks if block.entry < model.num_parameters]
        self._rotations = [_Rotation(kind, budget) for kind in (buffers, frozen)]

    def due(self) -> ValuePush:
        """What this step brings along: what has changed, since it was sent, of the blocks whose turn it is."""
        looked_at = [block for rotation in self._rotations for block in rotation.next()]
        changed = self._memory.changed(looked_at) if self._is_first() else []
        return ValuePush(self._own, next(iter(steps_of(self._own, self._memory, changed, self._bounds)), ()))

    def sent(self, push: ValuePush) -> None:
        """The servers have it."""
        for block, values in push.blocks:
            self._memory.note(block, values)
