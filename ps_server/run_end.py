"""Whether a job's run has come to its end: standing servers must not take a new one for its continuation. Pure."""

from ..protos.errors import RunOverError
from .workers import Worker


class RunEnd:
    """A run is over when its last worker has left in order, its script at an end.

    Where nobody has taken a step there is nothing that a new one could mistake for its own: it begins with the data anew,
    without being asked. A worker that fails, is silent or is told to end (preempted) ends no run: it, or one in its place,
    may come back, also when the others have finished meanwhile.
    """

    def __init__(self) -> None:
        self._last: Worker | None = None
        """The last worker of a run that is over."""
        self._clock = 0
        self._num_lost = 0
        """Workers that ended otherwise than in order, less those that came since."""

    def ended(self, worker: Worker, num_others: int, clock: int) -> None:
        """A worker has ended. `num_others` that train are still there; `clock` is the job's."""
        if worker.observer or not worker.enrolled:
            return
        self._num_lost += not worker.left_in_order
        if worker.left_in_order and num_others == 0:
            self._last, self._clock = worker, clock

    def join(self, resume: bool) -> bool:
        """A trainer joins; whether the run before it was over, so that data begin anew.

        Raises:
            RunOverError: the run is over, and it does not say that it goes on with it.
        """
        last, was_lost = self._last, self._num_lost > 0
        has_trained = self._clock > 0
        if last is not None and has_trained and not (resume or was_lost):
            raise RunOverError(
                f"the run of this job is over: {last.origin} was the last and left in order, at clock {self._clock}. The "
                "servers hold its trained values, and its data are used up. For a new run start the servers anew; to go on "
                "from these values, with the data from the beginning, join with connect(resume=True), pushpull worker "
                "--resume or PUSHPULL_RESUME=1"
            )
        self._last, self._num_lost = None, self._num_lost - was_lost
        return last is not None and (resume or not (has_trained or was_lost))
