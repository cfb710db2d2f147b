"""Numbers in which the steps of one synchronous round differ, where one step's hold for all. Pure; owned by the registrar."""

from collections.abc import Iterator, Mapping, Sequence

from ..protos.common_pb2 import ParameterGroup
from ..protos.registrar_pb2 import UnlikeNumber
from .roster import Roster

MOST_TOLD = 16
"""Of one incarnation: a scheduler changes every group at once, and the first of them say it."""


class UnlikeNumbers:
    """Compares the parameter groups of each round's appliers; tells each number once for each pair of workers.

    A round whose steps agree costs one comparison for each of them, and so does a worker of which enough was told.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._new: list[UnlikeNumber] = []

    def compare(self, round_number: int, applied: Mapping[int, Sequence[ParameterGroup]]) -> None:
        """Takes in a round: the groups of the steps that it applied, by worker id, ascending. The first one's hold."""
        steps = iter(applied.items())
        holder, held = next(steps, (0, ()))
        for worker_id, groups in steps:
            if groups == held:
                continue
            worker, unlike = self._roster[worker_id], False
            for index, name, mine, theirs in differences(groups, held):
                unlike = True
                if len(worker.unlike) == MOST_TOLD:
                    break
                if not any((told.holder_id, told.group, told.name) == (holder, index, name) for told in worker.unlike):
                    found = UnlikeNumber(
                        worker_id=worker_id,
                        group=index,
                        name=name,
                        value=mine,
                        holder_id=holder,
                        held=theirs,
                        round=round_number,
                    )
                    worker.unlike.append(found)
                    self._new.append(found)
            worker.num_unlike_steps += unlike

    def take_new(self) -> list[UnlikeNumber]:
        """What was found since the last call."""
        new, self._new = self._new, []
        return new


def differences(
    groups: Sequence[ParameterGroup], held: Sequence[ParameterGroup]
) -> Iterator[tuple[int, str, float, float]]:
    """Group, name and both numbers, wherever these groups differ.

    Learning rates that `lr_scaling` has multiplied by different factors (a warm-up of its own, a batch of another size) say
    nothing about what the scripts chose, and are left out.
    """
    for index, (mine, theirs) in enumerate(zip(groups, held, strict=False)):
        if mine == theirs:
            continue
        for name, number in sorted(mine.numbers.items()):
            other = theirs.numbers.get(name, number)
            if number != other and not (name == "lr" and mine.lr_factor != theirs.lr_factor):
                yield index, name, number, other
