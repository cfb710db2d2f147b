"""One server or all of them: load, latency, memory."""

from .expressions import increase, job, quantile, rate, server, total
from .model import Dashboard, Panel, Query, Row, Step

READY, DRAINING = 'phase="ready"', 'phase="draining"'

STATE = Row(
    "State",
    (
        Panel(
            title="Servers",
            description="One line for each server that is scraped. 'Ready': it admits workers; 'draining': it was told to "
            "end, and the job ends with it; 'trained': it holds parameters. In synchronous "
            "mode the rounds of all servers are within one of each other.",
            kind="table",
            table_label="shard",
            queries=(
                Query(f"max by (shard) ({server('pushpull_server_phase', READY)})", "ready"),
                Query(f"max by (shard) ({server('pushpull_server_phase', DRAINING)})", "draining"),
                Query(f"max by (shard) ({server('pushpull_shard_trained')})", "trained"),
                Query(f"max by (shard) ({server('pushpull_shard_round')})", "round"),
                Query(f"max by (shard) ({server('pushpull_worker_streams')})", "streams"),
                Query(f"max by (shard) ({server('pushpull_shard_blocks')})", "blocks"),
                Query(f"max by (shard) ({server('pushpull_parameter_bytes')})", "parameters"),
                Query(f"max by (shard) ({server('pushpull_optimizer_state_bytes')})", "optimizer state"),
                Query(f"max by (shard) (time() - {server('process_start_time_seconds')})", "up for"),
            ),
            columns=16,
            units={"parameters": "bytes", "optimizer state": "bytes", "up for": "s"},
        ),
        Panel(
            title="Link to the registrar",
            description="1 while there is one, as shard 0 sees it and as the shard itself does. A shard without one hears of "
            "no round and no new worker.",
            queries=(
                Query(server("pushpull_job_shard_linked"), "shard {{shard}}, says shard 0"),
                Query(server("pushpull_registrar_link_up"), "shard {{shard}}, says itself"),
            ),
            at_most=1.0,
        ),
    ),
)

LOAD = Row(
    "Load",
    (
        Panel(
            title="Steps settled",
            description="By outcome. 'late' and 'refused' gradients are lost; 'skipped' are overflows, or workers out of data.",
            queries=(Query(total(rate(server("pushpull_pushes_total")), "outcome"), "{{outcome}}"),),
            unit="ops",
        ),
        Panel(
            title="Busy applying",
            description="Share of time in which the server applies a step or round; jobs are applied one after the other. "
            "Near 1 the server is the bottleneck: more shards, or more cores for it.",
            queries=(Query(rate(server("pushpull_optimizer_step_seconds_sum")), "shard {{shard}}"),),
            unit="percentunit",
            steps=(Step(0.8, "yellow"), Step(0.95, "red")),
        ),
        Panel(
            title="Waiting to be applied",
            description="Steps or rounds that are decided and not applied. 0 or 1 is usual; a growing queue means a server "
            "that is too slow for what its workers push.",
            queries=(Query(server("pushpull_apply_queue_jobs"), "shard {{shard}}"),),
        ),
        Panel(
            title="Seconds to apply",
            description="Reduce, optimizer and publication of one step or round.",
            queries=(
                Query(
                    quantile(0.5, server("pushpull_optimizer_step_seconds_bucket"), "shard"), "median, shard {{shard}}"
                ),
                Query(
                    quantile(0.99, server("pushpull_optimizer_step_seconds_bucket"), "shard"), "99 %, shard {{shard}}"
                ),
            ),
            unit="s",
        ),
        Panel(
            title="Seconds from commit to outcome",
            description="In synchronous mode most of it is waiting for the other workers' steps.",
            queries=(
                Query(quantile(0.5, server("pushpull_push_seconds_bucket"), "shard"), "median, shard {{shard}}"),
                Query(quantile(0.99, server("pushpull_push_seconds_bucket"), "shard"), "99 %, shard {{shard}}"),
            ),
            unit="s",
        ),
        Panel(
            title="Seconds to answer a pull",
            description="From the question to the message that ends the answer; with the time that the mode held it back.",
            queries=(
                Query(quantile(0.5, server("pushpull_pull_seconds_bucket"), "shard"), "median, shard {{shard}}"),
                Query(quantile(0.99, server("pushpull_pull_seconds_bucket"), "shard"), "99 %, shard {{shard}}"),
            ),
            unit="s",
        ),
    ),
)

PROCESS = Row(
    "Process",
    (
        Panel(
            title="Memory",
            description="Resident, and the least that it may use: of its container or of the machine.",
            queries=(
                Query(server("process_resident_memory_bytes"), "shard {{shard}}"),
                Query(f"min({server('pushpull_memory_limit_bytes')})", "limit"),
            ),
            unit="bytes",
        ),
        Panel(
            title="Frames held for open steps",
            description="Encoded gradients of steps that are not settled, and what may be held at most (staging_bytes). "
            "Workers for whom there would be no room are refused at the start, so this never reaches the limit.",
            queries=(
                Query(server("pushpull_staged_bytes"), "shard {{shard}}"),
                Query(job("pushpull_job_staging_budget_bytes"), "budget"),
            ),
            unit="bytes",
        ),
        Panel(
            title="Parameters and optimizer state",
            description="What the shard keeps of the model, and what it may keep (memory_bytes).",
            queries=(
                Query(
                    f"{server('pushpull_parameter_bytes')} + {server('pushpull_optimizer_state_bytes')}",
                    "shard {{shard}}",
                ),
                Query(job("pushpull_job_memory_budget_bytes"), "budget"),
            ),
            unit="bytes",
        ),
        Panel(
            title="Processor",
            description="Cores kept busy. Applying, encoding of values and reading of frames are threads of their own.",
            queries=(Query(rate(server("process_cpu_seconds_total")), "shard {{shard}}"),),
            columns=6,
        ),
        Panel(
            title="Handler threads",
            description="A stream of a worker's rank holds one for its whole life. When all are taken, calls wait: also "
            "heartbeats, and leases run out.",
            queries=(
                Query(server("pushpull_rpc_threads_busy"), "busy, shard {{shard}}, {{door}}"),
                Query(server("pushpull_rpc_calls_waiting"), "calls waiting, shard {{shard}}, {{door}}"),
                Query(f"max by (door) ({server('pushpull_rpc_threads')})", "threads, {{door}}"),
            ),
            columns=6,
        ),
        Panel(
            title="Worker streams",
            description="One for each rank of each worker, and how many a server takes at most (--max-workers).",
            queries=(
                Query(server("pushpull_worker_streams"), "shard {{shard}}"),
                Query(f"min({server('pushpull_worker_streams_limit')})", "limit"),
            ),
            columns=6,
        ),
        Panel(
            title="Open files",
            description="File descriptors, sockets among them, as a share of what the process may have.",
            queries=(Query(f"{server('process_open_fds')} / {server('process_max_fds')}", "shard {{shard}}"),),
            unit="percentunit",
            columns=6,
            at_most=1.0,
            steps=(Step(0.8, "yellow"),),
        ),
        Panel(
            title="Refused",
            description="Calls and steps that this server refused, by reason.",
            queries=(
                Query(
                    total(increase(server("pushpull_refusals_total")), "shard", "reason"), "{{reason}}, shard {{shard}}"
                ),
            ),
            columns=12,
            hides_zeros=True,
        ),
        Panel(
            title="Received again",
            description="Frames and commits that came twice, after lost connections. They are dropped; many of them mean a "
            "bad network.",
            queries=(Query(rate(server("pushpull_duplicates_dropped_total")), "shard {{shard}}"),),
            columns=12,
        ),
    ),
)

SERVERS = Dashboard(
    uid="pushpull-servers",
    title="pushpull / servers",
    description="Load, latency and memory of each server.",
    rows=(STATE, LOAD, PROCESS),
    variables=("shard",),
)
