"""How fast codecs are, beside a plain copy: one thread, data from memory, rounds that treat all codecs alike.

A pass applies one operation to every block of a list that is larger than the caches of a core (unless fewer blocks are
asked for), and writes to other memory for each. All memory is touched and all kernels are compiled before the first pass that
counts. A round measures every codec once, each right behind a copy of the same blocks; shares are ratios to that copy, and
what is reported are medians over the rounds.

*Bytes moved* per element are those that no implementation can avoid: with `code` bytes of frame per element, and a share
`kept` of the elements sent,

    copy            4 + 4
    encode          12 + code          reads x and the residual, writes the new residual and the frame
    encode_plain    4 + code           reads x, writes the frame
    check           code               reads the frame
    decode          4 + code           reads the frame, writes every element
    decode_add      8 * kept + code    reads the frame, reads and writes the elements that were sent
    sum             8 * kept + code    the same, all blocks into one: the accumulator stays in a cache

`sum` is what a server does with the frames that many workers sent of one block; its share of the copy may exceed 1.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..compression.codec import Codec, Memo
from ..compression.frame import Frame, parse_frame
from ..compression.warm_up import warm_up
from .codec_data import Floats, gaussian
from .codec_errors import Cost

NUM_BLOCKS = 32
"""With the default block of 2^20 elements, 128 MiB per array, and at least two arrays in every pass."""
FEWEST_BLOCKS = 2
LONGEST_PASS_SECONDS = 0.4
"""A codec that needs longer for all blocks gets fewer: it is not memory that bounds it."""

FEEDBACK_STEPS = 3
"""From an empty residual to the step that is measured."""

COPY_BYTES_PER_ELEMENT = 8
ENCODE, ENCODE_PLAIN, CHECK = "encode", "encode_plain", "check"
DECODE, DECODE_ADD, SUM = "decode", "decode_add", "sum"
OPERATIONS = (ENCODE, ENCODE_PLAIN, CHECK, DECODE, DECODE_ADD, SUM)
"""`encode` is with error feedback; `check` is `parse_frame`, which every received frame goes through once."""


def bytes_moved(operation: str, cost: Cost) -> float:
    """Per element; see the top of this file."""
    code = cost.bits_per_element / 8
    added = 8.0 * cost.share_kept
    around = {ENCODE: 12.0, ENCODE_PLAIN: 4.0, CHECK: 0.0, DECODE: 4.0, DECODE_ADD: added, SUM: added}
    return around[operation] + code


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement of one codec."""

    copy_elements_per_second: float
    elements_per_second: dict[str, float]
    """By operation; without `encode` for a codec that is not used with error feedback."""


class Memory:
    """The blocks that all codecs share: nothing of one codec's pass matters to the next."""

    def __init__(self, num_blocks: int, num_elements: int, frame_bytes: int) -> None:
        self.values = gaussian(num_blocks, num_elements)
        self.committed = [np.ones(num_elements, np.float32) for _ in range(num_blocks)]
        self.pending = [np.ones(num_elements, np.float32) for _ in range(num_blocks)]
        self.frames = [np.ones(frame_bytes, np.uint8) for _ in range(num_blocks)]

    @property
    def num_blocks(self) -> int:
        return len(self.values)


class Subject:
    """One codec, ready to be measured."""

    def __init__(self, codec: Codec, memory: Memory) -> None:
        warm_up(codec)
        self._codec = codec
        self._memory = memory
        self._feedback = codec.contract.admits_error_feedback and not codec.lossless
        self._plain_memos = [Memo() for _ in memory.values]
        self._feedback_memos = [Memo() for _ in memory.values]
        self._sizes = [0] * memory.num_blocks
        fewest = min(FEWEST_BLOCKS, memory.num_blocks)
        for _ in range(2):
            rate = self._rate(self._encode_plain, fewest)
        affordable = int(LONGEST_PASS_SECONDS * rate / memory.values[0].size)
        self._num_blocks = max(fewest, min(memory.num_blocks, affordable))

    def measure(self) -> Round:
        """Every operation once, over all blocks."""
        rates: dict[str, float] = {}
        copy = self._rate(self._copy, self._memory.num_blocks)
        if self._feedback:
            rates[ENCODE] = self._feedback_rate()
        rates[ENCODE_PLAIN] = self._rate(self._encode_plain, self._num_blocks)
        frames: list[Frame] = []
        rates[CHECK] = self._rate(lambda block: frames.append(self._check(block)), self._num_blocks)
        pending, committed = self._memory.pending, self._memory.committed
        rates[DECODE] = self._rate(lambda block: frames[block].decode_into(pending[block]), self._num_blocks)
        rates[DECODE_ADD] = self._rate(lambda block: frames[block].add_to(committed[block]), self._num_blocks)
        rates[SUM] = self._rate(lambda block: frames[block].add_to(committed[0]), self._num_blocks)
        return Round(copy, rates)

    def _feedback_rate(self) -> float:
        """Of the last of a few steps, so that residual and memos are such as this codec makes them."""
        committed, pending = self._memory.committed, self._memory.pending
        for residual in committed:
            residual.fill(0.0)
        rate = 0.0
        for step in range(FEEDBACK_STEPS):
            encode = partial(self._encode, step, committed, pending)
            rate = self._rate(encode, self._num_blocks)
            committed, pending = pending, committed
        return rate

    def _copy(self, block: int) -> None:
        np.copyto(self._memory.pending[block], self._memory.values[block])

    def _encode(self, step: int, committed: list[Floats], pending: list[Floats], block: int) -> None:
        """Steps differ in their values, as gradients do."""
        values = self._memory.values[(block + step) % self._memory.num_blocks]
        residual, memo = (committed[block], pending[block]), self._feedback_memos[block]
        self._codec.encode(values, self._memory.frames[block], seed=block, residual=residual, memo=memo)

    def _encode_plain(self, block: int) -> None:
        values, out = self._memory.values[block], self._memory.frames[block]
        self._sizes[block] = self._codec.encode(values, out, seed=block, memo=self._plain_memos[block])

    def _check(self, block: int) -> Frame:
        frame = self._memory.frames[block].data[: self._sizes[block]]
        return parse_frame(frame, self._memory.values[block].size)

    def _rate(self, operation: Callable[[int], None], num_blocks: int) -> float:
        """Elements per second of one pass over the first `num_blocks` blocks."""
        start = time.perf_counter()
        for block in range(num_blocks):
            operation(block)
        return num_blocks * self._memory.values[0].size / (time.perf_counter() - start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured."""

    num_elements: int
    """Elements of a block."""
    num_blocks: int = NUM_BLOCKS
    """Few enough blocks stay in the caches."""
    repetitions: int = 5


def measure_rates(codecs: list[Codec], extent: Extent) -> list[list[Round]]:
    """For each codec its rounds. Needs about 16 bytes of memory per element and block."""
    frame_bytes = max(codec.frame_bound(extent.num_elements) for codec in codecs)
    memory = Memory(extent.num_blocks, extent.num_elements, frame_bytes)
    subjects = [Subject(codec, memory) for codec in codecs]
    rounds = [[subject.measure() for subject in subjects] for _ in range(extent.repetitions)]
    return [list(of_one_codec) for of_one_codec in zip(*rounds, strict=True)]
