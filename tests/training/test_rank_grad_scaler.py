"""The loss scaler of a worker of several ranks asks all of them, in a private method of torch's that must stay in use."""

from collections.abc import Sequence

import pytest
import torch

from pushpull.worker.ranks.grad_scaler import RankGradScaler
from pushpull.worker.ranks.group import SoleRank

SCALE = 8.0


class OneOfTwoRanks(SoleRank):
    """This rank, beside one that found as many overflows as it is told."""

    num_ranks = 2

    def __init__(self, found_elsewhere: float) -> None:
        self._found_elsewhere = found_elsewhere
        self.num_questions = 0

    def sums(self, values: Sequence[float]) -> list[float]:
        self.num_questions += 1
        return [value + self._found_elsewhere for value in values]


class TellingSGD(torch.optim.SGD):
    """An optimizer that judges overflows itself, like ours: its step is called in any case."""

    _step_supports_amp_scaling = True
    found_inf: torch.Tensor | None = None

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        assert self.found_inf is not None
        self.told = float(self.found_inf)


def spoiled_step(optimizer: torch.optim.Optimizer, ranks: OneOfTwoRanks, gradient: float, unscale: bool) -> float:
    """One step with this gradient on this rank; the scale behind it. No loss is scaled: a pipeline stage may have none."""
    (parameter,) = optimizer.param_groups[0]["params"]
    parameter.grad = torch.tensor([SCALE * gradient])
    scaler = RankGradScaler(ranks, "cpu", init_scale=SCALE, growth_interval=1000)
    if unscale:
        scaler.unscale_(optimizer)
        if gradient < float("inf"):
            assert float(parameter.grad) == gradient
    scaler.step(optimizer)
    scaler.update()
    assert ranks.num_questions == 1, "torch no longer calls _unscale_grads_: overflows of other ranks go unnoticed"
    return float(scaler.get_scale())


@pytest.mark.parametrize("unscale", [False, True], ids=["scaled", "unscaled by the user"])
@pytest.mark.parametrize(
    ("gradient", "elsewhere", "overflow"),
    [(1.0, 0.0, False), (1.0, 1.0, True), (float("inf"), 0.0, True)],
    ids=["none", "elsewhere", "here"],
)
def test_an_overflow_on_any_rank_skips_the_step(
    gradient: float, elsewhere: float, overflow: bool, unscale: bool
) -> None:
    plain = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.5)
    assert spoiled_step(plain, OneOfTwoRanks(elsewhere), gradient, unscale) == (SCALE / 2 if overflow else SCALE)
    assert float(plain.param_groups[0]["params"][0].detach()) == (1.0 if overflow else 0.5)
    telling = TellingSGD([torch.ones(1, requires_grad=True)], lr=0.5)
    assert spoiled_step(telling, OneOfTwoRanks(elsewhere), gradient, unscale) == (SCALE / 2 if overflow else SCALE)
    assert telling.told == overflow
