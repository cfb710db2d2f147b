"""Which blocks of a shard a rank owns: it alone of its worker pushes and pulls them. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..protos.errors import BadRequestError, UnknownBlockError
from ..protos.shard_pb2 import Hello, Pull
from .keys import StreamKey

UNWANTED = np.iinfo(np.int64).max
"""In place of the held version of a block that is not to be sent."""


@dataclass(frozen=True, eq=False)
class Share:
    """The blocks of one rank on this shard."""

    positions: NDArray[np.int64]
    """Where its blocks stand among the shard's, ascending."""
    pushed_ids: frozenset[int]
    """Those that gradients are pushed for."""
    ids: frozenset[int]
    """Of all its blocks."""
    always_pulled: NDArray[np.bool_]
    """Beside each position: sent with every pull, not only when a pull names it."""

    def held(self, base_versions: Sequence[int]) -> NDArray[np.int64]:
        """Versions that the rank says it holds, beside `positions`; -1 = nothing.

        Raises:
            BadRequestError: not one for each block.
        """
        return _versions(base_versions, len(self.positions))


class Shares:
    """All blocks of one shard, for ranks to own a part of."""

    def __init__(self, shard: int, position_of: Mapping[int, int], pushed_ids: Collection[int]) -> None:
        self._shard = shard
        self._position_of = position_of
        self._ids = np.array(sorted(position_of), dtype=np.int64)
        self._pushed_ids = frozenset(pushed_ids)
        everything = np.arange(len(self._ids))
        self._everything = Share(
            everything, self._pushed_ids, frozenset(position_of), np.ones(len(everything), dtype=np.bool_)
        )

    @property
    def pushed_ids(self) -> frozenset[int]:
        """Of all blocks of the shard that gradients are pushed for."""
        return self._pushed_ids

    def refusal(self, key: StreamKey, block: int) -> UnknownBlockError:
        """Why a rank may not send gradients of a block that it does not own here."""
        if block in self._pushed_ids:
            return UnknownBlockError(
                f"rank {key.rank} of worker {key.worker_id} sent block {block} and does not own it"
            )
        return UnknownBlockError(f"block {block} is not one that shard {self._shard} takes gradients for")

    def claim(self, hello: Hello, taken: Mapping[int, Share]) -> Share:
        """What a rank's greeting says it owns; `taken` are the shares of its worker's ranks so far.

        Raises:
            BadRequestError: names the block that is not here, or that another rank owns.
        """
        share = self._everything
        if hello.blocks or hello.num_ranks > 1:
            positions = self._positions("blocks", hello.blocks)
            share = Share(
                positions,
                self._pushed_ids.intersection(hello.blocks),
                frozenset(hello.blocks),
                np.ones(len(positions), dtype=np.bool_),
            )
        if hello.on_demand:
            wanted = self._positions("on_demand", hello.on_demand)
            self._check_owned(share, wanted, f"on_demand of rank {hello.rank}")
            share = replace(share, always_pulled=~np.isin(share.positions, wanted))
        self._check_apart(hello, share, taken)
        return share

    def wanted(self, share: Share, pull: Pull) -> NDArray[np.int64]:
        """Held versions of what a pull asks for, beside all blocks of the shard; the others are `UNWANTED`.

        Raises:
            BadRequestError: it names blocks that the rank does not own, or not one version for each.
        """
        if not pull.blocks:
            return self.wanted_always(share, share.held(pull.base_versions))
        named = self._positions("blocks", sorted(pull.blocks))
        self._check_owned(share, named, "a pull")
        held = np.full(len(self._ids), UNWANTED)
        held[named] = _versions(pull.base_versions, len(named))
        return held

    def wanted_always(self, share: Share, held: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `wanted`, of a pull that names no blocks; `held` stands beside the share's positions."""
        everything = np.full(len(self._ids), UNWANTED)
        everything[share.positions] = np.where(share.always_pulled, held, UNWANTED)
        return everything

    def _positions(self, field: str, blocks: Sequence[int]) -> NDArray[np.int64]:
        positions = np.array([self._position_of.get(block, -1) for block in blocks], dtype=np.int64)
        if (positions < 0).any():
            raise BadRequestError(f"{field} names block {blocks[int(positions.argmin())]}, not on shard {self._shard}")
        if (np.diff(positions) <= 0).any():
            raise BadRequestError(f"{field} must name each block once, in ascending order")
        return positions

    def _check_owned(self, share: Share, named: NDArray[np.int64], who: str) -> None:
        strange = named[~np.isin(named, share.positions)]
        if len(strange):
            raise BadRequestError(f"{who} names block {self._ids[strange[0]]}, which the rank does not own")

    def _check_apart(self, hello: Hello, share: Share, taken: Mapping[int, Share]) -> None:
        owner = np.full(len(self._ids), -1)
        for rank, other in taken.items():
            if rank != hello.rank:
                owner[other.positions] = rank
        twice = share.positions[owner[share.positions] >= 0]
        if len(twice):
            raise BadRequestError(
                f"rank {hello.rank} and rank {owner[twice[0]]} of worker {hello.worker_id} both own block "
                f"{self._ids[twice[0]]}; exactly one rank pushes and pulls a block"
            )
        before = taken.get(hello.rank)
        if before is not None and not np.array_equal(before.positions, share.positions):
            raise BadRequestError(
                f"rank {hello.rank} of worker {hello.worker_id} owned other blocks on shard {self._shard} before; "
                "a worker with another layout joins anew"
            )


def _versions(base_versions: Sequence[int], count: int) -> NDArray[np.int64]:
    if not base_versions:
        return np.full(count, -1, dtype=np.int64)
    if len(base_versions) != count:
        raise BadRequestError(f"base_versions has {len(base_versions)} entries for {count} blocks")
    return np.array(base_versions, dtype=np.uint64).astype(np.int64)
