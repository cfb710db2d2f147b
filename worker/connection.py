"""Joining a job."""

from collections.abc import Sequence

from .config import worker_config
from .open_workers import HERE
from .worker import Worker


def connect(
    servers: str | Sequence[str] | None = None,
    worker_id: int | None = None,
    *,
    metrics_listen: str | None = None,
    patience_seconds: float | None = None,
    layout: str | None = None,
    job_name: str | None = None,
    resume: bool | None = None,
    **expected: object,
) -> Worker:
    """Joins a job. What is not given comes from the environment that `pushpull launch` and `pushpull worker` set.

    A worker of several processes (torchrun, `pushpull launch --layout`) calls this in each of them; torch.distributed is
    initialised here unless it is already.

    Args:
        servers: host:port of each shard, shard 0 first, as a list or joined by commas. Shard 0 alone is enough.
        worker_id: a number of this worker that stays the same over restarts; default: the smallest free one.
        metrics_listen: host:port of the Prometheus endpoint.
        patience_seconds: how long to try to reach shard 0; default: a minute.
        layout: how the processes of this worker split the model, e.g. tp2 or pp2xtp2; default: the job's layout with that
            many ranks.
        job_name: of the job that is meant, if it has a name (`--set name=...`); another one is refused.
        resume: go on with a job whose run is over, because its last worker has left in order: with its trained values, and
            with the data from the beginning. Else joining it is refused. A job that still goes on is joined in any case.
        expected: settings that the job must have, e.g. push_codec="int8"; a difference is refused.

    Raises:
        ServerUnreachableError: names the address.
        RunOverError: the run of the job is over, and `resume` does not say to go on with it.
        SettingError: names the argument.
    """
    config = worker_config(servers, worker_id, metrics_listen, patience_seconds, layout, job_name, resume)
    return Worker(HERE.make_room(config, insists=worker_id is not None), expected)
