"""For somebody woken at night: is it making progress, who is slow, what is broken?"""

from .expressions import increase, job, largest, mean, rate, since, total
from .model import Dashboard, Panel, Query, Row, Step

ANY_SHARD = 'shard!=""'
"""Servers, not workers."""

PROGRESS = Row(
    "Is it making progress?",
    (
        Panel(
            title="Phase",
            description="What the job does: waiting (for servers or workers), initialising (the first worker sends its "
            "values) or training. No figure: no registrar (shard 0) is being scraped.",
            kind="name",
            queries=(Query(f"{job('pushpull_job_phase')} == 1", "{{phase}}"),),
            columns=4,
            rows=5,
        ),
        Panel(
            title="Since the last progress",
            description="Time since the newest round closed, or a step was applied. Usual: a step or two. Growing: see who "
            "is waited for below; after progress_timeout_seconds the registrar stops waiting for that worker.",
            kind="stat",
            queries=(Query(since(job("pushpull_job_last_progress_timestamp_seconds"))),),
            unit="s",
            columns=4,
            rows=5,
            steps=(Step(60, "yellow"), Step(300, "red")),
        ),
        Panel(
            title="Clock",
            description="Rounds closed in synchronous mode, else the clock of the slowest worker that counts. It must grow.",
            kind="stat",
            queries=(Query(job("pushpull_job_clock")),),
            columns=4,
            rows=5,
        ),
        Panel(
            title="Samples per second",
            description="Of steps that were applied, over all workers. Compare it with what the job had before.",
            kind="stat",
            queries=(Query(f"sum({rate(job('pushpull_job_worker_samples_total'))})"),),
            columns=4,
            rows=5,
        ),
        Panel(
            title="Workers",
            description="Live: hold a lease. Counting: others wait for them, or measure their staleness by them. Expected: "
            "how many the first step waited for. Fewer live than expected: workers were lost, see below.",
            kind="stat",
            queries=(
                Query(job("pushpull_live_workers"), "live"),
                Query(job("pushpull_active_workers"), "counting"),
                Query(job("pushpull_job_expected_workers"), "expected"),
            ),
            columns=4,
            rows=5,
        ),
        Panel(
            title="Loss",
            description="Mean of the newest losses that the workers' scripts logged with worker.log(loss=...). Absent if "
            "they log none. NaN: training has diverged.",
            kind="stat",
            queries=(Query(f"avg({job('pushpull_job_worker_loss')})"),),
            columns=4,
            rows=5,
            at_least=None,
        ),
        Panel(
            title="Samples per second, by worker",
            description="A worker whose line falls to 0 is gone, paused or stuck. Unlike machines have unlike lines.",
            queries=(Query(total(rate(job("pushpull_job_worker_samples_total")), "worker"), "worker {{worker}}"),),
            columns=8,
            stacked=True,
        ),
        Panel(
            title="Loss, by worker",
            description="What the scripts logged. One worker apart from the others: look at its data.",
            queries=(Query(largest(job("pushpull_job_worker_loss"), "worker"), "worker {{worker}}"),),
            columns=8,
            at_least=None,
        ),
        Panel(
            title="What fires now",
            description="Alerts of this system, from the data source's rules. Each has a runbook: follow its link.",
            kind="alerts",
            columns=8,
        ),
    ),
)

SLOW = Row(
    "Who is slow?",
    (
        Panel(
            title="Workers",
            description="One line for each live worker, as the registrar knows it. 'Computing' is the share of its time "
            "between steps and in the encoder; the rest it waits for servers and others: in synchronous mode the worker "
            "with the largest share is the one the others wait for.",
            kind="table",
            queries=(
                Query(largest(job("pushpull_job_worker_clock"), "worker"), "clock"),
                Query(largest(job("pushpull_job_worker_behind_clocks"), "worker"), "behind"),
                Query(
                    largest(since(job("pushpull_job_worker_last_progress_timestamp_seconds")), "worker"),
                    "last step ago",
                ),
                Query(total(rate(job("pushpull_job_worker_samples_total")), "worker"), "samples/s"),
                Query(
                    mean(
                        job("pushpull_job_worker_step_seconds_total", 'part=~"compute|encode"'),
                        job("pushpull_job_worker_step_seconds_total"),
                        "worker",
                    ),
                    "computing",
                ),
                Query(total(rate(job("pushpull_job_worker_pushed_bytes_total")), "worker"), "up"),
                Query(total(rate(job("pushpull_job_worker_pulled_bytes_total")), "worker"), "down"),
            ),
            columns=24,
            units={"last step ago": "s", "computing": "percentunit", "up": "Bps", "down": "Bps"},
        ),
        Panel(
            title="Seconds of a step that the worker computes",
            description="Between steps and in the encoder, for each step. The highest line is the straggler: in synchronous "
            "and bounded mode the others wait for it.",
            queries=(
                Query(
                    mean(
                        job("pushpull_job_worker_step_seconds_total", 'part=~"compute|encode"'),
                        job("pushpull_job_worker_steps_total"),
                        "worker",
                    ),
                    "worker {{worker}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            title="Seconds of a step that the worker waits",
            description="For servers, the network, and in synchronous mode for the slowest worker. The lowest line is the "
            "straggler's own.",
            queries=(
                Query(
                    mean(
                        job("pushpull_job_worker_step_seconds_total", 'part=~"wait|decode"'),
                        job("pushpull_job_worker_steps_total"),
                        "worker",
                    ),
                    "worker {{worker}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            title="Clocks behind the fastest",
            description="0 for all in synchronous mode. In bounded mode it ends at the bound, and whoever is ahead waits.",
            queries=(Query(largest(job("pushpull_job_worker_behind_clocks"), "worker"), "worker {{worker}}"),),
        ),
    ),
)

BROKEN = Row(
    "What is broken?",
    (
        Panel(
            title="Shards linked",
            description="Shards that have a link to the registrar, of all shards. Fewer: that server is down or cut off, and "
            "no round can close.",
            kind="stat",
            queries=(
                Query(f"sum({job('pushpull_job_shard_linked')})", "linked"),
                Query(job("pushpull_job_shards"), "shards"),
            ),
            columns=4,
            rows=7,
        ),
        Panel(
            title="Lost workers",
            description="Workers that ended without leaving cleanly, since shard 0 was started; and leases that ran out "
            "(some of these come back).",
            kind="stat",
            queries=(
                Query(job("pushpull_worker_failures_total"), "failed"),
                Query(job("pushpull_lease_expiries_total"), "leases expired"),
            ),
            columns=4,
            rows=7,
            steps=(Step(1, "yellow"),),
        ),
        Panel(
            title="Refused",
            description="Calls and steps that servers refused, by reason. NOT_READY and UNKNOWN_INCARNATION come with every "
            "start and go away by themselves; anything else is a fault in a worker, a client or a network.",
            queries=(Query(total(increase(job("pushpull_refusals_total")), "reason"), "{{reason}}"),),
            rows=7,
            hides_zeros=True,
        ),
        Panel(
            title="Memory of servers",
            description="Resident memory of each server, as a share of what it may use. Above 0.9 the kernel may end it, "
            "and the job with it: use more shards, or optimizer_state=int8.",
            queries=(
                Query(
                    f"{job('process_resident_memory_bytes', ANY_SHARD)} / "
                    f"{job('pushpull_memory_limit_bytes', ANY_SHARD)}",
                    "shard {{shard}}",
                ),
            ),
            unit="percentunit",
            rows=7,
            at_most=1.0,
            steps=(Step(0.8, "yellow"), Step(0.9, "red")),
        ),
    ),
)

OVERVIEW = Dashboard(
    uid="pushpull-overview",
    title="pushpull / overview",
    description="Is the job making progress, who is slow, what is broken? Start here.",
    rows=(PROGRESS, SLOW, BROKEN),
)
