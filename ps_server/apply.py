"""Applying a job to one bundle: reduce the contributions, run the optimizer, publish. No locks but the bundle's own."""

import threading
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ..compression.kernels import largest_bits
from ..protos.errors import NonFiniteError
from .blocks import BlockStore, Bundle, OwnedBlock
from .consistency import Policy
from .effects import Job
from .publication import Publisher

INFINITY_BITS = 0x7F800000


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


class BundleApplier:
    """Applies jobs to bundles; many threads may apply different bundles at the same time.

    Each thread owns one bundle of FP32 scratch: the sum of the contributions. There is no accumulator per worker.
    """

    def __init__(self, store: BlockStore, policy: Policy, publisher: Publisher) -> None:
        self._store = store
        self._policy = policy
        self._publisher = publisher
        self._scratch = threading.local()

    def apply(self, bundle: Bundle, job: Job) -> BundleResult:
        """Reduces, updates and publishes one bundle."""
        result = BundleResult()
        scratch = self._scratch_of(bundle)
        by_call: dict[tuple[int, float], list[tuple[int, torch.Tensor]]] = defaultdict(list)
        with bundle.lock:
            for position in bundle:
                block = self._store.blocks[position]
                total = scratch[block.start - bundle.start : block.stop - bundle.start]
                if not self._reduce(block, job, total):
                    continue
                if largest_bits(total) >= INFINITY_BITS:
                    result.non_finite.append(block.parameter)
                    continue
                staleness = self._staleness(position, job)
                factor = self._policy.learning_rate_factor(staleness, job.num_members)
                by_call[(block.group, factor)].append((position, torch.from_numpy(total)))
                result.staleness.append(staleness)
            for (group, factor), chosen in by_call.items():
                numbers = dict(job.numbers[group])
                numbers["lr"] *= factor
                positions = [position for position, _ in chosen]
                self._store.update(positions, [gradient for _, gradient in chosen], numbers, group)
                result.updated += positions
            if result.updated:
                try:
                    self._publisher.publish(bundle, sorted(result.updated))
                except NonFiniteError:
                    # Encoding looks at every value anyway; only now is it worth asking whose it was.
                    result.diverged = self._first_diverged(result.updated)
        return result

    def _first_diverged(self, positions: list[int]) -> str:
        blocks = [self._store.blocks[position] for position in positions]
        diverged = (block.parameter for block in blocks if largest_bits(self._store.array(block)) >= INFINITY_BITS)
        return next(diverged, f"what is published of {blocks[0].parameter}")

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

    def _scratch_of(self, bundle: Bundle) -> NDArray[np.float32]:
        size = bundle.stop - bundle.start
        scratch: NDArray[np.float32] | None = getattr(self._scratch, "values", None)
        if scratch is None or scratch.size < size:
            scratch = self._scratch.values = np.empty(size, dtype=np.float32)
        return scratch
