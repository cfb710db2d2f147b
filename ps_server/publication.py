"""Published values: what a pull carries. Each version of a block is encoded once. Only what changed is published anew, and
only what a puller lacks is sent: the same bytes to everybody who holds the version before, and to others the frames that they
lack, put together.

Two ways, chosen by the pull codec. *Dense* formats (fp32, fp16, bf16) send the rounded values. Any other contractive codec
sends the *difference* to the value published before (EF21's master step), which needs that every puller holds exactly that
value: synchronous rounds. A puller that holds another version gets the published values densely, in FP32, so all holders of
a version hold the same bits.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..compression.codec import Codec, Memo
from ..compression.encoder_spec import parse_pull_codec
from ..compression.frame import parse_frame
from ..compression.spec import WHOLE_VALUE_CODECS, parse_codec
from ..protos.errors import SettingError
from .blocks import BlockStore, Bundle
from .config import JobSettings
from .encoded_values import EncodedValues, ValuesBuilder
from .published_bundle import PublishedBundle


class Publisher(Protocol):
    """Published copies of a shard's bundles. The caller holds the bundle's lock."""

    def publish(self, bundle: Bundle, changed: Sequence[int]) -> None:
        """Makes the current values of a bundle the published ones; `changed` are positions with a new version."""

    def replace(self, bundle: Bundle, changed: Sequence[int]) -> None:
        """As `publish`, of values that have nothing to do with those before."""

    def published(self, position: int) -> NDArray[np.float32]:
        """What holders of a block's newest version have of it, float32 [num_elements]: a copy."""

    def publish_initial(self, bundle: Bundle) -> None:
        """Makes the initial values the published ones, also when others were before: initialising may be repeated."""

    def message(self, bundle: Bundle, held: NDArray[np.int64]) -> bytes:
        """A serialized `ShardMessage` that brings a holder of versions `held` to the newest.

        `held` stands beside the bundle's blocks: -1 = nothing, `UNWANTED` = not to be sent. At least one is older than the
        newest; blocks of which the newest is held are left out.
        """


class DensePublisher:
    """Publishes rounded values."""

    def __init__(self, codec: Codec, store: BlockStore) -> None:
        self._codec = codec
        self._store = store
        self._published: dict[int, PublishedBundle] = {}
        """By number of the bundle."""

    @property
    def kept_bytes(self) -> int:
        """Of all bundles."""
        return sum(published.num_bytes for published in self._published.values())

    def publish(self, bundle: Bundle, changed: Sequence[int]) -> None:
        builder = ValuesBuilder(self._store, self._codec, changed)
        for position in changed:
            builder.add(position, self._store.array(self._store.blocks[position]))
        self._published[bundle.number].put(
            builder.build(delta=False), [position - bundle.first for position in changed]
        )

    def replace(self, bundle: Bundle, changed: Sequence[int]) -> None:
        self.publish(bundle, changed)

    def published(self, position: int) -> NDArray[np.float32]:
        values = self._store.array(self._store.blocks[position])
        if self._store.blocks[position].group < 0:
            return values.copy()
        frame = np.empty(self._codec.frame_bound(values.size), np.uint8)
        num_bytes = self._codec.encode(values, frame)
        rounded = np.empty_like(values)
        parse_frame(frame[:num_bytes].data, values.size).decode_into(rounded)
        return rounded

    def publish_initial(self, bundle: Bundle) -> None:
        self._published[bundle.number] = PublishedBundle(len(bundle))
        self.publish(bundle, list(bundle))

    def message(self, bundle: Bundle, held: NDArray[np.int64]) -> bytes:
        return self._published[bundle.number].message(held)


_NOBODY = -2
"""A version that nobody holds, not even who holds nothing: no difference to it is of use."""


@dataclass
class _Delta:
    """The newest difference of one bundle, and the versions it builds on."""

    encoded: EncodedValues
    """Of the blocks that changed."""
    changed: NDArray[np.bool_]
    """Which these are, beside every block of the bundle."""
    base: NDArray[np.int64]
    """Of every block of the bundle."""


class DeltaPublisher:
    """Publishes differences to a shared shadow of the values; all who follow hold the shadow's bits.

    Values that are not finite, or so far from the shadow that the difference is not, end the job: `publish` raises with a
    part of the shadows moved on and no message that would bring anybody there.
    """

    def __init__(self, codec: Codec, store: BlockStore) -> None:
        self._codec = codec
        self._dense = parse_codec("fp32")
        self._store = store
        self._shadow: NDArray[np.float32] = np.zeros(store.num_elements, dtype=np.float32)
        self._deltas: list[_Delta | None] = [None] * len(store.bundles)
        self._memos: list[Memo] = [Memo() for _ in store.blocks]
        self._scratch = threading.local()

    def replace(self, bundle: Bundle, changed: Sequence[int]) -> None:
        # A difference would be as coarse as the change is large: of these blocks everybody gets the values themselves.
        delta = self._deltas[bundle.number]
        if delta is not None:
            delta.base[np.array(changed) - bundle.first] = _NOBODY
        for position in changed:
            self._shadow_of(position)[:] = self._store.array(self._store.blocks[position])

    def published(self, position: int) -> NDArray[np.float32]:
        return self._shadow_of(position).copy()

    def publish_initial(self, bundle: Bundle) -> None:
        self._deltas[bundle.number] = None
        self.replace(bundle, list(bundle))

    def publish(self, bundle: Bundle, changed: Sequence[int]) -> None:
        base = self._store.versions[bundle.first : bundle.last].copy()
        builder = ValuesBuilder(self._store, self._codec, changed)
        difference = self._scratch_of(bundle)
        for position in changed:
            base[position - bundle.first] -= 1
            shadow = self._shadow_of(position)
            part = difference[: shadow.size]
            np.subtract(self._store.array(self._store.blocks[position]), shadow, out=part)
            # Workers add the decoded frame to what they hold; so does the shadow, or the bits would part.
            parse_frame(builder.add(position, part, self._memos[position]), shadow.size).add_to(shadow)
        if changed:
            among = np.zeros(len(base), dtype=np.bool_)
            among[np.array(changed) - bundle.first] = True
            self._deltas[bundle.number] = _Delta(builder.build(delta=True), among, base)

    def message(self, bundle: Bundle, held: NDArray[np.int64]) -> bytes:
        lacking = held < self._store.versions[bundle.first : bundle.last]
        delta = self._deltas[bundle.number]
        if delta is not None and not (lacking & ~(delta.changed & (held == delta.base))).any():
            return delta.encoded.cut(lacking[delta.changed])
        positions = [bundle.first + int(place) for place in np.flatnonzero(lacking)]
        builder = ValuesBuilder(self._store, self._dense, positions)
        for position in positions:
            builder.add(position, self._shadow_of(position))
        return builder.build(delta=False).message

    def _scratch_of(self, bundle: Bundle) -> NDArray[np.float32]:
        largest = max(self._store.blocks[position].num_elements for position in bundle)
        scratch: NDArray[np.float32] | None = getattr(self._scratch, "values", None)
        if scratch is None or scratch.size < largest:
            scratch = self._scratch.values = np.empty(largest, dtype=np.float32)
        return scratch

    def _shadow_of(self, position: int) -> NDArray[np.float32]:
        block = self._store.blocks[position]
        return self._shadow[block.start : block.stop]


def check_pull_codec(settings: JobSettings) -> None:
    """Refuses a pull codec that cannot work with the job's mode.

    Raises:
        CodecError: there is no such codec.
        SettingError: names the codecs that would work.
    """
    codec = parse_pull_codec(settings.pull_codec)
    if codec.spec in WHOLE_VALUE_CODECS:
        return
    if settings.mode != "sync":
        raise SettingError(
            f"pull_codec={codec.spec} sends differences, which every worker must follow one by one; mode={settings.mode} pulls "
            f"whatever is newest. Use pull_codec={' or '.join(WHOLE_VALUE_CODECS)}, or mode=sync"
        )
    if not codec.contract.admits_error_feedback:
        raise SettingError(
            f"pull_codec={codec.spec} is not contractive, so differences would grow; use its nearest rounding"
        )


def publisher_for(settings: JobSettings, store: BlockStore) -> Publisher:
    """The publisher that the job's pull codec needs."""
    check_pull_codec(settings)
    codec = parse_codec(settings.pull_codec)
    return DensePublisher(codec, store) if codec.spec in WHOLE_VALUE_CODECS else DeltaPublisher(codec, store)
