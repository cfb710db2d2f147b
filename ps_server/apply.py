"""Applying a job to one bundle: reduce the contributions, run the optimizer, publish. No locks but the bundle's own.

An optimizer is applied in one pass over the bundles, or, if it needs norms of whole parameters, in two.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..compression.kernels import largest_bits
from ..protos.errors import NonFiniteError
from ..protos.registrar_pb2 import ShardReport
from .blocks import BlockStore, Bundle, OwnedBlock
from .consistency import Policy
from .effects import Job
from .optimizers.scratch import ThreadScratch
from .publication import Publisher

INFINITY_BITS = 0x7F800000

Alike = tuple[int, float]
"""Parameter group and factor on its learning rate: what blocks of one call of the optimizer have in common."""
Gradients = dict[Alike, list[tuple[int, torch.Tensor]]]
"""Positions of blocks and their flat gradients."""


@dataclass
class BundleResult:
    """What applying a job to a bundle did."""

    updated: list[int] = field(default_factory=list)
    """Positions of the blocks with a new version."""
    non_finite: list[str] = field(default_factory=list)
    """Parameters with a block left untouched because its sum was not finite."""
    diverged: str | None = None
    """A parameter whose new values are not finite: they are not published."""
    staleness: list[int] = field(default_factory=list)
    """Version staleness of each updated block, in updates."""


@dataclass(frozen=True)
class Pass:
    """One way over all bundles. Everything but `over` is called while the shard's lock is held."""

    over: Callable[[Bundle], BundleResult]
    """Called once for each bundle, by many threads."""
    ready: Callable[[], bool] = lambda: True
    """Whether the pass may begin; may become true with any message of the registrar."""
    begin: Callable[[], None] = lambda: None
    end: Callable[[], list[ShardReport]] = list
    """Returns what the registrar must be told when every bundle is done."""


class Applier(Protocol):
    """How jobs are applied."""

    def passes(self, job: Job) -> Sequence[Pass]:
        """One after the other; bundles of one pass in any order or at the same time."""


class GradientSums:
    """Sums of contributions, block by block. There is no accumulator per worker."""

    def __init__(self, store: BlockStore, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    def of_bundle(self, bundle: Bundle, job: Job, out: NDArray[np.float32], result: BundleResult) -> Gradients:
        """The gradients of a bundle's blocks, those of finite values only, written into `out`; float32 [elements]."""
        gradients: Gradients = defaultdict(list)
        for position in bundle:
            block = self._store.blocks[position]
            if self._is_replaced(position, job):
                continue
            total = out[block.start - bundle.start : block.stop - bundle.start]
            if not self._reduce(block, job, total):
                continue
            if largest_bits(total) >= INFINITY_BITS:
                result.non_finite.append(block.parameter)
                continue
            staleness = self._staleness(position, job)
            factor = self._policy.learning_rate_factor(staleness, job.num_members)
            gradients[(block.group, factor)].append((position, torch.from_numpy(total)))
            result.staleness.append(staleness)
        return gradients

    def _is_replaced(self, position: int, job: Job) -> bool:
        """Whether gradients of this block belong to values that are, or are about to be, replaced."""
        if job.base_versions is not None and job.base_versions[position] < self._store.replaced_at[position]:
            return True
        return any(self._store.blocks[position].block_id in values for values in job.replacements)

    def _reduce(self, block: OwnedBlock, job: Job, total: NDArray[np.float32]) -> bool:
        """total = sum of weight x frame in the order of the parts; False if nobody sent this block."""
        found = False
        for part in job.parts:
            staged = part.frames.get(block.block_id)
            if staged is None:
                continue
            if found:
                staged.frame.add_to(total, part.weight)
            else:
                staged.frame.decode_into(total, part.weight)
            found = True
        return found

    def _staleness(self, position: int, job: Job) -> int:
        if job.base_versions is None:
            return 0
        return max(0, int(self._store.versions[position] - job.base_versions[position]))


class BundleApplier:
    """Applies jobs in one pass. Each thread owns one bundle of FP32 scratch for the sums."""

    def __init__(self, store: BlockStore, sums: GradientSums, publisher: Publisher) -> None:
        self._store = store
        self._sums = sums
        self._publisher = publisher
        self._scratch = ThreadScratch()

    def passes(self, job: Job) -> Sequence[Pass]:
        return [Pass(partial(self._apply, job))]

    def _apply(self, job: Job, bundle: Bundle) -> BundleResult:
        result = BundleResult()
        with bundle.lock:
            scratch = self._scratch.take(bundle.stop - bundle.start)
            for (group, factor), chosen in self._sums.of_bundle(bundle, job, scratch, result).items():
                positions = [position for position, _ in chosen]
                numbers = scaled_rate(job.numbers[group], factor)
                self._store.update(positions, [gradient for _, gradient in chosen], numbers, group)
                result.updated += positions
            publish(self._store, self._publisher, bundle, result)
        return result


def scaled_rate(numbers: dict[str, float], factor: float) -> dict[str, float]:
    """Group values with the learning rate times `factor`."""
    return {**numbers, "lr": numbers["lr"] * factor}


def publish(store: BlockStore, publisher: Publisher, bundle: Bundle, result: BundleResult) -> None:
    """Makes what was updated the published values, or says which parameter has diverged."""
    if not result.updated:
        return
    try:
        publisher.publish(bundle, sorted(result.updated))
    except NonFiniteError:
        # Encoding looks at every value anyway; only now is it worth asking whose it was.
        result.diverged = _first_diverged(store, result.updated)


def _first_diverged(store: BlockStore, positions: list[int]) -> str:
    blocks = [store.blocks[position] for position in positions]
    diverged = (block.parameter for block in blocks if largest_bits(store.array(block)) >= INFINITY_BITS)
    return next(diverged, f"what is published of {blocks[0].parameter}")
