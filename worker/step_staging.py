"""The gradients of one step, from `optimizer.step()` to frames that only lack their commit."""

from collections.abc import Mapping

import torch

from ..protos.errors import NonFiniteError
from .loss_scaling import check_same_on_all
from .on_demand import OnDemand
from .ranks.model import RankModel
from .staging import StagedStep, Stager
from .step_messages import StagedFrames, StepRequest, clipping_factor


class StepStaging:
    """Stages steps. All ranks of a worker make the same calls together and agree on what becomes of a step."""

    def __init__(self, model: RankModel, on_demand: OnDemand, stager: Stager, clip_norm: float | None) -> None:
        self.gradient_norm: float | None = None
        """Of the newest step, over all ranks, before clipping; None if nothing clips."""
        self._own = model.blocks
        self._ranks = model.ranks
        self._gradients = model.gradients
        self._on_demand = on_demand
        self._stager = stager
        self._clip_norm = clip_norm

    def stage(self, request: StepRequest) -> StagedFrames:
        """Sends the gradients, unless some rank skips the step: then all do.

        A gradient that is not finite makes the step a skip too, because others may wait for it; then the caller learns.
        """
        fetched = request.skip or self._on_demand.all_may_be_pushed(request.gradients)
        skips, unfetched, factors = self._ranks.sums([float(request.skip), float(not fetched), request.factor])
        if skips:
            return StagedFrames.of_skip(self._own, self._stager.abandon())
        if unfetched:
            raise self._on_demand.refusal(request.gradients)
        gradients = request.gradients if request.reduced else self._gradients.reduced(request.gradients)
        staged, failure = self._ranks.together(lambda: self._finish(gradients, request, factors))
        failures, squares = self._ranks.sums([float(failure is not None), staged.squares])
        if failures:
            failure = failure or NonFiniteError("the gradient of another rank of this worker is not finite")
            return StagedFrames.of_skip(self._own, self._stager.abandon(), failure)
        self.gradient_norm = None if self._clip_norm is None else squares**0.5
        return StagedFrames.of_gradients(self._own, staged, clipping_factor(self._clip_norm, squares))

    def without_gradients(self) -> StagedFrames:
        """A step that is applied and has none: for values that replace others. What was sent early is dropped."""
        return StagedFrames.of_values(self._own, self._stager.abandon())

    def _finish(
        self, gradients: Mapping[int, torch.Tensor], request: StepRequest, factors: float
    ) -> tuple[StagedStep, NonFiniteError | None]:
        check_same_on_all(request.factor, factors, self._ranks.num_ranks)
        try:
            return self._stager.finish(gradients, request.factor, request.unchanged), None
        except NonFiniteError as error:
            return StagedStep(0, frozenset(), 0.0), error
