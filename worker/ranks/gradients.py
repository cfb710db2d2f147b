"""From the gradients that autograd leaves on one rank to those that the rank pushes."""

from collections.abc import Mapping

import torch

from ..local_tensors import lies_as, local_gradient, local_tensor
from .group import Ranks
from .reductions import GradientReduction


class RankGradients:
    """This rank's view of the worker's gradients."""

    def __init__(
        self,
        ranks: Ranks,
        parameters: Mapping[int, torch.Tensor],
        reduction: GradientReduction | None = None,
        final_in_backward: bool = True,
    ) -> None:
        """Of the parameters of this process, by plan entry.

        Args:
            reduction: None: no gradient has to be added to another rank's.
            final_in_backward: when autograd has accumulated a gradient, nobody changes it any more. Not so in a pipeline,
                which runs backward several times for one step, how often for a parameter is its schedule's business; nor
                where torch averages over replicas afterwards (DistributedDataParallel).
        """
        self.whole_after_backward = reduction is None and final_in_backward
        """Whether a gradient may leave while backward still runs."""
        self._ranks = ranks
        self._parameters = parameters
        self._reduction = reduction

    def reduced(self, gradients: Mapping[int, torch.Tensor]) -> Mapping[int, torch.Tensor]:
        """The worker's gradients, where this rank's have to be added to those of others. All ranks call it together."""
        if self._reduction is None:
            return gradients
        local = {entry: self.local(entry, gradient) for entry, gradient in gradients.items()}
        return self._reduction.reduce(local, {e: local_tensor(tensor) for e, tensor in self._parameters.items()})

    @torch.no_grad()
    def reduce_in_place(self, parameters: Mapping[int, torch.Tensor]) -> None:
        """Writes what `reduced` gives into the parameters' own gradients. All ranks call it together."""
        if self._reduction is None:
            return
        own = {entry: tensor.grad for entry, tensor in parameters.items() if tensor.grad is not None}
        for entry, gradient in self.reduced(own).items():
            parameter = parameters[entry]
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            local = local_tensor(parameter.grad)
            if not gradient.is_set_to(local):  # those that nobody had to add to are given back as they are
                local.copy_(gradient)

    def local(self, entry: int, gradient: torch.Tensor) -> torch.Tensor:
        """See `local_gradient`: ranks that hold the entry may communicate here."""
        return local_gradient(gradient, self._parameters[entry])

    def lies_as_parameter(self, entry: int, gradient: torch.Tensor) -> bool:
        """Whether what `local` gives is the gradient's own memory."""
        return lies_as(gradient, self._parameters[entry])

    def agree(self, fine: bool) -> bool:
        """Whether all ranks say so."""
        return bool(self._ranks.smallest([int(fine)])[0])
