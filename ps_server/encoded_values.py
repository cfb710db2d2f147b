"""Messages of published values: encoding blocks into one, and cutting some of its blocks out of it."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..compression.any_bits import ANY_BITS
from ..compression.codec import Codec, Memo
from ..compression.encoder import block_seed
from ..protos.payloads import join_payload
from ..protos.shard_pb2 import ShardMessage, Values
from .blocks import BlockStore


class EncodedValues:
    """A serialised `ShardMessage` of values, and where each block's frame lies in it."""

    def __init__(self, head: Values, payload: memoryview) -> None:
        self._head = head
        self.message = _serialised(head, payload)
        # The payload is the message's last field: what is cut out of it is found without keeping the bytes twice.
        self.lengths: NDArray[np.int64] = np.array(head.lengths, dtype=np.int64)
        """Bytes of the frame of each block in the message."""
        self._ends = len(self.message) - payload.nbytes + np.cumsum(self.lengths)
        self.versions: NDArray[np.int64] = np.array(head.versions, dtype=np.int64)
        """Of each block in the message."""

    def cut(self, chosen: NDArray[np.bool_]) -> bytes:
        """The message with only these of its blocks: the same frames."""
        return self.message if chosen.all() else joined([(self, chosen)]).message

    def add_to(self, head: Values, chosen: NDArray[np.bool_]) -> list[memoryview]:
        """Puts these blocks into a message's head; their frames, views in the same order."""
        places = np.flatnonzero(chosen).tolist()
        head.blocks.extend(self._head.blocks[place] for place in places)
        head.versions.extend(self._head.versions[place] for place in places)
        head.lengths.extend(self._head.lengths[place] for place in places)
        head.delta = self._head.delta
        return [self._bytes_of(run) for run in _runs(places)]

    def _bytes_of(self, run: range) -> memoryview:
        first = int(self._ends[run.start] - self.lengths[run.start])
        return memoryview(self.message)[first : int(self._ends[run.stop - 1])]


def joined(parts: Iterable[tuple[EncodedValues, NDArray[np.bool_]]]) -> EncodedValues:
    """One message of chosen blocks of several, whose frames are of one kind (values or differences): copied, not encoded."""
    head = Values()
    runs = [run for encoded, chosen in parts for run in encoded.add_to(head, chosen)]
    return EncodedValues(head, runs[0] if len(runs) == 1 else memoryview(b"".join(runs)))


class ValuesBuilder:
    """Encodes blocks one behind the other into one buffer."""

    def __init__(self, store: BlockStore, codec: Codec, positions: Sequence[int]) -> None:
        self._codec = codec
        self._head = Values()
        self._store = store
        bounds = (self._codec_of(position).frame_bound(store.blocks[position].num_elements) for position in positions)
        self._buffer = np.empty(sum(bounds), dtype=np.uint8)
        self._used = 0

    def add(self, position: int, values: NDArray[np.float32], memo: Memo | None = None) -> memoryview:
        """Encodes the values of a block at its present version; the frame, valid as long as the builder."""
        start = self._used
        # Codecs that draw have to draw anew for every block and version.
        seed = block_seed(self._store.blocks[position].block_id, int(self._store.versions[position]))
        self._used += self._codec_of(position).encode(values, self._buffer[start:], seed=seed, memo=memo)
        self._head.blocks.append(self._store.blocks[position].block_id)
        self._head.versions.append(int(self._store.versions[position]))
        self._head.lengths.append(self._used - start)
        return self._buffer.data[start : self._used]

    def _codec_of(self, position: int) -> Codec:
        """What no optimizer touches need not be numbers: it is handed on bit for bit."""
        return self._codec if self._store.blocks[position].group >= 0 else ANY_BITS

    def build(self, delta: bool) -> EncodedValues:
        """The message of what was added; `delta` says that its frames are to be added to the version before."""
        self._head.delta = delta
        return EncodedValues(self._head, self._buffer.data[: self._used])


def _serialised(head: Values, payload: memoryview) -> bytes:
    return join_payload(
        ShardMessage.VALUES_FIELD_NUMBER, head.SerializeToString(), Values.PAYLOAD_FIELD_NUMBER, payload
    )


def _runs(places: Sequence[int]) -> list[range]:
    """Ascending numbers as ranges of neighbours."""
    runs: list[range] = []
    for place in places:
        if runs and runs[-1].stop == place:
            runs[-1] = range(runs[-1].start, place + 1)
        else:
            runs.append(range(place, place + 1))
    return runs
