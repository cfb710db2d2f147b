"""Local updates: several optimizer steps on the worker, then a push of how far they led.

Local SGD (Stich, "Local SGD Converges Fast and Communicates Little", arXiv:1805.09767) with the outer Nesterov optimizer of
DiLoCo (Douillard et al., arXiv:2311.08105), which runs on the servers.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, overload

import torch

from ..protos.errors import NonFiniteError, SettingError
from .data_ledger import DataTaken
from .group_reader import GroupReader
from .loss_scaling import loss_scaling_of
from .pulled_values import PulledValues
from .recorded_steps import OptimizerParts, RecordedSteps, StepWeights
from .recorder import StepKind
from .saved_state import STATE_KEY, NeverCopied, load_memory, saved_state
from .step_messages import StepRequest
from .user_numbers import count_of, finite_number_of, number_of, positive_number_of

logger = logging.getLogger(__name__)

WINDOW_KEY = "window"


@dataclass(frozen=True, kw_only=True)
class OuterSettings:
    """How often local progress is pushed, and what the servers make of it.

    Raises:
        SettingError: names the argument.
    """

    every: int
    """Local steps of a window."""
    learning_rate: float
    momentum: float
    """Nesterov's; 0: none."""

    def __post_init__(self) -> None:
        count_of("every", self.every, 1)
        positive_number_of("outer_lr", self.learning_rate)
        if not 0 <= number_of("outer_momentum", self.momentum) < 1:
            raise SettingError(f"outer_momentum={self.momentum} must be at least 0 and below 1")

    def optimizer(self, inner: torch.optim.Optimizer) -> torch.optim.SGD:
        """What the servers run on the parameters of `inner`. A template: it never steps here.

        Raises:
            SettingError: `inner` is no optimizer.
        """
        if not isinstance(inner, torch.optim.Optimizer):
            raise SettingError(
                f"worker.local_updates() was given {getattr(inner, '__name__', type(inner).__name__)} where an optimizer "
                "belongs that is made already: worker.local_updates(model, torch.optim.AdamW(model.parameters(), lr=...), "
                "every=...)"
            )
        parameters = [parameter for group in inner.param_groups for parameter in group["params"]]
        momentum = number_of("outer_momentum", self.momentum)
        return torch.optim.SGD(
            parameters, lr=number_of("outer_lr", self.learning_rate), momentum=momentum, nesterov=momentum > 0
        )


@dataclass
class Window:
    """Local steps since the last push."""

    num_steps: int = 0
    num_samples: float = 0.0
    touched: set[int] = field(default_factory=set)
    """Plan entries that had a gradient in any of them."""
    counts: bool = False
    """Others wait for this worker since the first of them."""


class LocalUpdates(NeverCopied, torch.optim.Optimizer):
    """Steps a local optimizer, and in every `every`-th `step()` pushes (value last pulled - local value) and pulls.

    It shares `param_groups` and `state` with the local optimizer, so schedulers and `GradScaler` work on either of them;
    use this one in the training loop. Parameters hold local values between pushes, and the servers' values after one.
    Memory: FP32 copies of the parameters (4 bytes an element), besides what the local optimizer keeps.

    A parameter without any gradient in a window is absent from its push: if it is for all workers, the outer momentum does
    not move it. Buffers stay local.
    """

    # torch.amp.GradScaler then calls step() in every iteration: an overflow counts as a step of the window, so that
    # workers push at the same time.
    _step_supports_amp_scaling = True

    def __init__(
        self, inner: torch.optim.Optimizer, outer: torch.optim.SGD, settings: OuterSettings, parts: OptimizerParts
    ) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        self._outer = outer
        self._groups = GroupReader(outer)
        self._every = settings.every
        self._replica = parts.replica
        self._ledger = parts.ledger
        self._steps = RecordedSteps(parts)
        self._weights = StepWeights()
        self._optimised = {
            index: tensor for index, tensor in parts.table.held.items() if parts.table.entries[index].group >= 0
        }
        self._pulled = PulledValues(self._optimised)
        self._window = Window()
        self._samples_seen = 0.0
        self._share_state()

    @property
    def learning_rate(self) -> float:
        """Of the first parameter group of the local optimizer."""
        return float(self.param_groups[0]["lr"])

    @property
    def outer_lr(self) -> float:
        """Learning rate of the outer optimizer: what it is at a push is what the servers use."""
        return float(self._outer.param_groups[0]["lr"])

    @outer_lr.setter
    def outer_lr(self, value: float) -> None:
        self._outer.param_groups[0]["lr"] = finite_number_of("outer_lr", value)

    @property
    def outer_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the outer optimizer."""
        groups: list[dict[str, Any]] = self._outer.param_groups
        return groups

    @property
    def num_pending(self) -> int:
        """Local steps that are not pushed yet."""
        return self._window.num_steps

    @overload
    def step(self, closure: None = None, *, num_samples: float | None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float], *, num_samples: float | None = None) -> float: ...

    def step(self, closure: Callable[[], float] | None = None, *, num_samples: float | None = None) -> float | None:
        """One local step; the last one of a window also pushes and pulls.

        `num_samples` is the weight of this local step, as in `RemoteOptimizer.step`; a push has the sum of its window.
        The first step of a window makes this worker count if it did not. If the servers have newer values then, they are
        in the model on return, and the gradient of the old ones is dropped.

        Raises:
            NonFiniteError: local training went astray; the model holds the servers' values again.
            SettingError: parameters were changed since the last push, without `push_values`; nothing was done.
            RefusedError: a server refused the push; nothing changed there, and the window is lost.
        """
        with self._steps.turn.step("optimizer.step() was called"):
            return self._step(closure, num_samples)

    def _step(self, closure: Callable[[], float] | None, num_samples: float | None) -> float | None:
        self._check_start()
        if not self._window.counts and self._values_replaced() and closure is None:
            return None
        self._pulled.keep_unfrozen()
        weight = self._weight(num_samples)
        scaling = loss_scaling_of(self)
        loss = None
        if not self._replica.gradients.agree(not scaling.overflow):
            weight = 0.0
        if weight > 0:
            self._multiply_gradients(scaling.factor)
            loss = self._step_locally(closure)
            self._window.touched.update(i for i, tensor in self._optimised.items() if tensor.grad is not None)
        self._window.num_steps += 1
        self._window.num_samples += weight
        if self._window.num_steps >= self._every:
            self._push()
        return loss

    def flush(self) -> None:
        """Pushes local progress that is not pushed yet, as a shorter window, and pulls; does nothing if there is none."""
        if self._window.num_steps:
            self._push()

    def push_values(self) -> None:
        """Makes what the script has put into the parameters the servers' values; see `RemoteOptimizer.push_values`.

        Between two windows only. Inside one, what the script changes is local progress: it travels with the push.

        Raises:
            SettingError: there are local steps that are not pushed yet.
        """
        if self._window.num_steps:
            raise SettingError(
                f"{self._window.num_steps} local steps are not pushed yet, and what the script changes now is pushed with "
                "them; call optimizer.flush() before the change, and push_values() after it"
            )
        self._steps.push_values(self._groups.numbers(self._outer.param_groups))
        self._begin_window()

    def average_buffers(self) -> None:
        """Puts the mean over the workers into the model's buffers; see `RemoteOptimizer.average_buffers`. Ends a window."""
        self.average(always=True)

    def average(self, always: bool) -> None:
        """See `average_buffers`; unless `always`, only if this worker has taken part in a push since."""
        self.flush()
        self._check_start()
        self._steps.average_buffers(self._groups.numbers(self._outer.param_groups), always)
        self._begin_window()

    def skip_step(self) -> bool:
        """Without data: pushes what there is, or takes part in the next round, or clock; False if nothing new was pulled."""
        with self._steps.turn.loop():
            self._check_start()
            received = self._steps.bytes_received
            self._push()
            return self._steps.bytes_received > received

    def rejoin(self) -> None:
        """The lease ran out while user code was busy: everything dealt before is somebody else's now."""
        self._ledger.forget_dealt()
        if not self._window.num_steps:
            self._replica.changes.warn_of_loss()
        self._replica.rejoin()
        self._begin_window()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Groups are fixed for the job once the servers know the model."""
        if hasattr(self, "_replica"):
            raise SettingError(
                "the parameters are fixed for the whole job; give all of them to the optimizer for worker.local_updates()"
            )
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The local optimizer's; under `pushpull` what this worker's encoders remember, its clock, job and open window.

        An open window holds its local progress, FP32, as large as the parameters; right after a push there is none.
        """
        state: dict[str, Any] = self.inner.state_dict()
        window = {
            "num_steps": self._window.num_steps,
            "num_samples": self._window.num_samples,
            "differences": self._pulled.differences(self._window.touched),
        }
        state[STATE_KEY] = saved_state(self._replica) | {WINDOW_KEY: window}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the local optimizer, what encoders remember, and an open window on top of the servers' values."""
        self.inner.load_state_dict({key: value for key, value in state_dict.items() if key != STATE_KEY})
        self._share_state()
        if load_memory(self._replica, state_dict):
            window = state_dict[STATE_KEY].get(WINDOW_KEY, {"num_steps": 0, "num_samples": 0.0, "differences": {}})
            self._pulled.restore(())
            self._pulled.subtract(window["differences"])
            self._window = Window(window["num_steps"], window["num_samples"], set(window["differences"]))

    def detach(self) -> None:
        """Forgets local progress: nothing is pushed any more."""
        self._window = Window()

    # ---- inside ----

    def _share_state(self) -> None:
        """One set of groups and state, whichever of the two optimizers a scheduler or scaler holds."""
        self.param_groups = self.inner.param_groups
        self.state = self.inner.state

    def _check_start(self) -> None:
        """A window starts from the servers' values, which are the same for all."""
        if not self._window.num_steps:
            self._replica.changes.check()

    def _values_replaced(self) -> bool:
        """Sees to it that this worker counts while it trains: asked once in a window. True if that brought other values."""
        kind = self._replica.activate()
        if kind is None:
            self._window.counts = True
            return False
        if self._window.num_steps:
            logger.warning("%d local steps are lost", self._window.num_steps)
        self._steps.settle(kind, self._ledger.take())
        self._begin_window()
        return True

    def _begin_window(self) -> None:
        """The model holds the servers' values."""
        self._window = Window()
        self._samples_seen = self._ledger.num_samples
        self._pulled.note()

    def _weight(self, num_samples: float | None) -> float:
        seen = self._ledger.num_samples
        weight = self._weights.next(num_samples, max(0.0, seen - self._samples_seen))
        self._samples_seen = seen  # not of a step that was refused: its samples count with the next one
        return weight

    def _step_locally(self, closure: Callable[[], float] | None) -> float | None:
        """One step of the local optimizer, with gradients of the whole worker."""
        if closure is None:
            self._replica.gradients.reduce_in_place(self._optimised)
            return self.inner.step()

        def reduced() -> float:
            loss = closure()
            self._replica.gradients.reduce_in_place(self._optimised)
            return loss

        return self.inner.step(reduced)

    def _multiply_gradients(self, factor: float) -> None:
        if factor != 1.0:
            for tensor in self._optimised.values():
                if tensor.grad is not None:
                    tensor.grad.mul_(factor)

    def _push(self) -> StepKind:
        """A push of the window, or a skip without one. The window is over, whatever becomes of it."""
        groups = self._groups.numbers(self._outer.param_groups)  # refused before the data are taken
        window, data = self._window, self._ledger.take()
        if data.void:
            return self._drop_window(data)
        request = StepRequest(
            # Blocks of which the servers have nothing newer are not pulled again: the values before must be there.
            gradients=self._pulled.restore(window.touched | self._pulled.moved()),
            groups=groups,
            num_samples=window.num_samples,
            lots=[lot.id for lot in data.lots],
            skip=window.num_samples == 0,
            idle=window.num_steps == 0,
            reduced=True,
        )
        try:
            kind = self._steps.take(request, data)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{window.num_steps} local steps led to values that are not finite ({error}); they are dropped. Lower the "
                "learning rate, and make the optimizer anew: its state may not be finite either"
            ) from error
        finally:
            self._begin_window()
        if kind.drops_gradient:
            logger.warning("%d local steps are lost: their push is %s", window.num_steps, kind.in_words)
        return kind

    def _drop_window(self, data: DataTaken) -> StepKind:
        """Some of its data went back while this worker was suspended: others may have used them."""
        if self._window.num_steps:
            logger.warning("%d local steps are lost: their data went back to the others", self._window.num_steps)
        self._pulled.restore(())
        self._steps.settle(StepKind.TOO_OLD, data)
        self._begin_window()
        return StepKind.TOO_OLD
