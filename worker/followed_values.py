"""Two ways of taking published values: whole, or as differences to the version before."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..compression.codec import Codec
from ..compression.frame import Frame
from ..compression.spec import WHOLE_VALUE_CODECS
from ..protos.errors import BadRequestError
from .plan import PlanBlock
from .tensor_memory import TensorMemory


class Receiver(Protocol):
    """Puts decoded values where they belong. Called from several threads for different blocks."""

    def replace(self, block: PlanBlock, frame: Frame) -> None:
        """The frame is the block's value."""

    def add(self, block: PlanBlock, frame: Frame, num_versions: int) -> None:
        """The frame is what the newest of `num_versions` versions beyond the one held adds to the one before it."""


class WholeValues:
    """Decodes straight into the tensors."""

    def __init__(self, memory: TensorMemory) -> None:
        self._memory = memory

    def replace(self, block: PlanBlock, frame: Frame) -> None:
        self._memory.write(block, frame)

    def add(self, block: PlanBlock, frame: Frame, num_versions: int) -> None:
        raise BadRequestError(f"a difference for block {block.id}, but the job's pull codec sends whole values")


class FollowedValues:
    """Keeps the published values in FP32, bit for bit as the servers do, whatever is done to the tensors."""

    def __init__(self, memory: TensorMemory, num_blocks: int) -> None:
        self._memory = memory
        self._published: list[NDArray[np.float32] | None] = [None] * num_blocks

    def replace(self, block: PlanBlock, frame: Frame) -> None:
        values = self._published[block.id]
        if values is None:
            values = self._published[block.id] = np.empty(block.num_elements, np.float32)
        frame.decode_into(values)
        self._memory.copy(block, values)

    def add(self, block: PlanBlock, frame: Frame, num_versions: int) -> None:
        if num_versions <= 0:
            return  # told again after a lost connection
        values = self._published[block.id]
        if values is None or num_versions != 1:
            raise BadRequestError(
                f"a difference for block {block.id} that builds on a version which this worker does not hold"
            )
        frame.add_to(values)
        self._memory.copy(block, values)


def receiver_for(pull_codec: Codec, memory: TensorMemory, num_blocks: int) -> Receiver:
    """The way that the job's pull codec needs."""
    if pull_codec.spec in WHOLE_VALUE_CODECS:
        return WholeValues(memory)
    return FollowedValues(memory, num_blocks)
