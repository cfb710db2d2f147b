"""`pushpull plan`: files in, a plan or a refusal out."""

from collections.abc import Sequence
from pathlib import Path

from ..job import load_job
from ..json_values import strict_json
from .cluster import load_cluster
from .planner import plan_job
from .report import plan_object, print_plan

CLUSTER_FILE = "cluster.yaml"


def show_plan(job: Path | None, sets: Sequence[str], cluster: Path | None, model: str | None, as_json: bool) -> None:
    """Prints the plan of a job on a described cluster: by default that of cluster.yaml beside the job file.

    Raises:
        SettingError, DoesNotFitError: see `plan_job`. Files that the command line names are looked for here, those that the
            cluster file names beside it.
    """
    path = cluster or (job.parent if job is not None else Path()) / CLUSTER_FILE
    if model is not None:
        model = str(Path(model.rpartition(":")[0]).resolve()) + ":" + model.rpartition(":")[2]
    forecast = plan_job(load_job(job, sets).settings(), load_cluster(path, model), path.parent)
    if as_json:
        print(strict_json(plan_object(forecast)), flush=True)
    else:
        print_plan(forecast)
