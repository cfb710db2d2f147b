"""Divides the GPT between the ranks of a worker, with PyTorch's own parts, and runs a training step on what a rank holds.

    parts = build_parts(shape, worker, options)          # tensor, pipeline and sharded-data parallelism, and products
    step = TrainingStep(parts, worker, options)
    loss = step(windows)                                 # forward and backward; gradients are in the parts

The comments say where PyTorch has traps.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from parallel_gpt_model import GPT, GPTShape, Layer, initialise, loss_of
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.distributed.tensor.parallel.style import ParallelStyle
from torch.utils.checkpoint import checkpoint

from pushpull.worker.layout import Layout

SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B}
STAGES_PER_RANK = {"interleaved": 2}  # 1 for the others
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Ranks(Protocol):
    """A worker, as far as it matters here: how its ranks divide the model, and which of them this is."""

    @property
    def layout(self) -> Layout: ...
    @property
    def rank(self) -> int: ...
    @property
    def mesh(self) -> DeviceMesh: ...  # of more than one rank


@dataclass(frozen=True)
class Options:
    """What a layout leaves open."""

    devices: tuple[str, ...] = ("cpu",)
    """Of this rank. Several: the layers are placed on them one after the other."""
    sequence_parallel: bool = False
    """With tensor parallelism: what is between the layers is divided as well, along time."""
    schedule: str = "1f1b"
    num_microbatches: int = 4
    """Of a pipeline."""
    checkpoint: bool = False
    """Layers compute their activations again in the backward pass instead of keeping them."""
    autocast: str = "fp32"
    """How activations are computed; parameters stay fp32."""
    seed: int = 0


# ---- the model ----


def build_parts(shape: GPTShape, ranks: Ranks, options: Options) -> list[GPT]:
    """What this rank holds: the model, a part of every layer, or the stages of a pipeline (two if interleaved).

    All layouts start with the same values. A rank never holds more than its own share and one layer.
    """
    layout = ranks.layout
    per_rank = STAGES_PER_RANK.get(options.schedule, 1) if layout.pp > 1 else 1
    stage, *_ = layout.coordinates(ranks.rank)
    num_stages = layout.pp * per_rank
    return [_build_part(shape, index, num_stages, ranks, options) for index in range(stage, num_stages, layout.pp)]


def _build_part(shape: GPTShape, stage: int, num_stages: int, ranks: Ranks, options: Options) -> GPT:
    with torch.device("meta"):  # names and shapes only
        part = GPT(shape)
    part.keep_stage(stage, num_stages)
    for name, piece in list(part.pieces()):
        piece.to_empty(device=options.devices[0])
        # A tied head on another stage than the embedding must start as the embedding does.
        initialise(piece, "wte" if shape.tied and name == "head" else name, options.seed)
        if ranks.layout.tp > 1:
            cut_tensors(part, name, ranks.mesh["tp"], options.sequence_parallel)
        if options.checkpoint and isinstance(piece, Layer):
            # Not the reentrant kind: it fires gradient hooks twice, the first time with a part of the sum.
            piece.forward = functools.partial(checkpoint, piece.forward, use_reentrant=False)
    # `to_empty` and `parallelize_module` put new parameters in place of old ones, which unties them. So does whoever holds a
    # parameter since before, a hook or an optimizer, lose it: the optimizer comes after all of this.
    part.tie()
    if len(options.devices) > 1:
        place(part, options.devices)
    if ranks.layout.num_data_ranks > 1:
        shard(part, ranks.mesh, ranks.layout)
    return part


def cut_tensors(part: GPT, piece: str, mesh: DeviceMesh, sequence_parallel: bool) -> None:
    """Tensor parallelism of one piece of the model; `TENSOR_SPLITS` says the same of its parameters."""
    plan = {name: style for name, style in tensor_plan(sequence_parallel).items() if _belongs(name, piece)}
    # Every rank has the same values already (`initialise`), so there is no need to scatter them from rank 0.
    parallelize_module(
        part, mesh, {name.replace("layers.*", piece): style for name, style in plan.items()}, src_data_rank=None
    )


def _belongs(name: str, piece: str) -> bool:
    return name.startswith("layers.*") if piece.startswith("layers.") else name == piece


def tensor_plan(sequence_parallel: bool) -> dict[str, ParallelStyle]:
    """How each module is computed by the ranks of a tensor-parallel group; modules that are not named are computed by all.

    With sequence parallelism what travels between layers is divided along time. Then the norms must be named too: plain
    ones would each get the gradient of their own rank's positions, silently.
    """
    join = RowwiseParallel(output_layouts=Shard(1)) if sequence_parallel else RowwiseParallel()
    between, positions = (Shard(1), Shard(0)) if sequence_parallel else (Replicate(), Replicate())
    plan: dict[str, ParallelStyle] = {
        # Rows of the vocabulary. The gradient of such an embedding is not laid out like its parameter; pushpull sees to it.
        "wte": RowwiseParallel(input_layouts=Replicate(), output_layouts=between),
        "wpe": RowwiseParallel(input_layouts=Replicate(), output_layouts=positions),
        "layers.*.attention.q": ColwiseParallel(),
        "layers.*.attention.k": ColwiseParallel(),
        "layers.*.attention.v": ColwiseParallel(),
        "layers.*.attention.o": join,
        "layers.*.mlp.up": ColwiseParallel(),
        "layers.*.mlp.down": join,
        "head": ColwiseParallel(input_layouts=between, output_layouts=Replicate()),
    }
    if sequence_parallel:
        gather = PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),))
        plan |= {"layers.*.attention": gather, "layers.*.mlp": gather}
        plan |= {name: SequenceParallel() for name in ("layers.*.norm_1", "layers.*.norm_2", "norm")}
    return plan


def shard(part: GPT, mesh: DeviceMesh, layout: Layout) -> None:
    """Sharded data parallelism. It comes after tensor parallelism (the reverse is an error), layers before the whole."""
    data_mesh = mesh["fsdp"] if layout.dp == 1 else mesh["dp", "fsdp"]
    for module in [*part.layers.values(), part]:
        # In a pipeline the next micro-batch needs the gathered parameters again.
        fully_shard(module, mesh=data_mesh, reshard_after_forward=layout.pp == 1)


def place(model: GPT, devices: Sequence[str]) -> None:
    """Puts runs of layers on several devices of this process; embeddings go to the first, the head to the last."""
    outer = {"norm": devices[-1], "head": devices[-1]}
    for name, piece in model.pieces():
        if isinstance(piece, Layer):
            device = devices[int(name.split(".")[1]) * len(devices) // model.shape.num_layers]
        elif model.shape.tied:
            device = devices[0]  # one tensor cannot be on two devices
        else:
            device = outer.get(name, devices[0])
        piece.to(device)
        piece.register_forward_pre_hook(functools.partial(_move_inputs, device))


def _move_inputs(device: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device) for tensor in inputs)


# ---- a step ----


def unscaled(loss: Tensor) -> Tensor:
    return loss


class TrainingStep:
    """Forward and backward of one batch, however the worker divides it. Every rank of the worker calls it together."""

    def __init__(
        self, parts: Sequence[GPT], ranks: Ranks, options: Options, scale: Callable[[Tensor], Tensor] = unscaled
    ) -> None:
        """`scale` of the loss, for fp16: `worker.grad_scaler(...).scale`."""
        self._layout, self._device = ranks.layout, options.devices[0]
        self._run = Pipeline(parts, ranks, options, scale) if self._layout.pp > 1 else Whole(parts[0], options, scale)

    def __call__(self, windows: Tensor, weight: float = 1.0) -> float:
        """Adds the gradients of the worker's mean loss; returns that loss.

        Args:
            windows: this rank's part of the batch, int64 [batch, time + 1]; ranks of one stage or of one tensor-parallel
                group have the same.
            weight: of its mean loss, if the parts are unequal (`worker.batch_weight`): `fully_shard` averages over ranks.
        """
        loss = weight * self._run(windows.to(self._device), weight)
        if self._layout.num_ranks > 1:
            # Only the last stage knows the loss, and each rank that of its own data.
            dist.all_reduce(loss)
        return float(loss) / (self._layout.num_data_ranks * self._layout.tp)


class Whole:
    """Without a pipeline."""

    def __init__(self, model: GPT, options: Options, scale: Callable[[Tensor], Tensor]) -> None:
        self._model, self._options, self._scale = model, options, scale

    def __call__(self, windows: Tensor, weight: float) -> Tensor:
        with _autocast(self._options):
            logits = self._model(windows[:, :-1])
            loss = loss_of(logits, windows[:, 1:].to(logits.device))
        (self._scale(loss) * weight).backward()
        return loss.detach()


class Pipeline:
    """Micro-batches through the stages. Every stage is told the whole batch; the first reads the text, the last the targets."""

    def __init__(self, parts: Sequence[GPT], ranks: Ranks, options: Options, scale: Callable[[Tensor], Tensor]) -> None:
        self._parts, self._options, self._scale = parts, options, scale
        self._group = ranks.mesh.get_group("pp")
        self._num_stages = ranks.layout.pp * len(parts)
        self._first_stage, *_ = ranks.layout.coordinates(ranks.rank)
        self._is_first, self._is_last = parts[0].wte is not None, parts[-1].head is not None
        self._shape: torch.Size | None = None
        self._weight = 1.0
        self._losses: list[Tensor] = []

    def __call__(self, windows: Tensor, weight: float) -> Tensor:
        if windows.shape != self._shape:
            # Receive buffers keep the shape of the first batch: with another one a rank fails and the others wait for it.
            self._schedule, self._shape = self._new_schedule(len(windows)), windows.shape
        self._weight, self._losses = weight, []
        inputs = (windows[:, :-1],) if self._is_first else ()
        targets = {"target": windows[:, 1:]} if self._is_last else {}
        with _autocast(self._options):
            self._schedule.step(*inputs, **targets)
        if not self._is_last:
            return torch.zeros((), device=windows.device)
        # At the first step PyTorch asks for the loss once more than there are micro-batches, to learn its shape.
        return torch.stack(self._losses[-self._options.num_microbatches :]).mean()

    def _new_schedule(self, num_windows: int) -> "ScheduleGPipe | Schedule1F1B | ScheduleInterleaved1F1B":
        count = self._options.num_microbatches
        if num_windows % count:
            raise ValueError(
                f"{num_windows} windows cannot be cut into {count} equal micro-batches; change --batch-size or --microbatches"
            )
        indices = range(self._first_stage, self._num_stages, self._num_stages // len(self._parts))
        stages = [
            PipelineStage(part, index, self._num_stages, torch.device(self._options.devices[0]), group=self._group)
            for index, part in zip(indices, self._parts, strict=True)
        ]
        make = SCHEDULES[self._options.schedule]
        # The schedule would divide gradients by the number of micro-batches at its end, and what earlier steps have added with
        # them: `_loss` divides instead.
        return make(stages if len(stages) > 1 else stages[0], count, loss_fn=self._loss, scale_grads=False)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss = loss_of(logits, targets)
        self._losses.append(loss.detach())
        return self._scale(loss) * (self._weight / self._options.num_microbatches)


def _autocast(options: Options) -> AbstractContextManager[object]:
    dtype = AUTOCAST[options.autocast]
    return nullcontext() if dtype is None else torch.autocast(torch.device(options.devices[0]).type, dtype)
