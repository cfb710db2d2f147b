"""How many ranks each worker of a launch has, and how they split the model. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..protos.errors import SettingError
from ..worker.layout import parse_layout


@dataclass(frozen=True)
class WorkerShape:
    """The ranks of one worker."""

    num_ranks: int = 1
    layout: str | None = None
    """Canonical text, e.g. tp2; None when only the script knows."""


def worker_shape(layout: str | None, num_ranks: int | None, option: str) -> WorkerShape:
    """The shape of one worker. The layout says how many ranks it has; `option` is the name of what says `num_ranks`.

    Raises:
        SettingError: not a layout, or one for another number of ranks.
    """
    if layout is None:
        return WorkerShape(num_ranks or 1)
    parsed = parse_layout(layout)
    if num_ranks not in (None, parsed.num_ranks):
        raise SettingError(
            f"--layout {layout} has {parsed.num_ranks} ranks, but {option} is {num_ranks}. "
            f"Choose a layout of {num_ranks} ranks, or change {option}."
        )
    return WorkerShape(parsed.num_ranks, parsed.spec)


def worker_shapes(
    num_workers: int | None, ranks_per_worker: int | None, layouts: Sequence[str]
) -> tuple[WorkerShape, ...]:
    """The shape of each worker: one layout holds for all of them, several are one for each.

    Raises:
        SettingError: as `worker_shape`; or several layouts, and another number of workers.
    """
    if len(layouts) > 1 and num_workers not in (None, len(layouts)):
        raise SettingError(
            f"--layout names {len(layouts)} layouts, one for each worker, but --workers is {num_workers}. "
            "Leave out --workers, or name one layout for all."
        )
    shapes = [worker_shape(layout, ranks_per_worker, "--ranks-per-worker") for layout in layouts or (None,)]
    return tuple(shapes) if len(shapes) > 1 else tuple(shapes * (num_workers or 1))
