"""A model and batches that several tests train."""

import torch
from torch import nn


class SmallModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(40, 30)
        self.second = nn.Linear(30, 3)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.second(self.first(batch).relu())
        return output


def small_model() -> SmallModel:
    torch.manual_seed(0)
    return SmallModel()


def spoil(parameter: torch.Tensor, value: float) -> None:
    assert parameter.grad is not None
    parameter.grad[0, 0] = value


def backward(model: nn.Module, seed: int = 0) -> None:
    torch.manual_seed(seed)
    model(torch.randn(8, 40)).square().mean().backward()


def values_of(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_close(model: nn.Module, expected: nn.Module) -> None:
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
