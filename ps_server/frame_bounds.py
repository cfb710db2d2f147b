"""How many bytes one frame of each block may have: what is staged stays inside what a join has reserved. Pure."""

from collections.abc import Sequence

from ..compression.parameter_encoders import parse_parameter_encoders
from ..compression.spec import parse_codec
from ..protos.common_pb2 import Plan
from ..protos.errors import FrameError
from .blocks import OwnedBlock
from .config import JobSettings

INITIAL_CODEC = "fp32"
LEAST_ROOM_BYTES = 1 << 17
"""Of values that a step may bring, however small its gradients are; part of the wire contract."""


class FrameBounds:
    """Of the blocks of one shard, by block id: of gradients by the job's encoders, of initial values by FP32."""

    def __init__(self, settings: JobSettings, plan: Plan, blocks: Sequence[OwnedBlock]) -> None:
        encoders = parse_parameter_encoders(settings.push_codec, settings.push_overrides)
        tables = [encoders.of((each.name, *each.aliases), each.shape) for each in plan.parameters]
        initial = parse_codec(INITIAL_CODEC)
        self._pushed = {b.block_id: tables[b.parameter_index].frame_bound(b.num_elements) for b in blocks}
        self._initial = {b.block_id: initial.frame_bound(b.num_elements) for b in blocks}
        reserved = sum(self._pushed[block.block_id] for block in blocks if block.group >= 0)
        self.most_value_bytes = max([reserved, LEAST_ROOM_BYTES, *self._initial.values()])
        """Of frames of values in a step: what is reserved for its gradients, but room for one block at least."""
        self._codecs = {b.block_id: tables[b.parameter_index].spec for b in blocks}

    def check_pushed(self, block_id: int, num_bytes: int) -> None:
        """Of a gradient; raises FrameError. A block that is not of this shard is for others to refuse."""
        most = self._pushed.get(block_id, num_bytes)
        if num_bytes > most:
            raise FrameError(
                f"{num_bytes} bytes are more than {self._codecs[block_id]}, the job's codec, needs: {most}"
            )

    def check_initial(self, block_id: int, num_bytes: int) -> None:
        """Of an initial value; raises FrameError."""
        most = self._initial.get(block_id, num_bytes)
        if num_bytes > most:
            raise FrameError(f"{num_bytes} bytes are more than an initial value needs: {most}")
