"""How stale gradients are, whom the mode holds back, and whether training converges."""

from .expressions import increase, job, mean, quantile, rate, server, total, worker
from .model import Dashboard, Panel, Query, Row, Step

CHOSEN = 'worker=~"$worker"'
WHO = "worker {{worker}} rank {{rank}}"

STALENESS = Row(
    "Staleness",
    (
        Panel(
            title="Version staleness",
            description="Updates that a block had between the computing of a gradient and its applying. 0 in synchronous "
            "mode; about the number of workers less one in asynchronous mode. More: a worker is slow, or the learning rate "
            "is damped a lot.",
            queries=(
                Query(
                    f"sum({rate(server('pushpull_version_staleness_sum'))}) / "
                    f"sum({rate(server('pushpull_version_staleness_count'))})",
                    "mean",
                ),
                Query(quantile(0.99, server("pushpull_version_staleness_bucket")), "99 %"),
            ),
            unit="none",
        ),
        Panel(
            title="Version staleness, all of it",
            description="Steps applied per second, by staleness in updates.",
            kind="heat",
            queries=(Query(total(rate(server("pushpull_version_staleness_bucket")), "le"), "{{le}}"),),
        ),
        Panel(
            title="Clocks ahead of the slowest",
            description="Of each worker, and the bound in bounded mode: whoever reaches it waits for the slowest.",
            queries=(
                Query(
                    f"max by (worker) ({job('pushpull_job_worker_ahead_clocks', CHOSEN)})",
                    "worker {{worker}}",
                ),
                Query(job("pushpull_job_staleness_bound_clocks"), "bound"),
            ),
        ),
        Panel(
            title="Clock lag of answered pulls",
            description="How far the puller was ahead of the slowest when it got its answer. Never above the bound.",
            queries=(
                Query(quantile(0.5, server("pushpull_clock_lag_bucket")), "median"),
                Query(quantile(0.99, server("pushpull_clock_lag_bucket")), "99 %"),
            ),
            unit="none",
        ),
        Panel(
            title="Pulls held back",
            description="Share of pulls that the mode made wait. In synchronous mode nearly all; in bounded mode it says how "
            "often the bound is the limit; never in asynchronous mode.",
            queries=(
                Query(
                    mean(server("pushpull_pulls_waited_total"), server("pushpull_pulls_total"), "shard"),
                    "shard {{shard}}",
                ),
            ),
            unit="percentunit",
            at_most=1.0,
        ),
        Panel(
            title="Versions apart",
            description="Largest minus smallest version of a shard's blocks. Blocks without gradients (experts) stay behind.",
            queries=(Query(server("pushpull_block_version_spread"), "shard {{shard}}"),),
        ),
    ),
)

ROUNDS = Row(
    "Rounds and lost work",
    (
        Panel(
            title="Rounds per second",
            description="Closed by the registrar; synchronous mode only.",
            queries=(Query(rate(job("pushpull_rounds_closed_total")), "rounds"),),
            unit="ops",
        ),
        Panel(
            title="Seconds of a round",
            description="From closing to closing. The 99 % line shows leases that ran out and stragglers.",
            queries=(
                Query(quantile(0.5, job("pushpull_round_seconds_bucket")), "median"),
                Query(quantile(0.99, job("pushpull_round_seconds_bucket")), "99 %"),
            ),
            unit="s",
        ),
        Panel(
            title="Gradients that did not count",
            description="Share of steps that ended late, refused, expired or too old.",
            queries=(
                Query(
                    f"{total(rate(worker('pushpull_worker_gradients_dropped_total')), 'reason')} / on () group_left () "
                    f"sum({rate(worker('pushpull_worker_steps_total'))})",
                    "{{reason}}",
                ),
            ),
            unit="percentunit",
            steps=(Step(0.05, "yellow"), Step(0.2, "red")),
        ),
    ),
)

CONVERGENCE = Row(
    "Convergence",
    (
        Panel(
            title="Loss",
            description="As logged by the scripts, and the mean of all workers.",
            queries=(
                Query(
                    f"max by (worker) ({job('pushpull_job_worker_loss', CHOSEN)})",
                    "worker {{worker}}",
                ),
                Query(f"avg({job('pushpull_job_worker_loss')})", "mean"),
            ),
            at_least=None,
        ),
        Panel(
            title="Learning rate",
            description="Of the first parameter group, with what follows the size of the joint batch. All workers should "
            "have the same.",
            queries=(Query(worker("pushpull_worker_learning_rate"), WHO),),
            unit="none",
        ),
        Panel(
            title="Gradient norm",
            description="Of the newest gradient before clipping, over all ranks; only with clip_norm. Jumps come before "
            "losses that diverge.",
            queries=(Query(worker("pushpull_worker_gradient_norm"), WHO),),
            unit="none",
        ),
        Panel(
            title="Sums that were not finite",
            description="Blocks that a server left untouched because the sum of gradients overflowed. Any: lower the "
            "learning rate, or look for a worker that sends nonsense.",
            queries=(Query(total(increase(server("pushpull_non_finite_sums_total")), "shard"), "shard {{shard}}"),),
            columns=12,
            steps=(Step(1, "red"),),
        ),
        Panel(
            title="Diverged",
            description="1 once a parameter is not finite: every further step is refused. Start again from what was saved.",
            queries=(Query(server("pushpull_shard_diverged"), "shard {{shard}}"),),
            columns=12,
            at_most=1.0,
            steps=(Step(1, "red"),),
        ),
    ),
)

STALENESS_AND_CONVERGENCE = Dashboard(
    uid="pushpull-staleness",
    title="pushpull / staleness and convergence",
    description="How stale gradients are, whom the mode holds back, whether training converges.",
    rows=(STALENESS, ROUNDS, CONVERGENCE),
    variables=("shard", "worker"),
)
