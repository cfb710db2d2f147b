"""The optimizer that user code holds: a torch optimizer whose step runs on the servers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from torch.utils.hooks import RemovableHandle

from ..protos.common_pb2 import ParameterGroup
from ..protos.errors import SettingError
from .group_reader import GroupReader
from .learning_rate import LearningRateFactor
from .loss_scaling import loss_scaling_of, reciprocal
from .optimizer_values import scaled_rates
from .recorded_steps import OptimizerParts, RecordedSteps, StepWeights
from .saved_state import STATE_KEY, NeverCopied, load_memory, saved_state, warn_of_local_state
from .step_messages import StepRequest


class RemoteOptimizer(NeverCopied, torch.optim.Optimizer):
    """A torch optimizer whose `step()` pushes gradients, lets the servers apply them and pulls the new values.

    `param_groups` are real: what is in them when `step()` is called, e.g. set by a scheduler, is what the servers use.
    Momenta and other state are on the servers. Parameters change in `step()` only.
    """

    # torch.amp.GradScaler then calls step() in every iteration, with the attributes grad_scale and found_inf.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        param_groups: list[dict[str, Any]],
        defaults: dict[str, Any],
        parts: OptimizerParts,
        lr_factor: LearningRateFactor | None = None,
    ) -> None:
        super().__init__(param_groups, defaults)
        self._groups = GroupReader(self)
        self._lr_factor = lr_factor
        self._num_workers = parts.num_workers
        self._replica = parts.replica
        self._ledger = parts.ledger
        self._steps = RecordedSteps(parts)
        self._weights = StepWeights()
        self._entry_of = {id(tensor): index for index, tensor in parts.table.held.items()}
        self._pushed = {
            index: tensor for index, tensor in parts.table.held.items() if parts.table.entries[index].group >= 0
        }
        self._frozen = dict(self._pushed)
        """Those without a hook: they did not require a gradient so far."""
        self._hooks: list[RemovableHandle] = []
        self._watch_unfrozen()

    @overload
    def step(self, closure: None = None, *, num_samples: float | None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float], *, num_samples: float | None = None) -> float: ...

    def step(self, closure: Callable[[], float] | None = None, *, num_samples: float | None = None) -> float | None:
        """Pushes the gradients and pulls the new values.

        `num_samples` is the weight of this step's mean loss (samples; tokens where the loss is a mean over tokens).
        Default: the samples that `worker.share()` gave since the last step; without any the weight of that step, else 1.

        Raises:
            NonFiniteError: a gradient is not finite; the step was skipped.
            RefusedError: a server refused the step; nothing changed there.
            SettingError: parameters were changed since the step before, without `push_values`, or what is on or off in a
                parameter group since the optimizer was made, or another thread is in a step; nothing was pushed, and the data
                are the next step's.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with self._steps.turn.step("optimizer.step() was called"):
            self._step(num_samples)
        return loss

    @property
    def lr_factor(self) -> float:
        """What learning rates of the newest step were multiplied by; see `LearningRateScaling`."""
        return 1.0 if self._lr_factor is None else self._lr_factor.value

    @property
    def learning_rate(self) -> float:
        """Of the first parameter group, as a step sends it."""
        return float(self.param_groups[0]["lr"]) * self.lr_factor

    def attach_scaler(self, scaler: "torch.amp.GradScaler") -> None:
        """Lets gradients be sent early although they are scaled: they are divided by the scaler's scale on the way."""
        self._replica.scale_early_by(lambda: reciprocal(scaler.get_scale()))

    def synchronize(self) -> None:
        """Waits until the newest values are in the parameters. `step()` has waited already; here for later."""

    def fetch(self, *used: torch.nn.Module | torch.Tensor) -> None:
        """Pulls the newest values of parameters that are on demand, ahead of the forward pass that uses them.

        Name modules or parameters; what is not on demand has the newest values already. Every rank of the worker calls this
        together, each with what it is about to use, possibly nothing. In a step whose gradients count, what is fetched fits
        the rest of the model: in synchronous mode it is of the same round.

        Raises:
            SettingError: a parameter is not one of the model's.
        """
        parameters = (p for each in used for p in (each.parameters() if isinstance(each, torch.nn.Module) else [each]))
        entries = {self._entry(parameter) for parameter in parameters}
        with self._steps.turn.step("optimizer.fetch() was called"):
            self._replica.changes.check(entries)
            self._replica.fetch(entries)

    def push_values(self) -> None:
        """Makes what the script has put into the parameters the servers' values: loaded, clamped or initialised anew.

        `step()` refuses to go on from values that were changed without it. Only blocks that were changed travel, exactly,
        whatever the codecs; if none was, nothing is done. In synchronous mode it takes part in the next round: call it on
        every worker, as every script that runs the same code does. If several workers have changed an element, the value of
        the lowest id counts; who calls it on one worker only voids the gradients that others push for the changed blocks in
        that round. In the other modes the last one counts, and gradients of the values before are void. Afterwards every
        worker pulls the same values. Momenta stay as they are, as in torch. Every rank of a worker calls it together.

        Raises:
            NonFiniteError: names a parameter that is not finite; nothing was sent.
        """
        with self._steps.turn.step("optimizer.push_values() was called"):
            self._steps.push_values(self._groups_without_step())

    def average_buffers(self) -> None:
        """Puts the mean over the workers into the model's buffers of floating point: running statistics, say.

        With the job's setting `average_buffers=true` it is done at the end of every epoch of `worker.share()`; here for loops
        without it. In synchronous mode only. It takes part in the next round: call it on every worker, behind the same step.
        The mean is over the workers that call it in that round, each counts the same, and they alone take it. Integer
        buffers stay, and so do those that are not saved. Every rank of a worker calls it together.

        Raises:
            SettingError: the job has no rounds, or a buffer is of more than 32 bits a number.
        """
        self.average(always=True)

    def average(self, always: bool) -> None:
        """See `average_buffers`; unless `always`, only if this worker has taken part in a step since."""
        with self._steps.turn.loop():
            self._replica.changes.check()
            self._steps.average_buffers(self._groups_without_step(), always)

    def state_dict(self) -> dict[str, Any]:
        """`param_groups`, and under `pushpull` what this worker's encoders remember, its clock and job. No server state."""
        state: dict[str, Any] = super().state_dict()
        state[STATE_KEY] = saved_state(self._replica)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores group values and what encoders remember; momenta of the servers are left as they are.

        What the saved groups lack, as those of an older torch may, stays as it is.
        """
        local = {key: value for key, value in state_dict.items() if key != STATE_KEY}
        present = [{key: value for key, value in group.items() if key != "params"} for group in self.param_groups]
        saved = local["param_groups"]
        if len(saved) == len(present):  # else torch says what is wrong
            saved = [{**values, **group} for values, group in zip(present, saved, strict=True)]
        super().load_state_dict({**local, "param_groups": saved, "state": {}})
        warn_of_local_state(state_dict)
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
        with self._steps.turn.loop():
            self._replica.changes.check()
            return self._steps.skip(self._groups.numbers(self.param_groups))

    def flush(self) -> None:
        """Every step has pushed already; here for code that also works with local updates."""

    def rejoin(self) -> None:
        """The lease ran out while user code was busy: everything dealt before is somebody else's now."""
        self._ledger.forget_dealt()
        self._replica.changes.warn_of_loss()
        self._replica.rejoin()

    def detach(self) -> None:
        """Removes the hooks from the model."""
        for hook in self._hooks:
            hook.remove()

    def _entry(self, parameter: torch.Tensor) -> int:
        entry = self._entry_of.get(id(parameter))
        if entry is None:
            raise SettingError(
                f"optimizer.fetch() was given a tensor of shape {tuple(parameter.shape)} that is no parameter of the model of "
                "this rank; pass parameters, or modules of the model that worker.optimizer() has got"
            )
        return entry

    def _groups_without_step(self) -> Sequence[ParameterGroup]:
        """Where no gradient is pushed: they may still hold for the round that others push one in."""
        return scaled_rates(self._groups.numbers(self.param_groups), self.lr_factor)

    def _step(self, num_samples: float | None) -> None:
        # All that may be refused here comes before the data are taken: they stay in hand, or their epoch would never end.
        self._replica.changes.check()
        scaling = loss_scaling_of(self)
        weight = self._weights.next(num_samples, self._ledger.num_samples)
        groups = scaled_rates(self._groups.numbers(self.param_groups), self._next_lr_factor(weight))
        data = self._ledger.take()
        request = StepRequest(
            gradients={i: tensor.grad for i, tensor in self._pushed.items() if tensor.grad is not None},
            groups=groups,
            num_samples=weight,
            lots=[lot.id for lot in data.lots],
            factor=scaling.factor,
            unchanged=scaling.unchanged,
            skip=scaling.overflow or weight == 0,
            void=data.void,
        )
        self._steps.take(request, data)
        self._watch_unfrozen()

    def _next_lr_factor(self, num_samples: float) -> float:
        if self._lr_factor is None:
            return 1.0
        position = self._replica.position
        if position.num_workers:
            return self._lr_factor.advance(position.num_workers, position.num_samples)
        expected = self._num_workers()
        return self._lr_factor.advance(expected, expected * num_samples)

    def _watch_unfrozen(self) -> None:
        """Gradients of what was unfrozen since the step before leave in `step()` this time, and early from now on."""
        unfrozen = {index: tensor for index, tensor in self._frozen.items() if tensor.requires_grad}
        for index, tensor in unfrozen.items():
            self._hooks.append(self._watch(index, tensor))
            del self._frozen[index]

    def _watch(self, index: int, tensor: torch.Tensor) -> RemovableHandle:
        turn, on_gradient = self._steps.turn, self._replica.on_gradient

        def hook(parameter: torch.Tensor) -> None:
            turn.check("a backward pass ran")
            on_gradient(index, parameter.grad)

        handle: RemovableHandle = tensor.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        return handle
