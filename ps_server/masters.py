"""What a shard holds in full precision, read by who saves the model: the FP32 values that the optimizer updates, and its state.

Bundle by bundle: a reader costs one bundle of memory, and applying waits for it no longer than for the copy of one bundle.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..protos.shard_pb2 import MasterNumbers
from .blocks import BlockStore, Bundle
from .shard import Shard

VALUES = ""
"""In place of the name of a slot."""

Read = TypeVar("Read")


class Reading(Protocol):
    """Gives the shard's bookkeeping, while nobody changes it, to a function, and returns what that returns."""

    def __call__(self, read: Callable[[Shard], Read]) -> Read: ...


class _Moment(NamedTuple):
    """What tells whether anything was applied between two looks."""

    round: int
    num_queued_jobs: int
    versions: bytes


def read_masters(reading: Reading) -> Iterator[MasterNumbers]:
    """A message for each bundle and kind of number, and one behind them that says of which moment they are."""
    before, store = reading(_moment), reading(lambda shard: shard.store)
    for bundle in store.bundles:
        for name in (VALUES, *store.optimizer.slot_names):
            yield _message(store, bundle, name)
    now = reading(_moment)
    yield MasterNumbers(end=True, round=now.round, of_one_moment=before == now and not now.num_queued_jobs)


def _moment(shard: Shard) -> _Moment:
    return _Moment(shard.state.round, shard.state.num_queued_jobs, shard.store.versions.tobytes())


def _message(store: BlockStore, bundle: Bundle, name: str) -> MasterNumbers:
    positions = [p for p in bundle if name == VALUES or store.blocks[p].group >= 0]
    with bundle.lock:
        parts = [_numbers(store, position, name) for position in positions]
        payload = np.concatenate([*parts, np.empty(0, np.float32)]).tobytes()
        updates = [store.optimizer.num_updates(position) for position in positions]
    blocks = [store.blocks[position].block_id for position in positions]
    return MasterNumbers(slot=name, blocks=blocks, updates=updates, payload=payload)


def _numbers(store: BlockStore, position: int, name: str) -> NDArray[np.float32]:
    if name == VALUES:
        return store.array(store.blocks[position])
    numbers: NDArray[np.float32] = store.optimizer.slot(name, position).numpy()
    return numbers
