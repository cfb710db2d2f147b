"""Learning rates that follow the size of the joint batch while workers come and go. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..protos.errors import SettingError
from .user_numbers import count_of, number_of

RULES: dict[str, Callable[[float], float]] = {"linear": lambda ratio: ratio, "sqrt": math.sqrt}
"""Linear: Goyal et al., arXiv:1706.02677, for SGD. Square root: Krizhevsky, arXiv:1404.5997; usual with Adam and LAMB."""


@dataclass(frozen=True, kw_only=True)
class LearningRateScaling:
    """Multiplies every group's learning rate by rule(joint batch / the batch that the rate was chosen for).

    Meant for synchronous rounds: there one update averages everybody's batch. Otherwise every worker's batch is an update
    of its own, and its size does not grow with the number of workers.

    Raises:
        SettingError: no such rule, not exactly one base, or a number out of range.
    """

    rule: str = "linear"
    """`linear` or `sqrt`."""
    base_workers: int | None = None
    """The learning rate was chosen for this many workers."""
    base_samples: float | None = None
    """The learning rate was chosen for this many samples in an update."""
    warmup_steps: int = 0
    """Steps over which the factor moves, in equal parts, to where a change has put it; it starts at 1."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise SettingError(f"learning-rate scaling {self.rule!r} is not one of {', '.join(RULES)}")
        base = self.base_workers if self.base_samples is None else self.base_samples
        if (self.base_workers is None) == (self.base_samples is None) or not number_of("base", base) > 0:
            raise SettingError(
                "learning-rate scaling needs base_workers or base_samples, one of them: what the learning rate was chosen for"
            )
        count_of("warmup_steps", self.warmup_steps, 0)

    def target(self, num_workers: int, num_samples: float) -> float:
        """The factor for an update over this many workers and samples."""
        ratio = num_workers / self.base_workers if self.base_workers else num_samples / (self.base_samples or 1.0)
        return RULES[self.rule](ratio)


class LearningRateFactor:
    """Follows the target of a scaling, one call for each step. It starts at 1, the learning rate as it was given."""

    def __init__(self, scaling: LearningRateScaling) -> None:
        self.value = 1.0
        self._scaling = scaling
        self._target = 1.0
        self._steps_left = 0
        self._step_size = 0.0

    def advance(self, num_workers: int, num_samples: float) -> float:
        """The factor of the next step. Without anything known (0 samples) the target stays."""
        if num_workers > 0 and num_samples > 0:
            self._aim(self._scaling.target(num_workers, num_samples))
        if self._steps_left > 0:
            self._steps_left -= 1
            # From the target backwards, so that the last step meets it exactly.
            self.value = self._target - self._steps_left * self._step_size
        return self.value

    def _aim(self, target: float) -> None:
        if target == self._target:
            return
        self._target = target
        self._steps_left = max(1, self._scaling.warmup_steps)
        self._step_size = (target - self.value) / self._steps_left
