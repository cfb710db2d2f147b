"""Noticing that the script has changed parameters which hold the servers' values."""

import logging
from collections.abc import Callable, Collection, Iterable

from ..protos.errors import PushpullError, RankFailedError, SettingError
from .plan import PlanBlock
from .ranks.model import RankModel

logger = logging.getLogger(__name__)

NAMES_SHOWN = 3


class ChangedValues:
    """Which blocks of this rank no longer hold what was written there. All ranks of a worker call `check` together.

    Only parameters that the servers optimise are looked at: frozen ones and buffers are the script's own.
    """

    def __init__(self, model: RankModel) -> None:
        self._ranks = model.ranks
        self._memory = model.memory
        self._entries = model.plan.entries
        held = [*model.blocks.blocks.values(), *(block for copied in model.blocks.copies for block in copied.blocks)]
        found = {block.id: block for block in held if self._entries[block.entry].group >= 0}
        self._blocks = [found[number] for number in sorted(found)]

    def blocks(self, wanted: Callable[[PlanBlock], bool] = lambda block: True) -> list[PlanBlock]:
        """Those that were changed since, ascending."""
        return self._memory.changed(filter(wanted, self._blocks))

    def check(self, entries: Collection[int] | None = None) -> None:
        """Looks at all parameters, or at these.

        Raises:
            SettingError: names what was changed, and says what to do.
            RankFailedError: another rank of this worker has changed something.
        """
        changed = self.blocks() if entries is None else self.blocks(lambda block: block.entry in entries)
        if self._ranks.sums([float(len(changed))])[0]:
            raise self._refusal(changed)

    def warn_of_loss(self) -> None:
        """The servers' values are about to be put over everything."""
        changed = self.blocks()
        if changed:
            logger.warning(
                "the lease ran out, and everything is pulled anew: what the script had put into %s is lost; change it again "
                "and call optimizer.push_values()",
                self._names(changed),
            )

    def _refusal(self, changed: Iterable[PlanBlock]) -> PushpullError:
        names = self._names(changed)
        if not names:
            return RankFailedError(
                "another rank of this worker has changed parameters that hold the servers' values, without "
                "optimizer.push_values()"
            )
        return SettingError(
            f"the script has changed {names} since the servers' values were put there (load_state_dict, clamp_, max_norm, a "
            "layer initialised anew, another type, ...). Other workers do not know of it, and the next values from the servers "
            "would undo it, so nothing was pushed. Call optimizer.push_values() after the change, which makes these values the "
            "servers'; or change the model before worker.optimizer()"
        )

    def _names(self, changed: Iterable[PlanBlock]) -> str:
        names = list(dict.fromkeys(self._entries[block.entry].name for block in changed))
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        return ", ".join(names[:NAMES_SHOWN]) + more
