"""Bytes on the links, and what compression makes of them."""

from .expressions import job, mean, quantile, rate, server, total, worker
from .model import Dashboard, Panel, Query, Row, Step

CHOSEN = 'worker=~"$worker"'
WHO = "worker {{worker}} rank {{rank}}"
RANK = ("worker", "rank")

LINKS = Row(
    "Links",
    (
        Panel(
            title="Up, by worker",
            description="Gradients from each worker to all shards, over all its ranks, as the worker counts them.",
            queries=(
                Query(
                    total(rate(job("pushpull_job_worker_pushed_bytes_total", CHOSEN)), "worker"),
                    "worker {{worker}}",
                ),
            ),
            unit="Bps",
        ),
        Panel(
            title="Down, by worker",
            description="Values from all shards to each worker.",
            queries=(
                Query(
                    total(rate(job("pushpull_job_worker_pulled_bytes_total", CHOSEN)), "worker"),
                    "worker {{worker}}",
                ),
            ),
            unit="Bps",
        ),
        Panel(
            title="In and out, by shard",
            description="Accepted frames in, values out. Shards get even parts of the model; one that differs is in trouble.",
            queries=(
                Query(rate(server("pushpull_push_bytes_total")), "in, shard {{shard}}"),
                Query(rate(server("pushpull_pull_bytes_total")), "out, shard {{shard}}"),
            ),
            unit="Bps",
        ),
        Panel(
            title="Seconds of an exchange",
            description="From the commit of a step to the last value pulled, on the worker: what a slow link costs, and in "
            "synchronous mode also the wait for others.",
            queries=(
                Query(quantile(0.5, worker("pushpull_worker_exchange_seconds_bucket"), *RANK), f"median, {WHO}"),
                Query(quantile(0.99, worker("pushpull_worker_exchange_seconds_bucket"), *RANK), f"99 %, {WHO}"),
            ),
            unit="s",
        ),
        Panel(
            title="Sent again",
            description="Bytes that were sent again after a lost connection, of all bytes sent. More than a little: a bad "
            "link, or a proxy that cuts streams.",
            queries=(
                Query(
                    mean(
                        worker("pushpull_worker_resent_bytes_total"),
                        worker("pushpull_worker_pushed_bytes_total"),
                        *RANK,
                    ),
                    WHO,
                ),
            ),
            unit="percentunit",
            steps=(Step(0.01, "yellow"), Step(0.1, "red")),
        ),
        Panel(
            title="Streams that broke",
            description="By the shard they lead to. All workers of one shard: that server. All shards of one worker: its link.",
            queries=(
                Query(
                    total(rate(worker("pushpull_worker_stream_failures_total")), "worker", "rank", "shard"),
                    f"{WHO} to shard {{{{shard}}}}",
                ),
            ),
            unit="ops",
        ),
    ),
)

COMPRESSION = Row(
    "Compression",
    (
        Panel(
            title="Codecs",
            description="How gradients and values travel in this job.",
            kind="name",
            queries=(Query(job("pushpull_job_info"), "push {{push_codec}}, pull {{pull_codec}}"),),
            columns=6,
        ),
        Panel(
            title="Push compression",
            description="FP32 bytes of the pushed blocks over the bytes that came. fp32 is just below 1, int8 near 4, int4 "
            "near 8. Blocks without a gradient do not count.",
            queries=(
                Query(
                    f"4 * {total(rate(server('pushpull_push_elements_total')), 'shard')} / "
                    f"{total(rate(server('pushpull_push_bytes_total')), 'shard')}",
                    "shard {{shard}}",
                ),
            ),
            unit="none",
            columns=6,
        ),
        Panel(
            title="Pull compression",
            description="FP32 bytes of the blocks with newer values over the bytes that were sent. It falls below the codec's "
            "when workers hold old versions and get whole values.",
            queries=(
                Query(
                    f"4 * {total(rate(server('pushpull_pull_elements_total')), 'shard')} / "
                    f"{total(rate(server('pushpull_pull_bytes_total')), 'shard')}",
                    "shard {{shard}}",
                ),
            ),
            unit="none",
            columns=6,
        ),
        Panel(
            title="Bits of an element",
            description="That a gradient takes on the wire, everything included.",
            queries=(
                Query(
                    f"8 * sum({rate(server('pushpull_push_bytes_total'))})"
                    f" / sum({rate(server('pushpull_push_elements_total'))})",
                    "push",
                ),
            ),
            unit="none",
            columns=6,
        ),
        Panel(
            title="Seconds of encoding that a step waits for",
            description="What of encoding was not hidden behind backward. High: fewer gradients leave early, or too few cores.",
            queries=(
                Query(
                    mean(
                        worker("pushpull_worker_step_seconds_sum", 'part="encode"'),
                        worker("pushpull_worker_step_seconds_count", 'part="encode"'),
                        *RANK,
                    ),
                    WHO,
                ),
            ),
            unit="s",
        ),
        Panel(
            title="Steps whose early frames were sent again",
            description="A gradient changed after it had left: accumulation, clipping or unscaling by hand. Costs bytes, "
            "never correctness; see the README for clip_norm and accumulate.",
            queries=(
                Query(
                    mean(worker("pushpull_worker_steps_restaged_total"), worker("pushpull_worker_steps_total"), *RANK),
                    WHO,
                ),
            ),
            unit="percentunit",
            at_most=1.0,
        ),
        Panel(
            title="Residual",
            description="Norm of what the codecs have left out and will send later. It levels off; growing without end "
            "means that the codec is too coarse for this model.",
            queries=(Query(worker("pushpull_worker_residual_norm"), WHO),),
        ),
    ),
)

NETWORK = Dashboard(
    uid="pushpull-network",
    title="pushpull / network and compression",
    description="Bytes on the links, and what compression makes of them.",
    rows=(LINKS, COMPRESSION),
    variables=("shard", "worker"),
)
