"""The command line `pushpull`. Commands parse and delegate; what they need is imported when they run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..protos.addresses import split_address
from ..protos.errors import PushpullError, SettingError
from .bench_commands import bench
from .command_values import check_seconds, readable, servers_named
from .environment import JOB_NAME, LOG_FORMAT, LOG_LEVEL, RESUME
from .log_settings import LogFormat, LogLevel, LogSettings
from .output import CommandStreams, demand_output, give_streams_to_script

app = typer.Typer(
    help="Trains PyTorch models through sharded parameter servers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")

# Everything behind SCRIPT belongs to the script.
_SCRIPT_SETTINGS = {"allow_interspersed_args": False}

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A job setting; wins over --job, a later one over it."),
]
JobPath = Annotated[Path | None, typer.Option("--job", help="Job file (YAML); every key is optional.")]
Script = Annotated[str, typer.Argument(metavar="SCRIPT", help="Your training script.", show_default=False)]
Arguments = Annotated[list[str] | None, typer.Argument(metavar="ARGS...", help="Its arguments.")]
Layouts = Annotated[
    list[str] | None,
    typer.Option("--layout", metavar="LAYOUT", help="How ranks split the model: tp2, ... Again for unlike workers."),
]
Servers = Annotated[str, typer.Option("--servers", metavar="HOST:PORT,...", help="Servers, shard 0 first.")]
Init = Annotated[
    str | None, typer.Option(metavar="FILE", help="Start from this state_dict instead of a worker's values.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]
LogAs = Annotated[LogFormat, typer.Option("--log-format", envvar=LOG_FORMAT, help="Lines for people, or JSON.")]
LogFrom = Annotated[LogLevel, typer.Option("--log-level", envvar=LOG_LEVEL, help="The least that is logged.")]
GuardFd = Annotated[int | None, typer.Option("--guard-fd", hidden=True)]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pushpull {version('pushpull')}")
        raise typer.Exit


@app.callback()
def _pushpull(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Trains PyTorch models through sharded parameter servers."""


@app.command(context_settings=_SCRIPT_SETTINGS)
def launch(
    script: Script,
    arguments: Arguments = None,
    servers: Annotated[int, typer.Option("--servers", min=1, help="Server processes (shards).")] = 1,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Workers; default: one, or one for each --layout.")
    ] = None,
    ranks_per_worker: Annotated[
        int | None, typer.Option(min=1, help="Processes of a worker; default: as many as its layout has.")
    ] = None,
    layouts: Layouts = None,
    sets: Sets = None,
    job: JobPath = None,
    as_json: AsJson = False,
    init: Init = None,
    timeout_seconds: Annotated[float | None, typer.Option(min=0, help="End the run after this time.")] = None,
    log_format: LogAs = LogFormat.TEXT,
    log_level: LogFrom = LogLevel.INFO,
) -> None:
    """Run a whole cluster on this machine: servers, workers, progress, summary."""
    from .logs import Speaker, configure_logs
    from .script_check import check_script

    logs = LogSettings(log_format, log_level)
    configure_logs(logs, Speaker("launcher"))
    demand_output()
    check_seconds(timeout_seconds, "--timeout-seconds")
    check_script(script)  # before the modules below, whose import takes seconds
    from .job import load_job
    from .launcher import LaunchConfig
    from .run import run_here
    from .worker_shape import worker_shapes

    script_words = [script, *(arguments or [])]
    shapes = worker_shapes(workers, ranks_per_worker, layouts or [])
    own = {"expected_workers": len(shapes), "reserved_ids": len(shapes), "server_patience_seconds": 20.0}
    settings = load_job(job, sets or [], own)
    config = LaunchConfig(
        num_servers=servers,
        workers=shapes,
        job=settings.declaring(shape.layout for shape in shapes if shape.layout is not None and shape.num_ranks > 1),
        options=["pushpull", *sys.argv[1 : len(sys.argv) - len(script_words)]],
        script=script_words,
        init=init,
        timeout_seconds=timeout_seconds,
        logs=logs,
    )
    sys.exit(run_here(config, as_json))


@app.command()
def server(
    shard: Annotated[int, typer.Option(min=0, help="Which shard this server is.")],
    servers: Annotated[
        str | None,
        typer.Option(
            "--servers", metavar="HOST:PORT,...", help="All servers, shard 0 first; the same on each of them."
        ),
    ] = None,
    num_shards: Annotated[int | None, typer.Option(min=1, help="Shards of the job, without --servers.")] = None,
    registrar: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address of shard 0, without --servers.")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where to listen; default: the port that --servers says, else any of loopback.",
        ),
    ] = None,
    advertise: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="What workers dial, if not what is bound.")
    ] = None,
    metrics_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Prometheus endpoint; empty = none.")
    ] = "127.0.0.1:0",
    reflection: Annotated[bool, typer.Option(help="Serve gRPC reflection.")] = False,
    num_apply_threads: Annotated[int | None, typer.Option(min=1, help="Threads that apply steps.")] = None,
    max_workers: Annotated[
        int | None, typer.Option(min=1, help="Worker streams, one for each rank of each worker; default: 128.")
    ] = None,
    init: Init = None,
    sets: Sets = None,
    job: JobPath = None,
    log_format: LogAs = LogFormat.TEXT,
    log_level: LogFrom = LogLevel.INFO,
    announce_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    guard_fd: GuardFd = None,
) -> None:
    """Run one parameter server. Shard 0 takes the job's settings; the others learn them from it.

    With --servers the command is the same for every shard, except for --shard: --job and --set count on shard 0 only.
    """
    from .guard import watch_launcher
    from .logs import Speaker, configure_logs

    speaker = Speaker("server", shard=shard)
    configure_logs(LogSettings(log_format, log_level), speaker)
    if guard_fd is not None:
        watch_launcher(guard_fd)
    from .server_place import ServerPlace

    if metrics_listen:
        split_address(metrics_listen, "--metrics-listen")
    if servers is not None:
        if num_shards is not None or registrar is not None or advertise is not None:
            raise SettingError("--servers says it all: leave out --num-shards, --registrar and --advertise.")
        place = ServerPlace.in_list(servers, shard, listen)
    else:
        if num_shards is None:
            raise SettingError("Say how many shards there are: --num-shards, or --servers with the address of each.")
        if shard > 0 and (sets or job):
            raise SettingError(f"--job and --set belong to shard 0; shard {shard} learns the job from it.")
        place = ServerPlace.alone(shard, num_shards, registrar, listen, advertise)
    from ..ps_server.config import ServerConfig
    from .job import load_job
    from .serve import serve

    config = ServerConfig(
        shard=shard,
        num_shards=place.num_shards,
        listen=place.listen,
        advertise=place.advertise,
        registrar=place.registrar,
        job=load_job(job, sets or []).settings() if shard == 0 else None,
        init=init,
        metrics_listen=metrics_listen or None,
        reflection=reflection,
        num_apply_threads=num_apply_threads,
        max_workers=max_workers or ServerConfig.max_workers,
    )
    serve(config, announce_fd, speaker)


@app.command(context_settings=_SCRIPT_SETTINGS)
def worker(
    servers: Servers,
    script: Script,
    arguments: Arguments = None,
    worker_id: Annotated[
        int | None, typer.Option("--id", min=0, max=2**31 - 1, help="This worker's id; default: a free one.")
    ] = None,
    metrics_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Prometheus endpoint; empty = none.")
    ] = "127.0.0.1:0",
    layout: Annotated[
        str | None, typer.Option(metavar="LAYOUT", help="How this worker's ranks split the model: tp2, pp2xtp2, ...")
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(min=1, help="Processes to start; default: as many as the layout has. Not under torchrun."),
    ] = None,
    patience_seconds: Annotated[
        float | None, typer.Option(min=0, help="How long to try to reach the servers at the start; default: 60.")
    ] = None,
    job_name: Annotated[
        str, typer.Option(envvar=JOB_NAME, help="Name of the job that is meant, if it has one (--set name=...).")
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", envvar=RESUME, help="Go on with a job also when its run is over.")
    ] = False,
    linger: Annotated[
        bool,
        typer.Option("--linger", help="When the script has ended well, or the run is over, stay until SIGTERM."),
    ] = False,
    over_is_done: Annotated[
        bool,
        typer.Option("--over-is-done", help="End with status 0, not 1, if the run is over: for what is started again."),
    ] = False,
    log_format: LogAs = LogFormat.TEXT,
    log_level: LogFrom = LogLevel.INFO,
    guard_fd: GuardFd = None,
) -> None:
    """Run a training script as one worker, or as one rank of it under torchrun. It may join a running job at any time."""
    from .environment import become_worker, metrics_of_rank, own_rank, worker_variables, world_size
    from .guard import watch_launcher
    from .linger import ending
    from .logs import Speaker, configure_logs, worker_fields
    from .script import run_script
    from .tracing import start_tracing
    from .worker_shape import worker_shape

    logs, speaker = LogSettings(log_format, log_level), Speaker("worker", worker=worker_id, rank=own_rank())
    configure_logs(logs, speaker, beside_a_script=True)
    if guard_fd is not None:
        watch_launcher(guard_fd)
    addresses = servers_named(servers)
    if metrics_listen:
        split_address(metrics_listen, "--metrics-listen")
    check_seconds(patience_seconds, "--patience-seconds")
    group_size = world_size()
    if group_size is not None and ranks is not None:
        raise SettingError("torchrun has started the ranks already (RANK and WORLD_SIZE are set): leave out --ranks.")
    shape = worker_shape(layout, group_size or ranks, "--ranks" if group_size is None else "WORLD_SIZE")
    if group_size is None and shape.num_ranks > 1:
        from .script_check import check_script

        check_script(script)
        from .run_worker import run_ranks
        from .worker_processes import WorkerStart

        start = WorkerStart(
            name="" if worker_id is None else f"worker {worker_id}",
            servers=addresses,
            worker_id=worker_id,
            metrics_listen=metrics_listen or None,
            shape=shape,
            script=[script, *(arguments or [])],
            num_processes=shape.num_ranks,
            job_name=job_name,
            resume=resume,
            patience_seconds=patience_seconds,
            over_is_done=over_is_done or linger,
            logs=logs,
        )
        with ending(linger, over_is_done):
            sys.exit(run_ranks(start))
    give_streams_to_script()
    listen = metrics_of_rank(metrics_listen) if metrics_listen else None
    become_worker(worker_variables(addresses, worker_id, listen, shape.layout, patience_seconds, job_name, resume))
    speaker.follow(worker_fields)
    start_tracing("pushpull-worker")
    with ending(linger, over_is_done):
        run_script(script, arguments or [])


@app.command()
def health(
    server: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Any server.")] = "127.0.0.1:7077",
    service: Annotated[
        str, typer.Option(help="ready: it admits workers; trained: it holds a model; '': the process works.")
    ] = "ready",
    timeout_seconds: Annotated[float, typer.Option(min=0.1, help="How long to wait for the answer.")] = 3.0,
) -> None:
    """Ask a server for its health: exit status 0 if it is serving; 1 if it is not, and why, or does not answer."""
    from .health import check_health

    check_seconds(timeout_seconds, "--timeout-seconds")
    sys.exit(check_health(server, service, timeout_seconds))


@app.command()
def status(
    servers: Servers,
    as_json: AsJson = False,
    once: Annotated[
        bool, typer.Option("--once", help="Print one page and end; the default where there is no terminal.")
    ] = False,
) -> None:
    """Show what a running job is doing: on a terminal a live table, until Ctrl-C. Shard 0 is all that must be reached."""
    from rich.console import Console

    from .status import JobWatch
    from .status_command import show_json, show_live, show_page

    console = Console()
    if not console.is_terminal:
        console = Console(width=250)  # nothing is cut off for want of a window
    with JobWatch(servers_named(servers)[0]) as watch:
        if as_json:
            show_json(watch)
        elif once or not console.is_terminal:
            show_page(watch, console)
        else:
            show_live(watch, console)


@app.command()
def plan(
    job: Annotated[Path | None, typer.Argument(metavar="JOB", help="Job file (YAML).", show_default=False)] = None,
    cluster: Annotated[
        Path | None, typer.Option("--cluster", help="Description of the machines; default: cluster.yaml beside JOB.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="FILE.py:FUNCTION", help="Makes the model; wins over the cluster's."),
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Predict layouts, bytes, memory and step time of a job, without starting anything."""
    from .planning.command import show_plan

    show_plan(job, sets or [], cluster, model, as_json)


def main() -> None:
    """Entry point: an error of pushpull is one sentence on standard error and exit status 1."""
    streams = CommandStreams()
    try:
        try:
            app()
        finally:
            streams.finish()
    except PushpullError as error:
        from .logs import say

        say(readable(str(error)), LogLevel.ERROR)
        sys.exit(1)


if __name__ == "__main__":
    main()
