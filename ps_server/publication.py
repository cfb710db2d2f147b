"""Published values: what a pull carries. Each version of a bundle is encoded once; the same bytes go to everybody.

Two ways, chosen by the pull codec. *Dense* formats (fp32, fp16, bf16) send the rounded values. Any other contractive codec
sends the *difference* to the value published before (EF21's master step), which needs that every puller holds exactly that
value: synchronous rounds. A puller that holds another version gets the published values densely, in FP32, so all holders of
a version hold the same bits.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..compression.codec import Codec
from ..compression.frame import parse_frame
from ..compression.spec import parse_codec
from ..protos.errors import SettingError
from ..protos.shard_pb2 import ShardMessage, Values
from .blocks import BlockStore, Bundle
from .config import JobSettings

DENSE_PULLS = ("fp32", "fp16", "bf16")


class Publisher(Protocol):
    """Published copies of a shard's bundles. The caller holds the bundle's lock."""

    def publish(self, bundle: Bundle, changed: Sequence[int]) -> None:
        """Makes the current values of a bundle the published ones; `changed` are positions with a new version."""

    def message(self, bundle: Bundle, held: NDArray[np.int64]) -> bytes:
        """A serialized `ShardMessage` that brings a holder of versions `held` (-1 = nothing) to the newest."""


class DensePublisher:
    """Publishes rounded values."""

    def __init__(self, codec: Codec, store: BlockStore) -> None:
        self._codec = codec
        self._store = store
        self._messages: list[bytes] = [b""] * len(store.bundles)

    def publish(self, bundle: Bundle, changed: Sequence[int]) -> None:
        arrays = [self._store.array(self._store.blocks[position]) for position in bundle]
        self._messages[bundle.number] = _message(self._store, list(bundle), self._codec, arrays, delta=False)

    def message(self, bundle: Bundle, held: NDArray[np.int64]) -> bytes:
        return self._messages[bundle.number]


@dataclass
class _Delta:
    """The newest difference of one bundle, and the versions it builds on."""

    message: bytes
    base: NDArray[np.int64]


class DeltaPublisher:
    """Publishes differences to a shared shadow of the values; all who follow hold the shadow's bits."""

    def __init__(self, codec: Codec, store: BlockStore) -> None:
        self._codec = codec
        self._dense = parse_codec("fp32")
        self._store = store
        self._shadow: NDArray[np.float32] = np.zeros(store.num_elements, dtype=np.float32)
        self._deltas: list[_Delta | None] = [None] * len(store.bundles)
        self._published = [False] * len(store.bundles)

    def publish(self, bundle: Bundle, changed: Sequence[int]) -> None:
        if not self._published[bundle.number]:
            self._published[bundle.number] = True
            for position in bundle:
                self._shadow_of(position)[:] = self._store.array(self._store.blocks[position])
            return
        if not changed:
            return
        differences = [
            self._store.array(self._store.blocks[position]) - self._shadow_of(position) for position in changed
        ]
        base = self._store.versions[bundle.first : bundle.last].copy()
        for position in changed:
            base[position - bundle.first] -= 1
        message, frames = _encode(self._store, changed, self._codec, differences, delta=True)
        for position, frame in zip(changed, frames, strict=True):
            parse_frame(frame, self._store.blocks[position].num_elements).add_to(self._shadow_of(position))
        self._deltas[bundle.number] = _Delta(message, base)

    def message(self, bundle: Bundle, held: NDArray[np.int64]) -> bytes:
        delta = self._deltas[bundle.number]
        if delta is not None and np.array_equal(held, delta.base):
            return delta.message
        arrays = [self._shadow_of(position) for position in bundle]
        return _message(self._store, list(bundle), self._dense, arrays, delta=False)

    def _shadow_of(self, position: int) -> NDArray[np.float32]:
        block = self._store.blocks[position]
        return self._shadow[block.start : block.stop]


def check_pull_codec(settings: JobSettings) -> None:
    """Refuses a pull codec that cannot work with the job's mode.

    Raises:
        CodecError: there is no such codec.
        SettingError: names the codecs that would work.
    """
    codec = parse_codec(settings.pull_codec)
    if codec.spec in DENSE_PULLS:
        return
    if settings.mode != "sync":
        raise SettingError(
            f"pull_codec={codec.spec} sends differences, which every worker must follow one by one; mode={settings.mode} pulls "
            f"whatever is newest. Use pull_codec={' or '.join(DENSE_PULLS)}, or mode=sync"
        )
    if codec.contract.delta(1 << 16) is None:
        raise SettingError(
            f"pull_codec={codec.spec} is not contractive, so differences would grow; use its nearest rounding"
        )


def publisher_for(settings: JobSettings, store: BlockStore) -> Publisher:
    """The publisher that the job's pull codec needs."""
    check_pull_codec(settings)
    codec = parse_codec(settings.pull_codec)
    return DensePublisher(codec, store) if codec.spec in DENSE_PULLS else DeltaPublisher(codec, store)


def _message(
    store: BlockStore,
    positions: Sequence[int],
    codec: Codec,
    arrays: Sequence[NDArray[np.float32]],
    delta: bool,
) -> bytes:
    return _encode(store, positions, codec, arrays, delta)[0]


def _encode(
    store: BlockStore,
    positions: Sequence[int],
    codec: Codec,
    arrays: Sequence[NDArray[np.float32]],
    delta: bool,
) -> tuple[bytes, list[memoryview]]:
    """The serialized message, and the frames in it."""
    buffer = np.empty(sum(codec.frame_bound(array.size) for array in arrays), dtype=np.uint8)
    ends = [0]
    for array in arrays:
        ends.append(ends[-1] + codec.encode(array, buffer[ends[-1] :]))
    view = buffer.data
    values = Values(
        blocks=[store.blocks[position].block_id for position in positions],
        versions=[int(store.versions[position]) for position in positions],
        lengths=[end - start for start, end in itertools.pairwise(ends)],
        delta=delta,
        payload=buffer[: ends[-1]].tobytes(),
    )
    frames = [view[start:end] for start, end in itertools.pairwise(ends)]
    return ShardMessage(values=values).SerializeToString(), frames
