"""Figures of the whole job, of the registrar's, that are read when Prometheus asks.

Here is also what matters most of each worker, from its own reports: workers need not be within Prometheus's reach. A worker
that has ended is not shown any more.
"""

from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field

from ..protos.exposition import Family, Reading, label_text
from ..protos.status_terms import LIVE_STATES, STEP_PARTS
from .config import JobSettings
from .job_snapshot import JobSnapshot, snapshot
from .registrar import Registrar
from .worker_figures import WorkerFigures

PHASES = ("waiting", "initialising", "training")


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family("gauge", f"pushpull_{name}", text, labels)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family("counter", f"pushpull_{name}", text, labels)


INFO = _gauge(
    "job_info",
    "Settings of the job.",
    *("name", "mode", "push_codec", "pull_codec", "optimizer_state", "damping", "quorum"),
)
PHASE = _gauge("job_phase", "1 for the phase that the job is in, 0 for the others.", "phase")
CLOCK = _gauge("job_clock", "Rounds that changed something (sync), else the smallest clock of an active worker.")
LAST_PROGRESS = _gauge("job_last_progress_timestamp_seconds", "When the newest round closed, or step was applied.")
LONGEST_GAP = _gauge("job_longest_round_gap_seconds", "Longest time between the closings of two rounds so far.")
BOUND = _gauge("job_staleness_bound_clocks", "Clocks a worker may be ahead of the slowest; mode=bounded only.")
LEASE = _gauge("job_lease_seconds", "Silence after which a worker no longer counts.")
PROGRESS_TIMEOUT = _gauge("job_progress_timeout_seconds", "How long others wait for a live worker that ends no step.")
EXPECTED = _gauge("job_expected_workers", "Workers that the first step waits for.")
MEMORY_BUDGET = _gauge("job_memory_budget_bytes", "Parameters and optimizer state that one shard may hold.")
STAGING_BUDGET = _gauge("job_staging_budget_bytes", "Frames of steps that are not settled that one shard may hold.")
SHARDS = _gauge("job_shards", "Shards of the job.")
LINKED = _gauge("job_shard_linked", "1 while the shard has a link to the registrar.", "shard")
LIVE = _gauge("live_workers", "Trainers that hold a lease.")
ACTIVE = _gauge("active_workers", "Trainers that count: in rounds, or in the smallest clock.")
EXPIRIES = _counter("lease_expiries", "Leases that ran out.")
FAILURES = _counter("worker_failures", "Workers that ended without leaving cleanly.")
ROUNDS = _counter("rounds_closed", "Synchronous rounds closed.")
SAMPLES_GIVEN_UP = _counter("samples_given_up", "Samples that no worker could read, or that workers died of.")
SPLIT_STEPS = _counter("split_steps", "Steps of lost workers applied on some shards only.")

WORKER_INFO = _gauge(
    "job_worker_info", "A live worker: where it runs and how it splits the model.", "worker", "host", "layout"
)
WORKER_STATE = _gauge(
    "job_worker_state", "1 for the state that a live worker is in, 0 for the others.", "worker", "state"
)
WORKER_RANKS = _gauge("job_worker_ranks", "Processes of the worker.", "worker")
WORKER_CLOCK = _gauge("job_worker_clock", "Steps that the worker has taken part in.", "worker")
WORKER_LAG = _gauge(
    "job_worker_behind_clocks", "Clocks that an active worker is behind the fastest active one.", "worker"
)
WORKER_LEAD = _gauge(
    "job_worker_ahead_clocks", "Clocks that an active worker is ahead of the slowest active one.", "worker"
)
WORKER_PROGRESS = _gauge("job_worker_last_progress_timestamp_seconds", "When the worker last ended a step.", "worker")
WORKER_UNHEARD = _gauge(
    "job_worker_unheard_seconds",
    "How long the shard has not heard of a worker that others wait for.",
    "worker",
    "shard",
)
WORKER_STEPS = _counter("job_worker_steps", "Steps that the worker says it has ended.", "worker")
WORKER_SAMPLES = _counter("job_worker_samples", "Samples of the worker's applied steps.", "worker")
WORKER_SECONDS = _counter(
    "job_worker_step_seconds", "Seconds of the worker's steps: compute, encode, wait, decode.", "worker", "part"
)
WORKER_PUSHED = _counter("job_worker_pushed_bytes", "Bytes that all ranks of the worker have sent.", "worker")
WORKER_PULLED = _counter(
    "job_worker_pulled_bytes", "Bytes of values that all ranks of the worker have received.", "worker"
)
WORKER_UNLIKE = _counter(
    "job_worker_unlike_steps",
    "Steps of the worker in rounds for which another worker's numbers (lr, ...) held, and differed from its own.",
    "worker",
)
WORKER_LOSS = _gauge("job_worker_loss", "Newest loss that the worker's script logged.", "worker")

FAMILIES = (
    *(INFO, PHASE, CLOCK, LAST_PROGRESS, LONGEST_GAP, BOUND, LEASE, PROGRESS_TIMEOUT, EXPECTED, MEMORY_BUDGET),
    *(STAGING_BUDGET, SHARDS, LINKED, LIVE, ACTIVE, EXPIRIES, FAILURES, ROUNDS, SPLIT_STEPS, SAMPLES_GIVEN_UP),
    *(
        WORKER_INFO,
        WORKER_STATE,
        WORKER_RANKS,
        WORKER_CLOCK,
        WORKER_LAG,
        WORKER_LEAD,
        WORKER_PROGRESS,
        WORKER_STEPS,
        WORKER_UNHEARD,
    ),
    *(WORKER_SAMPLES, WORKER_SECONDS, WORKER_PUSHED, WORKER_PULLED, WORKER_UNLIKE, WORKER_LOSS),
)


@dataclass(frozen=True)
class Moment:
    """The job as its registrar sees it at one moment: made under the registrar's lock, and read without it."""

    settings: JobSettings
    registrar: InitVar[Registrar]
    linked: tuple[bool, ...]
    """By shard."""
    calendar_seconds: Callable[[float], float]
    """The registrar's clock to seconds since 1970."""
    now: float = 0.0
    """On the registrar's clock."""
    job: JobSnapshot = field(init=False)

    def __post_init__(self, registrar: Registrar) -> None:
        object.__setattr__(self, "job", snapshot(registrar, self.now))


def readings(moment: Moment) -> Iterator[Reading]:
    """As Prometheus is shown them."""
    yield from _settings(moment.settings)
    job = moment.job
    yield from ((PHASE, (phase,), job.phase == phase) for phase in PHASES)
    yield CLOCK, (), job.clock
    if job.last_progress is not None:
        yield LAST_PROGRESS, (), moment.calendar_seconds(job.last_progress)
    yield LONGEST_GAP, (), job.longest_round_gap_seconds
    yield SHARDS, (), len(moment.linked)
    yield from ((LINKED, (str(shard),), linked) for shard, linked in enumerate(moment.linked))
    yield EXPIRIES, (), job.lease_expiries
    yield FAILURES, (), job.failures
    yield ROUNDS, (), job.round
    yield SPLIT_STEPS, (), job.split_steps(len(moment.linked))
    yield SAMPLES_GIVEN_UP, (), job.samples_given_up
    live = job.live
    active = [worker.clock for worker in live if worker.state == "active"]
    yield LIVE, (), len(live)
    yield ACTIVE, (), len(active)
    for worker in live:
        yield from _worker(worker, moment)
        if worker.state == "active":
            yield WORKER_LAG, (str(worker.worker_id),), max(active) - worker.clock
            yield WORKER_LEAD, (str(worker.worker_id),), worker.clock - min(active)


def _settings(settings: JobSettings) -> Iterator[Reading]:
    codecs = settings.push_codec, settings.pull_codec
    quorum = "all" if settings.quorum is None else str(settings.quorum)
    yield (
        INFO,
        (label_text(settings.name), settings.mode, *codecs, settings.optimizer_state, settings.damping, quorum),
        1,
    )
    yield LEASE, (), settings.lease_seconds
    yield PROGRESS_TIMEOUT, (), settings.progress_timeout_seconds
    yield EXPECTED, (), settings.expected_workers
    yield STAGING_BUDGET, (), settings.staging_bytes
    if settings.memory_bytes is not None:
        yield MEMORY_BUDGET, (), settings.memory_bytes
    if settings.mode == "bounded":
        yield BOUND, (), settings.staleness_bound


def _worker(worker: WorkerFigures, moment: Moment) -> Iterator[Reading]:
    name, report = str(worker.worker_id), worker.report
    yield WORKER_INFO, (name, label_text(worker.host), label_text(worker.layout)), 1
    yield from ((WORKER_STATE, (name, state), worker.state == state) for state in LIVE_STATES)
    yield WORKER_RANKS, (name,), worker.num_ranks
    yield WORKER_CLOCK, (name,), worker.clock
    yield WORKER_PROGRESS, (name,), moment.calendar_seconds(worker.last_progress)
    for silence in moment.job.contacts.silences(worker.incarnation):
        yield WORKER_UNHEARD, (name, str(silence.shard)), silence.seconds
    yield WORKER_STEPS, (name,), report.num_steps
    yield WORKER_SAMPLES, (name,), report.num_samples
    for part in STEP_PARTS:
        yield WORKER_SECONDS, (name, part), getattr(report, f"{part}_seconds")
    yield WORKER_PUSHED, (name,), sum(rank.bytes_pushed for rank in worker.reports)
    yield WORKER_PULLED, (name,), sum(rank.bytes_pulled for rank in worker.reports)
    yield WORKER_UNLIKE, (name,), worker.num_unlike_steps
    if "loss" in report.metrics:
        yield WORKER_LOSS, (name,), report.metrics["loss"]
