"""Tells people that the servers keep the moments of values that the script has replaced."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..protos.common_pb2 import ParameterGroup
from .given_parameters import listed

logger = logging.getLogger(__name__)

WITH_MOMENTUM_ONLY = frozenset({"SGD", "LARS"})
"""Optimizers that keep something only where a parameter group has momentum."""
OUR_FOLDER = str(Path(__file__).parent)


class KeptMoments:
    """Says it once for each place in the script that pushes values. Used by the training thread."""

    def __init__(self, optimizer_name: str) -> None:
        """`optimizer_name`: of what the servers run."""
        self._optimizer_name = optimizer_name
        self._told: set[str] = set()

    def is_news(self, place: str, groups: Sequence[ParameterGroup]) -> bool:
        """Whether there are moments that a push of values from this place leaves as they are, and nobody was told so. Pure."""
        return place not in self._told and keeps_moments(self._optimizer_name, groups)

    def tell(self, place: str, names: Sequence[str]) -> None:
        """`names` of the parameters whose values are pushed; nothing is said of none."""
        if not names:
            return
        self._told.add(place)
        logger.info(
            "optimizer.push_values() at %s: the servers take the values of %s, and keep the moments of %s that belong to "
            "the values before, as torch's own optimizer does when a model is loaded. For moments that start anew begin a job "
            "with these values: load them before worker.optimizer(...)",
            place,
            listed(names),
            self._optimizer_name,
        )


def keeps_moments(optimizer_name: str, groups: Sequence[ParameterGroup]) -> bool:
    """Whether servers hold anything of earlier gradients. Pure."""
    if optimizer_name not in WITH_MOMENTUM_ONLY:
        return True
    return any(group.numbers.get("momentum", 0.0) for group in groups)


def calling_place() -> str:
    """File and line of the code outside this package that is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OUR_FOLDER):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
