"""CPU kernels of momentum that is kept by the worker. Like all of them without fast-math: a product is rounded
before it is added."""

import numpy as np
from numpy.typing import NDArray

from .kernels import kernel

Floats = NDArray[np.float32]
Positions = NDArray[np.uint32]


@kernel
def advance_velocity(values: Floats, velocity: Floats, momentum: np.float32, out: Floats) -> None:
    """out = fl(fl(momentum * velocity) + values)."""
    for i in range(values.size):
        out[i] = momentum * velocity[i] + values[i]


@kernel
def stop(positions: Positions, velocity: Floats) -> None:
    """velocity = 0 at these positions."""
    for i in range(positions.size):
        velocity[positions[i]] = np.float32(0)
