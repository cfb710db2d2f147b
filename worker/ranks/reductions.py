"""Gradients that no rank has whole: of parameters tied over pipeline stages, and of replicas that see different data.

Tensor parallelism and `fully_shard` reduce their gradients themselves; these two do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..layout import Layout
from .group import Ranks
from .ownership import Holdings

BUCKET_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Reduction:
    """How this rank's gradient of one plan entry becomes the worker's."""

    entry: int
    ranks: tuple[int, ...]
    """Whose gradients are added up; this rank is one of them."""
    scale: float
    """Factor of the sum: replicas are averaged."""


class GradientReduction:
    """Reduces the gradients of a step over ranks. Every rank of the worker calls it once in each step."""

    def __init__(self, ranks: Ranks, reductions: Sequence[Reduction], num_entries: int) -> None:
        self._ranks = ranks
        self._of_entry = {reduction.entry: reduction for reduction in reductions}
        self._num_entries = num_entries

    def __bool__(self) -> bool:
        """Whether this rank has anything to reduce."""
        return bool(self._of_entry)

    def reduce(
        self, gradients: Mapping[int, torch.Tensor], parameters: Mapping[int, torch.Tensor]
    ) -> dict[int, torch.Tensor]:
        """The worker's gradients by plan entry, FP32 where they were added up; those given stay as they are.

        An entry that any holder has a gradient of has one on all of them. `parameters` by plan entry; local tensors both.
        """
        reduced = dict(gradients)
        present = self._present_anywhere(gradients)
        buckets: dict[tuple[int, ...], list[Reduction]] = {}
        for entry in sorted(self._of_entry.keys() & present):
            buckets.setdefault(self._of_entry[entry].ranks, []).append(self._of_entry[entry])
        for ranks in sorted(buckets):
            for bucket in _portions(buckets[ranks], parameters):
                reduced |= self._reduce(bucket, gradients, parameters)
        return reduced

    def _present_anywhere(self, gradients: Mapping[int, torch.Tensor]) -> set[int]:
        absent = [int(entry not in gradients) for entry in range(self._num_entries)]
        return {entry for entry, missing in enumerate(self._ranks.smallest(absent)) if not missing}

    def _reduce(
        self,
        bucket: Sequence[Reduction],
        gradients: Mapping[int, torch.Tensor],
        parameters: Mapping[int, torch.Tensor],
    ) -> dict[int, torch.Tensor]:
        parts = [
            gradients[r.entry].detach().reshape(-1).float()
            if r.entry in gradients
            else torch.zeros(parameters[r.entry].numel(), device=parameters[r.entry].device)
            for r in bucket
        ]
        joined = torch.cat(parts) * bucket[0].scale
        if len(bucket[0].ranks) > 1:
            self._ranks.add_up(joined, bucket[0].ranks)
        pieces = torch.split(joined, [part.numel() for part in parts])
        return {r.entry: piece.view(parameters[r.entry].shape) for r, piece in zip(bucket, pieces, strict=True)}


def reductions_of(
    rank: int, layout: Layout, holdings: Sequence[Holdings], averaged: Sequence[frozenset[int]]
) -> list[Reduction]:
    """What `rank` has to reduce: over the pipeline stages and replicas that hold the same part of an entry.

    Args:
        holdings: what every rank holds.
        averaged: by rank, the entries whose gradients torch averages over replicas itself.
    """
    found = []
    for entry, box in holdings[rank].items():
        done = entry in averaged[rank]
        ranks = tuple(
            other
            for other, held in enumerate(holdings)
            if held.get(entry) == box and _same_part(layout, rank, other, same_replica=done)
        )
        scale = 1.0 if done else 1.0 / layout.dp
        if len(ranks) > 1 or scale != 1.0:
            found.append(Reduction(entry, ranks, scale))
    return found


def _same_part(layout: Layout, rank: int, other: int, same_replica: bool) -> bool:
    """Whether two ranks compute the same part of a layer, for other micro-batches or as other stages."""
    _, replica, shard, part = layout.coordinates(rank)
    _, other_replica, other_shard, other_part = layout.coordinates(other)
    return (shard, part) == (other_shard, other_part) and (replica == other_replica or not same_replica)


def _portions(bucket: Sequence[Reduction], parameters: Mapping[int, torch.Tensor]) -> list[list[Reduction]]:
    """Pieces of limited size, each on one device."""
    portions: list[list[Reduction]] = []
    room, device = 0, None
    for reduction in bucket:
        tensor = parameters[reduction.entry]
        if tensor.numel() > room or tensor.device != device or portions[-1][0].scale != reduction.scale:
            portions.append([])
            room, device = BUCKET_ELEMENTS, tensor.device
        portions[-1].append(reduction)
        room -= tensor.numel()
    return portions
