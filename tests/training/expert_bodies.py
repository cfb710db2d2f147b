"""What workers do in tests of mixtures of experts: in threads of the test, or as ranks of their own (`rank_groups`)."""

from dataclasses import dataclass, field
from typing import Any

import torch
from moe_gpt import EXPERTS, Mixture, MoEGPT, TrainingStep, build_part, whole_model
from parallel_bodies import LEARNING_RATE, Group, windows_of
from parallel_gpt_model import GPTShape

from pushpull.protos.errors import PushpullError
from pushpull.worker import Worker, connect
from pushpull.worker.layout import Layout
from pushpull.worker.optimizer import RemoteOptimizer
from pushpull.worker.share import part_of

SHAPE = GPTShape(width=16, num_layers=2, num_heads=2, context=8, vocabulary=31)
MIXTURE = Mixture(num_experts=16, experts_per_token=1)
NUM_WINDOWS = 2
"""So few tokens that experts go without."""


@dataclass
class Training:
    """One worker's, in one process or one rank."""

    worker: Worker
    on_demand: bool
    accumulate: int = 1
    losses: list[float] = field(default_factory=list)
    used: list[set[str]] = field(default_factory=list)
    """Names of the parameters of the experts with tokens, by step."""

    def __post_init__(self) -> None:
        self.model = build_part(SHAPE, MIXTURE, self.worker)
        self.names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        self.optimizer: RemoteOptimizer = self.worker.optimizer(
            self.model,
            torch.optim.AdamW,
            whole=whole_model(SHAPE, MIXTURE),
            lr=LEARNING_RATE,
            accumulate=self.accumulate,
            on_demand=[EXPERTS] if self.on_demand else [],
        )
        self.model.fetch_with(self.fetch)
        self.step = TrainingStep(self.model, self.worker)

    @property
    def bytes_received(self) -> int:
        """Of values, so far."""
        return self.optimizer._replica.traffic()[1]

    def entries_sent_early(self) -> set[str]:
        """Names of the parameters whose gradients are on their way, or there."""
        replica = self.optimizer._replica
        return {replica.plan.entries[entry].name for entry in replica._stager._records}

    def fetch(self, *experts: torch.nn.Module) -> None:
        self.used[-1].update(self.names[id(parameter)] for expert in experts for parameter in expert.parameters())
        self.optimizer.fetch(*experts)

    def backward(self, number: int, first: int = 0, last: int = NUM_WINDOWS, of: int = NUM_WINDOWS) -> None:
        """Of windows first .. last - 1 of a step's batch; a rank takes its part of them."""
        part = self.worker.layout.data_rank(self.worker.rank), self.worker.layout.num_data_ranks
        start, size = part_of(last - first, part)
        windows = windows_of(number, of, SHAPE)[first:last][start : start + size]
        self.losses.append(self.step(windows, 1 / self.accumulate))

    def train(self, num_steps: int, *windows: int) -> None:
        for number in range(num_steps):
            self.used.append(set())
            self.backward(number, *windows)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def values(self) -> torch.Tensor:
        """All parameters, the newest."""
        self.optimizer.fetch(self.model)
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


def train_ranks(num_steps: int) -> dict[str, Any]:
    """On demand, and then a step in which rank 0 does not fetch what it uses: losses, and what that step says."""
    with connect() as worker:
        training = Training(worker, on_demand=True)
        training.train(num_steps)
        losses = list(training.losses)
        if worker.rank == 0:
            training.model.fetch_with(lambda *experts: training.optimizer.fetch())
        try:
            training.train(1)
            said = ""
        except PushpullError as error:
            said = f"{type(error).__name__}: {error}"
    return {"losses": losses, "used": training.used[:num_steps], "said": said}


def train_plain(num_steps: int) -> tuple[list[float], MoEGPT]:
    """In this process, without servers: the loss of each step, and the model."""
    alone = Group(Layout(), 0)
    model = build_part(SHAPE, MIXTURE, alone)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    step = TrainingStep(model, alone)
    losses = []
    for number in range(num_steps):
        losses.append(step(windows_of(number, NUM_WINDOWS, SHAPE)))
        optimizer.step()
        optimizer.zero_grad()
    return losses, model
