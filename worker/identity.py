"""Which worker the code at hand works for, for the log. Set in the threads of a worker, and read by whoever writes lines.

Threads do not inherit it from each other by themselves: those of a worker are started with `same_identity`.
"""

import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, Protocol

P = ParamSpec("P")


class Caller(Protocol):
    """Knows for whom this process speaks; see `RegistrarClient`."""

    rank: int
    worker_id: int
    """Negative until it has joined."""
    incarnation: int


@dataclass
class Identity:
    """Every thread of a worker sees the same object."""

    caller: Caller
    job: str = ""
    step: int = 0
    """The one that is under way, from 1, over all incarnations in this process; 0 before training."""

    def fields(self) -> dict[str, object]:
        """Keys of a line of the log, as far as they are known."""
        fields: dict[str, object] = {"rank": self.caller.rank}
        if self.job:
            fields["job"] = self.job
        if self.caller.worker_id >= 0:
            fields |= {"worker": self.caller.worker_id, "incarnation": self.caller.incarnation}
        if self.step:
            fields["step"] = self.step
        return fields


_current: contextvars.ContextVar[Identity | None] = contextvars.ContextVar("pushpull_worker", default=None)


def assume(identity: Identity) -> None:
    """This thread works for that worker from now on; what it logs later, about its end, is still said by that worker."""
    _current.set(identity)


def fields_here() -> dict[str, object]:
    """Keys of a line that this thread logs; none where it works for no worker."""
    identity = _current.get()
    return {} if identity is None else identity.fields()


def same_identity(target: Callable[P, None]) -> Callable[P, None]:
    """What a new thread is to run, on behalf of the worker that this thread works for."""
    context = contextvars.copy_context()

    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        context.run(target, *args, **kwargs)

    return run
