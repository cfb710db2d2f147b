"""How the ranks of one worker split the model between them, as people write it: tp2, pp2xtp2, fsdp4, ... Pure."""

import math
import re
from dataclasses import dataclass

from ..protos.errors import SettingError

DIMENSIONS = ("pp", "dp", "fsdp", "tp")
"""Of the mesh, outermost first: pipeline stages, replicas, sharded data parallelism, tensor parallelism."""

PLAIN = "plain"
_PART = re.compile(r"(pp|dp|fsdp|tp)([1-9][0-9]*)")


@dataclass(frozen=True)
class Layout:
    """Ranks along each dimension of a worker's mesh."""

    pp: int = 1
    """Stages of a pipeline: each holds other layers."""
    dp: int = 1
    """Replicas that see different data; experts may be divided between them."""
    fsdp: int = 1
    """Ranks that see different data and hold a part of every parameter (`fully_shard`)."""
    tp: int = 1
    """Ranks that see the same data and compute a part of every layer (`parallelize_module`)."""

    @property
    def degrees(self) -> tuple[int, ...]:
        """Ranks along each of `DIMENSIONS`."""
        return self.pp, self.dp, self.fsdp, self.tp

    @property
    def num_ranks(self) -> int:
        return math.prod(self.degrees)

    @property
    def num_data_ranks(self) -> int:
        """Parts into which a batch of this worker is divided."""
        return self.dp * self.fsdp

    @property
    def spec(self) -> str:
        """Canonical text; `plain` for a single rank."""
        parts = [f"{name}{degree}" for name, degree in zip(DIMENSIONS, self.degrees, strict=True) if degree > 1]
        return "x".join(parts) or PLAIN

    def coordinates(self, rank: int) -> tuple[int, ...]:
        """Place of a rank along each of `DIMENSIONS`; the last one changes fastest."""
        place = []
        for degree in reversed(self.degrees):
            rank, coordinate = divmod(rank, degree)
            place.append(coordinate)
        return tuple(reversed(place))

    def data_rank(self, rank: int) -> int:
        """Which part of a batch a rank works on."""
        _, replica, part, _ = self.coordinates(rank)
        return replica * self.fsdp + part


def parse_layout(text: str) -> Layout:
    """The layout that a text like `pp2xtp2` names.

    Raises:
        SettingError: not of that form; says what would be.
    """
    if text == PLAIN:
        return Layout()
    degrees: dict[str, int] = {}
    for part in text.split("x"):
        match = _PART.fullmatch(part)
        if match is None or match[1] in degrees:
            raise SettingError(
                f"layout {text!r} is not `plain` or degrees joined by x, each dimension of {', '.join(DIMENSIONS)} at most "
                "once, for example tp2 or pp2xtp2"
            )
        degrees[match[1]] = int(match[2])
    return Layout(**degrees)
