"""Applying a job with an optimizer that needs norms of whole parameters (LARS, LAMB): in two passes.

The first turns gradients into raw updates, which are held, and measures them; the second scales them by the trust ratios and
applies them. In between shards tell each other what they measured (see `norms`).
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from .apply import Applier, BundleApplier, BundleResult, Gradients, GradientSums, Pass, publish, scaled_rate
from .blocks import BlockStore, Bundle
from .consistency import Policy
from .effects import Job
from .norms import Squares, StepNorms
from .optimizers import LayerwiseOptimizer
from .optimizers.layerwise import square
from .publication import Publisher


class LayerwiseApplier:
    """Applies jobs in two passes. The updates of one job are held, one FP32 number for each element of the shard."""

    def __init__(
        self,
        store: BlockStore,
        optimizer: LayerwiseOptimizer,
        sums: GradientSums,
        publisher: Publisher,
        norms: StepNorms,
    ) -> None:
        self._store = store
        self._optimizer = optimizer
        self._sums = sums
        self._publisher = publisher
        self._norms = norms
        self._held = np.empty(store.num_elements, dtype=np.float32)
        self._updates: dict[int, Gradients] = {}
        """By bundle: views of what is held. Each thread writes the entry of its own bundle."""
        self._squares: dict[int, dict[int, Squares]] = {}
        """By bundle and block id."""

    def passes(self, job: Job) -> Sequence[Pass]:
        first = Pass(partial(self._prepare, job), end=lambda: self._norms.measured(job, self._all_squares()))
        second = Pass(
            partial(self._finish, job), ready=lambda: self._norms.ready(job), begin=lambda: self._decide_ratios(job)
        )
        return [first, second]

    def _prepare(self, job: Job, bundle: Bundle) -> BundleResult:
        result = BundleResult()
        with bundle.lock:
            held = self._held[bundle.start : bundle.stop]
            updates = self._updates[bundle.number] = self._sums.of_bundle(bundle, job, held, result)
            squares = self._squares[bundle.number] = {}
            for (group, _), chosen in updates.items():
                positions = [position for position, _ in chosen]
                parameters = self._store.views(positions)
                vectors = [update for _, update in chosen]
                self._optimizer.prepare(positions, parameters, vectors, self._store.group(group, job.numbers[group]))
                for position, parameter, update in zip(positions, parameters, vectors, strict=True):
                    squares[self._store.blocks[position].block_id] = Squares(square(parameter), square(update))
        return result

    def _all_squares(self) -> dict[int, Squares]:
        return {block: pair for squares in self._squares.values() for block, pair in squares.items()}

    def _decide_ratios(self, job: Job) -> None:
        """Puts the trust ratio of every parameter that is updated here into the job."""
        whole = self._norms.whole(job)
        for updates in self._updates.values():
            for (group, _), chosen in updates.items():
                values = self._store.group(group, job.numbers[group])
                for position, _ in chosen:
                    index = self._store.blocks[position].parameter_index
                    squares = whole[index]
                    job.trust_ratios[index] = self._optimizer.trust_ratio(squares.weight, squares.update, values)

    def _finish(self, job: Job, bundle: Bundle) -> BundleResult:
        result = BundleResult()
        with bundle.lock:
            for (group, factor), chosen in self._updates.pop(bundle.number).items():
                positions = [position for position, _ in chosen]
                ratios = [job.trust_ratios[self._store.blocks[position].parameter_index] for position in positions]
                values = self._store.group(group, scaled_rate(job.numbers[group], factor))
                updates = [update for _, update in chosen]
                self._optimizer.finish(positions, self._store.views(positions), updates, ratios, values)
                self._store.raise_versions(positions)
                result.updated += positions
            publish(self._store, self._publisher, bundle, result)
        return result


def applier_for(store: BlockStore, policy: Policy, publisher: Publisher, norms: StepNorms) -> Applier:
    """The applier that the store's optimizer needs."""
    sums = GradientSums(store, policy)
    if isinstance(store.optimizer, LayerwiseOptimizer):
        return LayerwiseApplier(store, store.optimizer, sums, publisher, norms)
    return BundleApplier(store, sums, publisher)
