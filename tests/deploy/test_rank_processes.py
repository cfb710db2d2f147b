"""Workers of several ranks: what each process is told, and that the ranks of one worker live and die together."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launches import DEADLINE_SECONDS, Launch, pushpull, wait_until

from pushpull.deploy.environment import device_variables, metrics_of_rank, process_environment, rank_variables
from pushpull.deploy.processes import Family
from pushpull.deploy.worker_processes import WorkerProcesses

GROUP = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "7"}

# Writes what a rank sees to a file of its own beside the script, and ends in a collective if it has a group.
ADD_UP = """
import json, os, pathlib, time
names = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PUSHPULL_WORKER_ID", "PUSHPULL_LAYOUT", "OMP_NUM_THREADS")
seen = {name: os.environ.get(name) for name in names}
if "RANK" in os.environ:
    import torch
    import torch.distributed as dist
    dist.init_process_group("gloo")
    total = torch.tensor([dist.get_rank() + 1])
    dist.all_reduce(total)
    seen |= {"total": total.item(), "world_size": dist.get_world_size()}
    dist.barrier()
    time.sleep(0.3)  # a thread of gloo that drops its last objects while the interpreter ends aborts the process
    dist.destroy_process_group()
pathlib.Path(f"seen-{seen['PUSHPULL_WORKER_ID']}-{seen['RANK']}.json").write_text(json.dumps(seen))
print("added up")
"""

# Rank 1 of worker 0 dies when rank 0 has begun a wait that nothing but its launcher ends.
ONE_DIES = """
import os, pathlib, signal, time
begun = pathlib.Path("begun")
if os.environ["PUSHPULL_WORKER_ID"] == "0":
    if os.environ["RANK"] == "0":
        begun.touch()
        time.sleep(600)
    while not begun.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
print("finished")
"""


def test_every_worker_is_a_group_of_its_own_as_its_layout_says(launch: Callable[..., Launch], tmp_path: Path) -> None:
    run = launch(ADD_UP, "--layout", "tp2", "--layout", "plain", servers=1, workers=None)
    status, summary = run.end()
    assert status == 0, run.said
    assert summary["layouts"] == ["tp2"]
    seen = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("seen-*")}
    assert sorted(seen) == ["seen-0-0", "seen-0-1", "seen-1-None"]
    threads = str(max(1, len(os.sched_getaffinity(0)) // 4))
    for rank in (0, 1):
        assert seen[f"seen-0-{rank}"] == {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": "2",
            "PUSHPULL_WORKER_ID": "0",
            "PUSHPULL_LAYOUT": "tp2",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
            "total": 3,
            "world_size": 2,
        }
    assert seen["seen-1-None"]["PUSHPULL_LAYOUT"] == "plain"
    for name in ("worker 0 rank 0", "worker 0 rank 1", "worker 1"):
        assert f"[{name}] added up" in run.said
    assert "workers   2 (tp2, plain; 3 ranks) of " in run.said


def test_a_rank_that_dies_ends_its_worker_and_nobody_elses(launch: Callable[..., Launch]) -> None:
    run = launch(ONE_DIES, "--ranks-per-worker", "2", servers=1)
    status, summary = run.end()
    assert status == 0, run.said
    (failure,) = summary["worker_failures"]
    assert (failure["id"], failure["exit_status"]) == (0, -signal.SIGKILL)
    assert failure["how"].startswith("rank 1 was killed by SIGKILL")
    assert summary["failures"] == 1
    assert run.said.count("] finished") == 2  # both ranks of worker 1


@pytest.fixture
def family() -> Iterator[Family]:
    lines: queue.Queue[str] = queue.Queue()
    with Family(lambda name, line: lines.put(f"[{name}] {line}")) as family:
        yield family


def started(family: Family, programs: list[str], grace_seconds: float = 60.0) -> WorkerProcesses:
    ranks = [
        family.start(f"worker 0 rank {rank}", [sys.executable, "-c", program], dict(os.environ))
        for rank, program in enumerate(programs)
    ]
    return WorkerProcesses("worker 0", ranks, family, grace_seconds=grace_seconds)


def tended(worker: WorkerProcesses) -> tuple[int | None, str]:
    wait_until(worker.tend, "the end of the worker")
    return worker.exit_status, worker.how_it_ended()


SLEEP = "import time; time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEP}"


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        (["pass", "pass"], (0, "ended with status 0")),
        ([SLEEP, "raise SystemExit(3)"], (3, "rank 1 ended with status 3")),
        (["raise SystemExit(3)", SLEEP, SLEEP], (3, "rank 0 ended with status 3")),
        (["pass", SLEEP, "raise SystemExit(4)"], (4, "rank 2 ended with status 4")),
        (["raise SystemExit(3)"], (3, "ended with status 3")),
    ],
)
def test_the_first_rank_that_fails_ends_the_others_and_is_the_workers_end(
    family: Family, programs: list[str], expected: tuple[int, str]
) -> None:
    assert tended(started(family, programs)) == expected


def test_a_rank_that_falls_with_another_is_not_taken_for_the_cause(family: Family) -> None:
    """Rank 0 fails because its connection to rank 1 breaks, and both have ended when the launcher looks."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        falls = f"import socket; socket.create_connection(('127.0.0.1', {port})).recv(1); raise SystemExit(1)"
        worker = started(family, [falls, "import time; time.sleep(0.5); raise SystemExit(7)"])
        peer, _ = listening.accept()
        with peer:
            wait_until(lambda: worker.ranks[1].exit_status is not None, "the end of rank 1")
        wait_until(lambda: worker.exit_status is not None, "the end of rank 0")
    assert tended(worker) == (7, "rank 1 ended with status 7")


def test_a_rank_that_does_not_obey_is_killed_after_the_grace(family: Family) -> None:
    worker = started(family, [DEAF, "import time; time.sleep(0.2); raise SystemExit(3)"], grace_seconds=0.2)
    wait_until(lambda: "deaf" in worker.ranks[0].last_lines, "the first word of rank 0")
    assert tended(worker) == (3, "rank 1 ended with status 3")
    assert worker.ranks[0].exit_status == -signal.SIGKILL


def test_tending_never_waits_for_the_grace(family: Family) -> None:
    worker = started(family, [DEAF, "raise SystemExit(3)"], grace_seconds=600.0)
    wait_until(lambda: "deaf" in worker.ranks[0].last_lines, "the first word of rank 0")
    wait_until(lambda: worker.ranks[1].exit_status is not None, "the end of rank 1")
    before = time.monotonic()
    for _ in range(3):
        assert worker.tend() is False
    assert time.monotonic() - before < 30.0
    assert (worker.exit_status, worker.how_it_ended()) == (None, "is still running")


def run_worker(folder: Path, program: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(program, encoding="utf-8")
    return subprocess.run(
        pushpull("worker", "--servers", "a:1", *options, "script.py"),
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_the_worker_command_starts_the_ranks_of_its_layout(tmp_path: Path) -> None:
    run = run_worker(tmp_path, ADD_UP, "--layout", "tp2", "--id", "5")
    assert run.returncode == 0, run.stdout
    assert sorted(run.stdout.splitlines()) == ["[worker 5 rank 0] added up", "[worker 5 rank 1] added up"]
    totals = [json.loads(path.read_text())["total"] for path in tmp_path.glob("seen-5-*")]
    assert totals == [3, 3]


def test_the_worker_command_ends_as_the_first_rank_that_fails(tmp_path: Path) -> None:
    program = "import os, time\nif os.environ['RANK'] == '1':\n    raise SystemExit(9)\ntime.sleep(600)"
    run = run_worker(tmp_path, program, "--ranks", "2")
    assert run.returncode == 9
    assert run.stderr == "pushpull: rank 1 ended with status 9\n"


def show(*names: str) -> str:
    return f"import json, os\nprint(json.dumps([os.environ.get(name) for name in {names}]))"


def test_the_worker_command_is_one_rank_where_torchrun_has_started_it(tmp_path: Path) -> None:
    program = show(*GROUP, "PUSHPULL_LAYOUT", "PUSHPULL_METRICS_LISTEN")
    run = run_worker(tmp_path, program, "--layout", "tp2", "--metrics-listen", "0.0.0.0:9100", **GROUP)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [*GROUP.values(), "tp2", "0.0.0.0:9101"]


def test_ranks_under_torchrun_are_refused(tmp_path: Path) -> None:
    run = run_worker(tmp_path, "", "--ranks", "2", **GROUP)
    assert run.returncode == 1
    assert "torchrun has started the ranks already" in run.stderr


def test_a_new_worker_does_not_inherit_the_group_of_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GROUP.items():
        monkeypatch.setenv(name, value)
    assert not GROUP.keys() & process_environment(1).keys()


@pytest.mark.parametrize(("chosen", "expected"), [(None, {"lo", "lo0"}), ("eth7", {None})])
def test_ranks_of_one_machine_talk_over_loopback_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, expected: set[Any]
) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    if chosen is not None:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", chosen)
    assert rank_variables(0, 2, 1).get("GLOO_SOCKET_IFNAME") in expected


@pytest.mark.parametrize(
    ("visible", "first_process", "expected"),
    [
        ("0,1,2,3", 0, None),
        ("0,1,2,3", 2, "2,3,0,1"),
        ("0,1,2,3", 7, "3,0,1,2"),
        ("4,6", 1, "6,4"),
        ("GPU-a, GPU-b", 3, "GPU-b,GPU-a"),
        ("5", 3, None),
        ("", 3, None),
        ("-1", 3, None),
    ],
)
def test_workers_take_the_gpus_of_a_machine_in_turn(
    monkeypatch: pytest.MonkeyPatch, visible: str, first_process: int, expected: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_variables(first_process).get("CUDA_VISIBLE_DEVICES") == expected


def test_gpus_are_counted_where_none_were_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices = ["null", "nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-caps"]
    monkeypatch.setattr(os, "listdir", lambda folder: devices)
    assert device_variables(1) == {"CUDA_VISIBLE_DEVICES": "1,2,0"}


@pytest.mark.parametrize(
    ("address", "expected"), [("0.0.0.0:9100", "0.0.0.0:9101"), ("0.0.0.0:0", "0.0.0.0:0"), ("nonsense", "nonsense")]
)
def test_every_rank_serves_metrics_on_a_port_of_its_own(
    monkeypatch: pytest.MonkeyPatch, address: str, expected: str
) -> None:
    for name, value in GROUP.items():
        monkeypatch.setenv(name, value)
    assert metrics_of_rank(address) == expected
