"""Two convex problems on which sending signs fails, and sending signs with error feedback does not.

Karimireddy, Rebjock, Stich and Jaggi, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes",
ICML 2019, section 3. signSGD moves by a fixed length in the direction of the signs; with error feedback the signs
have a scale, the mean magnitude, and what they leave out is sent later.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ..compression.codec import Floats
from .convergence_channel import Channel


class CounterExample(ABC):
    """A convex problem whose smallest value is known."""

    name: str
    start: tuple[float, ...]
    smallest_value: float

    @abstractmethod
    def value(self, point: Floats) -> float:
        """What is to be minimised."""

    @abstractmethod
    def gradient(self, point: Floats, random: np.random.Generator) -> Floats:
        """A subgradient, or one that is right in the mean."""

    def project(self, point: Floats) -> Floats:
        """The nearest allowed point."""
        return point


class RareLargeGradients(CounterExample):
    """x / 4 on [-1, 1]; the gradient is 4 in one draw of four, else -1. Most signs point away from the minimum."""

    name = "x / 4, gradient 4 or -1"
    start = (0.0,)
    smallest_value = -0.25

    def value(self, point: Floats) -> float:
        return float(point[0]) / 4.0

    def gradient(self, point: Floats, random: np.random.Generator) -> Floats:
        return np.array([4.0 if random.random() < 0.25 else -1.0], np.float32)

    def project(self, point: Floats) -> Floats:
        return np.clip(point, -1.0, 1.0)


class NarrowValley(CounterExample):
    """abs(x + y) / 2 + abs(x - y) from (1, 1): all signs are (1, -1) or (-1, 1), across the valley and never along it."""

    name = "abs(x + y) / 2 + abs(x - y)"
    start = (1.0, 1.0)
    smallest_value = 0.0

    def value(self, point: Floats) -> float:
        return float(0.5 * abs(point[0] + point[1]) + abs(point[0] - point[1]))

    def gradient(self, point: Floats, random: np.random.Generator) -> Floats:
        along = 0.5 if point[0] + point[1] >= 0.0 else -0.5
        across = 1.0 if point[0] - point[1] >= 0.0 else -1.0
        return np.array([along + across, along - across], np.float32)


@dataclass(frozen=True)
class Walk:
    """Where a method ended."""

    point: tuple[float, ...]
    value: float


def walk(problem: CounterExample, spec: str, *, fixed_length: bool = False, num_steps: int = 4000) -> Walk:
    """Gradient steps of rate 0.005 through the encoder `spec`.

    `fixed_length` is signSGD: of what arrives only the signs count, and each moves by the rate.
    """
    random = np.random.default_rng(0)
    point = np.array(problem.start, np.float32)
    channel = Channel(spec, point.size)
    for step in range(num_steps):
        arrived = channel.send(problem.gradient(point, random), step)
        direction = np.sign(arrived) if fixed_length else arrived
        point = problem.project(point - np.float32(0.005) * direction)
    return Walk(tuple(float(coordinate) for coordinate in point), problem.value(point))
