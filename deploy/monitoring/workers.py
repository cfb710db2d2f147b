"""One worker or all of them: where the time of a step goes, what its process and its GPUs do."""

from .expressions import mean, rate, since, total, worker
from .model import Dashboard, Panel, Query, Row, Step

COMPUTE = 'part="compute"'
WHO = "worker {{worker}} rank {{rank}}"
RANK = ("worker", "rank")

STEPS = Row(
    "Steps",
    (
        Panel(
            title="Where the time of a step goes",
            description="Seconds of a step by part, over the ranks that are chosen. compute: the script, between steps; "
            "encode: waiting for the encoder; wait: for servers and other workers; decode: copying values into the model.",
            queries=(
                Query(
                    f"{total(rate(worker('pushpull_worker_step_seconds_sum')), 'part')} / on () group_left () "
                    f"sum({rate(worker('pushpull_worker_step_seconds_count', COMPUTE))})",
                    "{{part}}",
                ),
            ),
            unit="s",
            stacked=True,
        ),
        Panel(
            title="Share of time that is not waiting",
            description="Compute and encode, of all of it. Low everywhere: servers or network are too slow. Low for all but "
            "one: that one is the straggler.",
            queries=(
                Query(
                    mean(
                        worker("pushpull_worker_step_seconds_sum", 'part=~"compute|encode"'),
                        worker("pushpull_worker_step_seconds_sum"),
                        *RANK,
                    ),
                    WHO,
                ),
            ),
            unit="percentunit",
            at_most=1.0,
        ),
        Panel(
            title="Samples per second",
            description="Of applied steps. Every rank of a worker counts the worker's samples.",
            queries=(Query(rate(worker("pushpull_worker_samples_total")), WHO),),
        ),
        Panel(
            title="Waiting for data",
            description="Share of time in which the script waits for worker.share(): the DataLoader and, rarely, the "
            "registrar. It is a part of compute. High: more DataLoader workers, or faster storage.",
            queries=(Query(rate(worker("pushpull_worker_data_wait_seconds_total")), WHO),),
            unit="percentunit",
            steps=(Step(0.2, "yellow"),),
        ),
        Panel(
            title="Time since the last step",
            description="Of each process. One that grows while others do not: stuck, paused, or in a long evaluation.",
            queries=(Query(since(worker("pushpull_worker_last_step_timestamp_seconds")), WHO),),
            unit="s",
            steps=(Step(60, "yellow"), Step(300, "red")),
        ),
        Panel(
            title="Steps, by what became of them",
            description="late: the round closed without it. refused: a server found a fault. expired, too_old: the worker "
            "had to join again. Only applied ones train.",
            queries=(Query(total(rate(worker("pushpull_worker_steps_total")), "outcome"), "{{outcome}}"),),
            unit="ops",
        ),
    ),
)

GPUS = Row(
    "GPUs",
    (
        Panel(
            title="Utilisation",
            description="Share of time in which any kernel ran, as NVML says; a small kernel counts like a large one, so "
            "compare samples per second, too. Absent for workers without a GPU.",
            queries=(Query(worker("pushpull_worker_gpu_utilisation_ratio"), f"{WHO} GPU {{{{gpu}}}}"),),
            unit="percentunit",
            at_most=1.0,
        ),
        Panel(
            title="Memory",
            description="In use on the GPU by all processes, as a share; near 1 the next large batch fails.",
            queries=(
                Query(
                    f"{worker('pushpull_worker_gpu_memory_used_bytes')} / {worker('pushpull_worker_gpu_memory_total_bytes')}",
                    f"{WHO} GPU {{{{gpu}}}}",
                ),
            ),
            unit="percentunit",
            at_most=1.0,
            steps=(Step(0.9, "yellow"), Step(0.97, "red")),
        ),
        Panel(
            title="Tensors",
            description="Memory of this process's tensors on the GPU. Growing without end: the script keeps graphs alive.",
            queries=(Query(worker("pushpull_worker_torch_allocated_bytes"), f"{WHO} GPU {{{{gpu}}}}"),),
            unit="bytes",
        ),
        Panel(
            title="Temperature",
            description="Above about 85 degrees most GPUs slow themselves down.",
            queries=(Query(worker("pushpull_worker_gpu_temperature_celsius"), f"{WHO} GPU {{{{gpu}}}}"),),
            unit="celsius",
            columns=12,
            steps=(Step(80, "yellow"), Step(87, "red")),
        ),
        Panel(
            title="Power",
            description="What the GPU draws. Much less than usual at the same utilisation: it waits for memory, or is "
            "throttled.",
            queries=(Query(worker("pushpull_worker_gpu_power_watts"), f"{WHO} GPU {{{{gpu}}}}"),),
            unit="watt",
            columns=12,
        ),
    ),
)

PROCESS = Row(
    "Process",
    (
        Panel(
            title="Processor",
            description="Cores kept busy by the process, its encoder's threads included; children (DataLoader workers) not.",
            queries=(Query(rate(worker("process_cpu_seconds_total")), WHO),),
        ),
        Panel(
            title="Memory",
            description="Resident, as a share of what the process may use.",
            queries=(
                Query(
                    f"{worker('process_resident_memory_bytes')} / {worker('pushpull_memory_limit_bytes')}",
                    WHO,
                ),
            ),
            unit="percentunit",
            at_most=1.0,
            steps=(Step(0.8, "yellow"), Step(0.9, "red")),
        ),
        Panel(
            title="Connections that fail",
            description="Heartbeats without an answer, calls to the registrar made again, streams to shards that broke. Some "
            "at the start are usual. Heartbeats that fail for lease_seconds cost the lease.",
            queries=(
                Query(total(rate(worker("pushpull_worker_heartbeats_failed_total")), *RANK), f"heartbeats, {WHO}"),
                Query(total(rate(worker("pushpull_worker_registrar_retries_total")), *RANK), f"registrar, {WHO}"),
                Query(total(rate(worker("pushpull_worker_stream_failures_total")), *RANK), f"streams, {WHO}"),
            ),
            unit="ops",
        ),
        Panel(
            title="Times joined",
            description="Incarnations of the worker in this process: more than 1 means that its lease ran out and it came "
            "back.",
            queries=(Query(worker("pushpull_worker_joins_total"), WHO),),
            columns=12,
        ),
        Panel(
            title="Loss",
            description="Newest loss that the script of each rank logged.",
            queries=(Query(worker("pushpull_worker_loss"), WHO),),
            columns=12,
            at_least=None,
        ),
    ),
)

WORKERS = Dashboard(
    uid="pushpull-workers",
    title="pushpull / workers and GPUs",
    description="Where the time of a step goes on each worker; its process, its GPUs.",
    rows=(STEPS, GPUS, PROCESS),
    variables=("worker",),
)
