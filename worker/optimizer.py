"""The optimizer that user code holds: a torch optimizer whose step runs on the servers."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from ..protos.errors import SettingError
from .data_ledger import DataLedger
from .model_table import ModelTable
from .optimizer_values import group_numbers
from .recorder import Recorder, StepKind, StepSummary, StepTimes
from .replica import Replica
from .saved_state import STATE_KEY, load_memory, saved_state
from .step_messages import StepRequest

DEFAULT_NUM_SAMPLES = 1.0


@dataclass(frozen=True)
class OptimizerParts:
    """What a RemoteOptimizer works with; made by `Worker.optimizer`."""

    table: ModelTable
    replica: Replica
    ledger: DataLedger
    recorder: Recorder


class RemoteOptimizer(torch.optim.Optimizer):
    """A torch optimizer whose `step()` pushes gradients, lets the servers apply them and pulls the new values.

    `param_groups` are real: what is in them when `step()` is called, e.g. set by a scheduler, is what the servers use.
    Momenta and other state are on the servers. Parameters change in `step()` only.
    """

    # torch.amp.GradScaler then calls step() in every iteration, with the attributes grad_scale and found_inf.
    _step_supports_amp_scaling = True

    def __init__(self, param_groups: list[dict[str, Any]], defaults: dict[str, Any], parts: OptimizerParts) -> None:
        super().__init__(param_groups, defaults)
        self._replica = parts.replica
        self._ledger = parts.ledger
        self._recorder = parts.recorder
        self._pushed = {
            index: tensor for index, tensor in parts.table.held.items() if parts.table.entries[index].group >= 0
        }
        self._step_ended_at: float | None = None
        self._traffic = parts.replica.traffic()
        self._hooks = [self._watch(index, tensor) for index, tensor in self._pushed.items()]

    @overload
    def step(self, closure: None = None, *, num_samples: float | None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float], *, num_samples: float | None = None) -> float: ...

    def step(self, closure: Callable[[], float] | None = None, *, num_samples: float | None = None) -> float | None:
        """Pushes the gradients and pulls the new values.

        `num_samples` is the weight of this step's mean loss (samples; tokens where the loss is a mean over tokens).
        Default: the samples that `worker.share()` gave since the last step, else 1.

        Raises:
            NonFiniteError: a gradient is not finite; the step was skipped.
            RefusedError: a server refused the step; nothing changed there.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step(num_samples)
        return loss

    def attach_scaler(self, scaler: "torch.amp.GradScaler") -> None:
        """Lets gradients be sent early although they are scaled: they are divided by the scaler's scale on the way."""
        self._replica.scale_early_by(lambda: _reciprocal(scaler.get_scale()))

    def synchronize(self) -> None:
        """Waits until the newest values are in the parameters. `step()` has waited already; here for later."""

    def state_dict(self) -> dict[str, Any]:
        """`param_groups`, and under `pushpull` what this worker's encoders remember, its clock and job. No server state."""
        state: dict[str, Any] = super().state_dict()
        state[STATE_KEY] = saved_state(self._replica)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores group values and what encoders remember; momenta of the servers are left as they are."""
        local = {key: value for key, value in state_dict.items() if key != STATE_KEY}
        super().load_state_dict({**local, "state": {}})
        load_memory(self._replica, state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Groups are fixed for the job once the servers know the model."""
        if hasattr(self, "_replica"):
            raise SettingError(
                "parameter groups are fixed for the whole job; pass all of them to worker.optimizer(params=[...])"
            )
        super().add_param_group(param_group)

    def skip_step(self) -> bool:
        """Takes part in the next round, or clock, without data, and pulls; False if there was nothing new."""
        request = StepRequest(
            gradients={}, groups=group_numbers(self.param_groups, self.defaults), num_samples=0.0, skip=True
        )
        _, received, _ = self._replica.traffic()
        self._timed(request)
        return self._replica.traffic()[1] > received

    def detach(self) -> None:
        """Removes the hooks from the model."""
        for hook in self._hooks:
            hook.remove()

    def _step(self, num_samples: float | None) -> None:
        factor, overflow, unchanged = self._loss_scaling()
        data = self._ledger.take()
        weight = data.num_samples or DEFAULT_NUM_SAMPLES if num_samples is None else float(num_samples)
        if not 0 <= weight < float("inf"):
            raise SettingError(f"num_samples={num_samples} must be a finite number of at least 0")
        request = StepRequest(
            gradients={i: tensor.grad for i, tensor in self._pushed.items() if tensor.grad is not None},
            groups=group_numbers(self.param_groups, self.defaults),
            num_samples=weight,
            lots=[lot.id for lot in data.lots],
            factor=factor,
            unchanged=unchanged,
            skip=overflow or weight == 0,
        )
        kind = self._timed(request)
        if kind is StepKind.TOO_OLD:
            self._ledger.use_again(data)
        elif kind is StepKind.EXPIRED:
            self._ledger.forget_dealt()

    def _loss_scaling(self) -> tuple[float, bool, bool]:
        """What GradScaler says: factor for the gradients, overflow, and whether it left them alone."""
        scale = getattr(self, "grad_scale", None)
        found_inf = getattr(self, "found_inf", None)
        factor = 1.0 if scale is None else _reciprocal(float(scale))
        return factor, found_inf is not None and float(found_inf) > 0, found_inf is None or scale is not None

    def _timed(self, request: StepRequest) -> StepKind:
        replica, started = self._replica, time.perf_counter()
        before = replace(replica.timings)
        num_restaged = replica.num_restaged
        kind = StepKind.REFUSED
        try:
            kind = replica.step(request)
        finally:
            now = replica.timings
            traffic = replica.traffic()
            pushed, pulled, resent = (b - a for a, b in zip(self._traffic, traffic, strict=True))
            self._traffic = traffic
            compute = 0.0 if self._step_ended_at is None else started - self._step_ended_at
            self._step_ended_at = time.perf_counter()
            self._recorder.step_ended(
                StepSummary(
                    kind=kind,
                    num_samples=request.num_samples if kind is StepKind.APPLIED else 0.0,
                    restaged=replica.num_restaged > num_restaged,
                    times=StepTimes(
                        compute=compute,
                        encode=now.encode - before.encode,
                        wait=now.wait - before.wait,
                        decode=now.decode - before.decode,
                    ),
                    bytes_pushed=pushed,
                    bytes_pulled=pulled,
                    bytes_resent=resent,
                )
            )
        return kind

    def _watch(self, index: int, tensor: torch.Tensor) -> RemovableHandle:
        on_gradient = self._replica.on_gradient
        handle: RemovableHandle = tensor.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            lambda parameter: on_gradient(index, parameter.grad)
        )
        return handle


def _reciprocal(scale: float) -> float:
    """One over the scale, rounded as torch rounds it."""
    return float(np.float32(1.0 / scale))
