"""Which codec encodes which block of a worker's gradients, and what the codecs left out so far."""

import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ..compression.block_memory import State
from ..compression.cuda.device_memory import DeviceEncoder
from ..compression.encoder import Encoder
from ..compression.encoder_spec import EncoderSpec
from ..compression.parameter_encoders import ParameterEncoders, parse_parameter_encoders
from ..protos.common_pb2 import JobSpecification
from ..protos.errors import SettingError
from .plan import ShardingPlan, TableEntry

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
AnyEncoder = Encoder | DeviceEncoder


class GradientEncoder:
    """The job's encoders over the blocks of a plan: one for each specification, made by `build`.

    Different blocks may be encoded by different threads at once. What a frame changes in an encoder's memory stays
    pending until `commit`.
    """

    def __init__(
        self,
        plan: ShardingPlan,
        encoders: ParameterEncoders,
        build: Callable[[EncoderSpec], AnyEncoder] = EncoderSpec.build,
    ) -> None:
        specs = [encoders.of(names_of(entry), entry.shape) for entry in plan.entries]
        self._encoders = {spec: build(spec) for spec in dict.fromkeys(specs)}
        self._of_block = [self._encoders[specs[block.entry]] for block in plan.blocks]
        self.bounds = [specs[block.entry].frame_bound(block.num_elements) for block in plan.blocks]
        """Most bytes of each block's frame."""

    def of(self, block: int) -> AnyEncoder:
        """The encoder of a block."""
        return self._of_block[block]

    def encode(self, block: int, values: Floats, out: Bytes, seed: int) -> int:
        """Encodes values, and what is remembered, into `out`; returns the bytes written. Raises NonFiniteError.

        Only where `build` makes encoders of the host: asking each of them what it is, is slow while threads want the
        interpreter.
        """
        return cast(Encoder, self._of_block[block]).encode(block, values, out, seed)

    def commit(self, blocks: Iterable[int]) -> None:
        """These frames count."""
        for encoder, keys in self._by_encoder(blocks):
            encoder.commit(keys)

    def discard(self, blocks: Iterable[int]) -> None:
        """These frames do not count: their gradient is dropped, the memory is as before."""
        for encoder, keys in self._by_encoder(blocks):
            encoder.discard(keys)

    def residual_norm(self) -> float:
        """Euclidean norm of everything left out so far, in gradient units."""
        return float(sum(encoder.residual_norm() ** 2 for encoder in self._encoders.values()) ** 0.5)

    def state_dict(self) -> dict[int, State]:
        """Committed memory by block id."""
        return {key: state for encoder in self._encoders.values() for key, state in encoder.state_dict().items()}

    def load_state_dict(self, state: Mapping[int, State]) -> None:
        """Replaces the memory; each encoder takes what it keeps of its blocks."""
        for encoder in self._encoders.values():
            encoder.load_state_dict({key: value for key, value in state.items() if self._of_block[key] is encoder})

    def _by_encoder(self, blocks: Iterable[int]) -> list[tuple[AnyEncoder, list[int]]]:
        keys = list(blocks)
        return [(e, [key for key in keys if self._of_block[key] is e]) for e in self._encoders.values()]


def names_of(entry: TableEntry) -> list[str]:
    """Every name that an override may call a tensor by."""
    return [entry.name, *entry.aliases]


def encoders_of(job: JobSpecification) -> ParameterEncoders:
    """The job's push codec and its overrides."""
    return parse_parameter_encoders(
        job.push_codec, [(override.pattern, override.codec) for override in job.push_overrides]
    )


def check_overrides(encoders: ParameterEncoders, parameters: Iterable[TableEntry]) -> None:
    """Raises SettingError for an override that matches none of the model's parameters."""
    names = [name for entry in parameters for name in names_of(entry)]
    for pattern in encoders.unmatched(names):
        near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise SettingError(
            f"`push_overrides.{pattern}` matches no parameter of the model{hint}; change the pattern or remove it"
        )


def step_seed(job_seed: int, life: tuple[int, int], step: int) -> int:
    """64-bit seed of what one step draws; the encoder mixes in the block.

    `life` is the worker's id and how many lives that id had before: steps are counted anew in each, and must not draw
    the same again. Unlike incarnations, which depend on who joined first, it is the same in two runs.
    """
    text = f"{job_seed}/{life[0]}/{life[1]}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
