"""How far local training has come from the values that were pulled last."""

from collections.abc import Collection, Iterable, Mapping

import torch

from .local_tensors import local_tensor


class PulledValues:
    """The values pulled last, beside the live tensors that local steps change. Owned by the training thread.

    Keeps one FP32 number for each element, on the tensors' devices. The same memory holds the differences while they are
    pushed: the tensors themselves have the pulled values then.
    """

    def __init__(self, tensors: Mapping[int, torch.Tensor]) -> None:
        """`tensors` by plan entry, in which the servers' values lie now."""
        self._all = dict(tensors)
        self._tensors: dict[int, torch.Tensor] = {}
        self._kept: dict[int, torch.Tensor] = {}
        self.keep_unfrozen()

    @torch.no_grad()
    def keep_unfrozen(self) -> None:
        """Keeps what is in tensors that are trained from now on: the pulled values, until a local step changes them.

        Those that never are cost no memory.
        """
        self._keep(e for e, tensor in self._all.items() if tensor.requires_grad or tensor.grad is not None)

    @torch.no_grad()
    def _keep(self, entries: Iterable[int]) -> None:
        for entry in entries:
            if entry not in self._kept:
                self._tensors[entry] = tensor = self._all[entry]
                self._kept[entry] = tensor.detach().float().clone()

    @torch.no_grad()
    def note(self) -> None:
        """New values were pulled into the tensors."""
        for entry, tensor in self._tensors.items():
            self._kept[entry].copy_(tensor)

    @torch.no_grad()
    def moved(self) -> set[int]:
        """Entries whose tensors do not hold the pulled values any more."""
        return {entry for entry, tensor in self._tensors.items() if not _same(tensor, self._kept[entry])}

    @torch.no_grad()
    def restore(self, entries: Collection[int]) -> dict[int, torch.Tensor]:
        """Puts the pulled values back; (pulled - local), FP32, of these entries. Tensors that hold them still are not written.

        What is returned lies in this object's memory: it is valid until `note`, which must come next.
        """
        differences = {}
        for entry, tensor in self._tensors.items():
            kept = self._kept[entry]
            local = tensor
            if not _same(tensor, kept):
                local = tensor.clone()
                tensor.copy_(kept)
            if entry in entries:
                differences[entry] = kept.sub_(local.to(kept))
        return differences

    @torch.no_grad()
    def differences(self, entries: Collection[int]) -> dict[int, torch.Tensor]:
        """(pulled - local), FP32, of these entries: copies."""
        return {entry: self._kept[entry] - self._tensors[entry].to(self._kept[entry]) for entry in entries}

    @torch.no_grad()
    def subtract(self, differences: Mapping[int, torch.Tensor]) -> None:
        """Brings the tensors as far from the pulled values as they were when these differences were taken."""
        self._keep(differences)
        for entry, difference in differences.items():
            kept = self._kept[entry]
            self._tensors[entry].copy_(kept - difference.to(kept))


def _same(tensor: torch.Tensor, kept: torch.Tensor) -> bool:
    """Of divided tensors, the parts in this process: writing them is its own affair."""
    local = local_tensor(tensor)
    return torch.equal(local, local_tensor(kept).to(local))
