"""From a torch model and optimizer to a replica that is in step with the servers."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..compression.cuda.warm_up import warm_up_on_device
from ..compression.spec import parse_codec
from ..compression.warm_up import warm_up
from ..protos.common_pb2 import JobSpecification, OptimizerSpecification
from ..protos.errors import SettingError
from .gradient_encoder import check_overrides, encoders_of
from .layout import Layout
from .membership import Membership
from .model_table import ModelTable, read_model
from .optimizer_values import check_momentum, optimizer_specification, warn_of_bursts
from .plan import make_plan
from .ranks.group import Ranks
from .ranks.model import rank_model
from .ranks.start import grid_of
from .replica import Replica
from .replica_settings import ReplicaSettings


@dataclass(frozen=True)
class GivenModel:
    """What user code says of its model."""

    parts: Sequence[torch.nn.Module]
    """The modules of this process, divided already."""
    whole: torch.nn.Module | None = None
    """The undivided model, where the parts do not tell."""

    @classmethod
    def of(
        cls, model: torch.nn.Module | Sequence[torch.nn.Module], whole: torch.nn.Module | None = None
    ) -> "GivenModel":
        """From one module, or one for each part.

        Raises:
            SettingError: it is something else: names its type.
        """
        parts = [model] if isinstance(model, torch.nn.Module) else model
        if not isinstance(parts, Sequence) or not all(isinstance(part, torch.nn.Module) for part in parts):
            raise SettingError(
                f"the model is an object of type {type(model).__name__}; give worker.optimizer() or worker.local_updates() the "
                "torch.nn.Module itself (or a list of modules), not its parameters: those go into params=..."
            )
        return cls(list(parts), whole)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Of all parts."""
        return itertools.chain.from_iterable(part.parameters() for part in self.parts)

    def check_told(self, layout: Layout) -> None:
        """Refuses pipeline stages without the model that they are stages of: like stages would pass for copies of one.

        Raises:
            SettingError: says what to pass.
        """
        if layout.pp > 1 and self.whole is None:
            raise SettingError(
                f"the layout is {layout.spec}, and a pipeline stage does not tell what model it is a stage of; pass whole=..., "
                "the undivided model (it may be on the meta device), and stages that keep its names"
            )


@dataclass(frozen=True)
class Seat:
    """This process's place: in the job, and in its worker."""

    membership: Membership
    ranks: Ranks
    layout: Layout


def start_replica(
    model: GivenModel, template: torch.optim.Optimizer, settings: ReplicaSettings, seat: Seat
) -> tuple[ModelTable, Replica]:
    """Enrols with a model and with what the servers run on it; the servers' values are in the model on return.

    Raises:
        SettingError, PlanMismatchError, OptimizerMismatchError, OverBudgetError: the job cannot train this.
    """
    job = seat.membership.job
    model.check_told(seat.layout)
    if settings.on_demand and seat.layout.fsdp > 1:
        raise SettingError(
            "on_demand does not go with fsdp: values would be fetched while the modules around them are gathered; divide the "
            "experts over dp instead"
        )
    reading = seat.ranks.together(lambda: read_model(model.parts, template.param_groups, model.whole))
    table = reading.table(seat.ranks.gather(reading.facts))
    specification = optimizer_specification(type(template), template.param_groups, template.defaults)
    _prepare_codecs(job, table, specification)
    if settings.encode_on_device:
        _warm_up_devices(job, table)
    plan = make_plan(table.entries, job.num_shards, job.block_elements, grid_of(job))
    rank = rank_model(table, plan, seat.ranks, seat.layout, model.parts)
    replica = Replica(seat.membership, rank, specification, settings)
    try:
        replica.start()
    except BaseException:
        replica.close()
        raise
    return table, replica


def _prepare_codecs(job: JobSpecification, table: ModelTable, optimizer: OptimizerSpecification) -> None:
    """Refuses codecs that do not go with model or optimizer, and compiles the others ahead of the first step."""
    encoders = encoders_of(job)
    check_overrides(encoders, table.entries[: table.num_parameters])
    check_momentum(optimizer, encoders)
    warn_of_bursts(optimizer, encoders)
    for encoder in encoders.all:
        encoder.warm_up()
    warm_up(parse_codec(job.pull_codec))


def _warm_up_devices(job: JobSpecification, table: ModelTable) -> None:
    """Compiles device kernels ahead of the first step, for every device that holds a part of the model."""
    for device in {tensor.device for tensor in table.held.values()}:
        for encoder in encoders_of(job).all:
            warm_up_on_device(encoder.codec, device)
