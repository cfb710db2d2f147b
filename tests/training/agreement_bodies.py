"""What two ranks run to show what they agree on. Every function here is a body of `rank_groups`."""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from pushpull.protos.errors import ExpiredError, ReplacedError, SettingError
from pushpull.worker.ranks.process_group import ProcessGroupRanks


class OpaqueError(Exception):
    """Cannot be sent to another process."""

    def __init__(self, text: str, *, cause: str) -> None:
        super().__init__(text)
        self.cause = lambda: cause


ERRORS: dict[str, Callable[[], Exception]] = {
    "expired": lambda: ExpiredError("the lease ran out"),
    "replaced": lambda: ReplacedError("somebody took the place"),
    "setting": lambda: SettingError("codec=x is unknown"),
    "value": lambda: ValueError("no such row"),
    "opaque": lambda: OpaqueError("cannot be sent", cause="a lock"),
}


def agreements(together: list[list[str]], from_first: list[str]) -> dict[str, list[tuple[str, str]]]:
    """What this rank got in each case, (class, text) of an error or ("", result).

    Args:
        together: what each rank's action raises, by rank; an empty name raises nothing.
        from_first: what rank 0's action raises.
    """
    dist.init_process_group("gloo")
    ranks = ProcessGroupRanks(opened_here=True)
    found = {
        "together": [_outcome(lambda names=names: ranks.together(_action(names[ranks.rank]))) for names in together],
        "from_first": [_outcome(lambda name=name: ranks.from_first(_action(name))) for name in from_first],
    }
    assert ranks.gather(ranks.rank) == [0, 1]  # nobody is a call ahead of the other
    ranks.close(orderly=True)
    return found


def _action(name: str) -> Callable[[], str]:
    def act() -> str:
        if name:
            raise ERRORS[name]()
        return f"by rank {dist.get_rank()}"

    return act


def _outcome(call: Callable[[], Any]) -> tuple[str, str]:
    try:
        return "", call()
    except Exception as error:
        return type(error).__name__, str(error)
