"""A frozen network with adapters, and what of it a step changes: run in threads of the test, or as ranks."""

import torch

from pushpull.worker import connect


class Adapted(torch.nn.Module):
    """A wide base that is not trained, and two small adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.base = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64))
        self.adapters = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(64) / 8) for _ in range(2)])
        self.used = [0, 1]

    def freeze(self) -> None:
        """The base needs no gradient any more."""
        self.base.requires_grad_(False)

    @property
    def num_trained(self) -> int:
        """Elements of the adapters."""
        return sum(adapter.numel() for adapter in self.adapters)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.base(inputs)
        for number in self.used:
            hidden = hidden * self.adapters[number]
        return hidden


def adapter_model() -> Adapted:
    """The same values everywhere."""
    torch.manual_seed(0)
    return Adapted()


def data_of_step(step: int) -> torch.Tensor:
    """Inputs, [8, 16]."""
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(step))


def versions(model: Adapted, optimizer: torch.optim.Optimizer, num_steps: int) -> list[set[str]]:
    """Steps that use the adapters in turn; the names of all parameters with a new version, by step."""
    changed = []
    for step in range(num_steps):
        model.used = [step % 2]
        inputs = data_of_step(step).to(model.adapters[0].dtype)
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        before = {name: parameter._version for name, parameter in model.named_parameters()}
        optimizer.step()
        changed.append({name for name, parameter in model.named_parameters() if parameter._version != before[name]})
    return changed


def changed_on_a_rank() -> list[set[str]]:
    """One rank of a worker whose ranks hold the same model."""
    with connect() as worker:
        model = adapter_model()
        model.freeze()
        return versions(model, worker.optimizer(model, torch.optim.AdamW, lr=1e-2), 4)
