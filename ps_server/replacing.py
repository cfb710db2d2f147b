"""Applying values that workers put in the place of the servers' own: what a training script has changed in its model."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .apply import Applier, BundleResult, Pass
from .averaging import mean_into
from .blocks import BlockStore, Bundle
from .effects import Job
from .publication import Publisher

Floats = NDArray[np.float32]


class ReplacingApplier:
    """Applies a job's gradients as `gradients` does, and behind them the values that replace others.

    A worker sends whole blocks, but means the elements that it has changed. Elements that still are what was published keep the
    shard's own FP32 value, which may be finer; of an element that several workers have changed, the value of the lowest id
    counts. Where a block moved on since the worker pulled it, nobody can tell: it is replaced whole. Optimizer state stays.
    Of a block whose mean is asked for, that counts, whatever else was sent.
    """

    def __init__(self, gradients: Applier, store: BlockStore, publisher: Publisher) -> None:
        self._gradients = gradients
        self._store = store
        self._publisher = publisher

    def passes(self, job: Job) -> Sequence[Pass]:
        passes = list(self._gradients.passes(job)) if job.parts else []
        return [*passes, Pass(partial(self._replace, job))] if job.replacements or job.averaged else passes

    def _replace(self, job: Job, bundle: Bundle) -> BundleResult:
        result = BundleResult()
        with bundle.lock:
            positions = [position for position in bundle if self._replace_block(position, job)]
            self._store.replaced(positions)
            if positions:
                self._publisher.replace(bundle, positions)
        result.updated += positions
        return result

    def _replace_block(self, position: int, job: Job) -> bool:
        """False if nobody sent this block."""
        block = self._store.blocks[position]
        averaged = [values[block.block_id].frame for values in job.averaged if block.block_id in values]
        if averaged:
            mean_into(self._store.array(block), averaged)
            return True
        sent = [values[block.block_id] for values in job.replacements if block.block_id in values]
        if not sent:
            return False
        moved_on = job.base_versions is not None and self._store.versions[position] > job.base_versions[position]
        known = None if moved_on else self._publisher.published(position)
        values, received = self._store.array(block), np.empty(block.num_elements, np.float32)
        for staged in reversed(sent):
            staged.frame.decode_into(received)
            np.copyto(values, received, where=True if known is None else _differ(received, known))
        return True


def _differ(values: Floats, others: Floats) -> NDArray[np.bool_]:
    """By bits: a zero is not a negative one."""
    different: NDArray[np.bool_] = values.view(np.uint32) != others.view(np.uint32)
    return different
