"""`pushpull launch` with scripts that do not train: who is started, what is said, what is left (nothing)."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launches import DEADLINE_SECONDS, Launch, is_gone, pushpull, wait_until

from pushpull.protos.deadlines import INTERRUPT_SECONDS

KEYS = {
    *(
        "success",
        "mode",
        "push_codec",
        "pull_codec",
        "workers",
        "shards",
        "wall_seconds",
        "samples_per_second",
    ),
    *("loss", "metrics", "bytes_pushed", "bytes_pulled", "push_compression_ratio", "staleness", "clock_lag"),
    *("duplicates_dropped", "pushes_refused", "failures"),
}

SLEEP = "import time\nprint('asleep', flush=True)\ntime.sleep(600)\n"
FIRST_FAILS = "import os\nraise SystemExit(3 if os.environ['PUSHPULL_WORKER_ID'] == '0' else 0)\n"


def test_a_run_ends_well_when_the_scripts_do_and_says_everything(launch: Callable[..., Launch]) -> None:
    run = launch("print('hello')", "--set", "push_codec=int8", "--set", "mode=bounded:3")
    status, summary = run.end()
    assert status == 0, run.said
    assert set(summary) >= KEYS
    assert (summary["success"], summary["error"], summary["failures"]) == (True, None, 0)
    assert (summary["mode"], summary["push_codec"], summary["pull_codec"]) == ("bounded", "int8", "fp32")
    assert [shard["id"] for shard in summary["shards"]] == [0, 1]
    assert "[worker 0] hello" in run.said
    assert "[worker 1] hello" in run.said
    assert "Next: " in run.said


def test_a_worker_that_fails_is_counted_and_the_others_go_on(launch: Callable[..., Launch]) -> None:
    run = launch(FIRST_FAILS)
    status, summary = run.end()
    assert status == 0, run.said
    assert summary["success"] is True
    assert summary["failures"] == 1
    assert summary["worker_failures"] == [{"id": 0, "exit_status": 3, "how": "ended with status 3"}]


def test_a_run_fails_when_no_worker_finishes(launch: Callable[..., Launch]) -> None:
    run = launch("raise RuntimeError('no data')", servers=1)
    status, summary = run.end()
    assert status == 1
    assert summary["success"] is False
    assert summary["failures"] == 2
    assert "No worker finished its script: worker 0 ended with status 1" in summary["error"]
    assert "[worker 1] RuntimeError: no data" in run.said


@pytest.mark.parametrize("shard", [0, 1])
def test_a_killed_server_ends_the_run_at_once_and_is_named(launch: Callable[..., Launch], shard: int) -> None:
    run = launch(SLEEP)
    run.wait_for("asleep", times=2)
    family = run.family()
    before = time.monotonic()
    run.named("--shard", str(shard)).kill()
    status, summary = run.end()
    assert status == 1
    assert summary["success"] is False
    assert f"Shard {shard} at 127.0.0.1:" in summary["error"]
    assert "was killed by SIGKILL" in summary["error"]
    assert summary["failures"] == 0  # the workers were stopped; they did not fail
    assert time.monotonic() - before < 20.0
    wait_until(lambda: all(map(is_gone, family)), "the end of every child")


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stopped_launcher_takes_everything_with_it(
    launch: Callable[..., Launch], number: signal.Signals, expected: int
) -> None:
    run = launch(SLEEP, servers=1)
    run.wait_for("asleep", times=2)
    family = run.family()
    run.process.send_signal(number)
    status, summary = run.end()
    assert status == expected
    assert summary["error"] == f"The run was stopped by {number.name}."
    wait_until(lambda: all(map(is_gone, family)), "the end of every child")


TRAINS_AND_SAVES = """
import torch
from pushpull.worker import connect

model = torch.nn.Linear(8, 8)
with connect() as worker:
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=1e-3)

    def step():
        model(torch.ones(2, 8)).square().mean().backward()
        optimizer.step(num_samples=2)

    try:
        step()
        print("trains", flush=True)
        while True:
            step()
    except KeyboardInterrupt:
        optimizer.zero_grad()
        step()
        print("saved with the servers", flush=True)
        {then}
"""


def test_ctrl_c_reaches_scripts_while_their_servers_are_still_there(launch: Callable[..., Launch]) -> None:
    run = launch(TRAINS_AND_SAVES.format(then=""), "--set", "mode=async", servers=1)
    run.wait_for("trains", times=2)
    for _ in range(2):  # as a terminal, or `timeout`, may send it to the process and to its group
        run.process.send_signal(signal.SIGINT)
    status, summary = run.end()
    assert (status, summary["error"], summary["failures"]) == (130, "The run was stopped by SIGINT.", 0)
    assert run.said.count("saved with the servers") == 2, run.said
    assert "KeyboardInterrupt; Ctrl-C again" in run.said


def test_ctrl_c_again_ends_scripts_at_once(launch: Callable[..., Launch]) -> None:
    run = launch(TRAINS_AND_SAVES.format(then="import time; time.sleep(600)"), servers=1, workers=1)
    run.wait_for("trains")
    run.process.send_signal(signal.SIGINT)
    run.wait_for("saved with the servers")
    family, before = run.family(), time.monotonic()

    def ended_by_one_more() -> bool:
        run.process.send_signal(signal.SIGINT)  # those that come within a second are the first one once more
        return run.process.poll() is not None

    wait_until(ended_by_one_more, "the end of the launcher")
    assert time.monotonic() - before < INTERRUPT_SECONDS
    assert run.end()[0] == 130
    wait_until(lambda: all(map(is_gone, family)), "the end of every child")


def test_a_launcher_stopped_while_servers_start_leaves_nothing(launch: Callable[..., Launch]) -> None:
    run = launch(SLEEP)
    wait_until(lambda: len(run.family()) >= 2, "the start of the first server")
    family = run.family()
    run.process.send_signal(signal.SIGINT)
    status, summary = run.end()
    assert (status, summary["success"]) == (130, False)
    wait_until(lambda: all(map(is_gone, family)), "the end of every child")


def test_a_launcher_killed_with_sigkill_leaves_no_server_worker_or_child_of_theirs(
    launch: Callable[..., Launch],
) -> None:
    grandchild = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    run = launch(grandchild + SLEEP)
    run.wait_for("asleep", times=2)
    family = run.family()
    assert len(family) >= 6  # two servers, two workers, a child of each worker, and the watchdog
    run.process.kill()
    run.process.wait(DEADLINE_SECONDS)
    wait_until(lambda: all(map(is_gone, family)), "the end of everything")


def test_a_run_that_takes_too_long_fails(launch: Callable[..., Launch]) -> None:
    run = launch(SLEEP, "--timeout-seconds", "1", servers=1, workers=1)
    status, summary = run.end()
    assert status == 1
    assert "longer than --timeout-seconds 1" in summary["error"]


def test_threads_are_shared_out_and_buffers_are_kept(launch: Callable[..., Launch]) -> None:
    names = ("OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    cores = len(os.sched_getaffinity(0))
    run = launch(f"import os\nprint([os.environ.get(n) for n in {names}])", workers=max(2, cores))
    run.end()
    assert "['1', '33554432', '1073741824']" in run.said


def run_command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(pushpull(*words), capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("launch", "--set", "mod=sync", __file__), "no setting `mod`; the nearest is `mode`"),
        (("launch", "--job", "nowhere.yaml", __file__), "nowhere.yaml cannot be read"),
        (("launch", "nowhere.py"), "There is no script nowhere.py"),
        (("worker", "--servers", "a:1", "nowhere.py"), "There is no script nowhere.py"),
        (("worker", "--servers", ",", __file__), "--servers is empty"),
        (("server", "--shard", "1", "--num-shards", "2"), "needs --registrar"),
        (("server", "--shard", "0", "--num-shards", "1", "--registrar", "a:1"), "leave out --registrar"),
        (
            ("server", "--shard", "1", "--num-shards", "2", "--registrar", "a:1", "--set", "mode=sync"),
            "belong to shard 0",
        ),
        (("server", "--shard", "0"), "--num-shards, or --servers"),
        (("server", "--shard", "0", "--servers", "a:1", "--num-shards", "1"), "leave out --num-shards"),
        (("health", "127.0.0.1:1", "--service", "happy"), "--service=happy is not one of"),
        (("status", "--servers", "127.0.0.1:1"), "No pushpull server answered at 127.0.0.1:1"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_status_1(words: tuple[str, ...], sentence: str) -> None:
    run = run_command(*words)
    assert run.returncode == 1
    assert sentence in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert run.stdout == ""


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        run = run_command("server", "--shard", "0", "--num-shards", "1", "--listen", address)
    assert run.returncode == 1
    assert address in run.stderr
    assert "Traceback" not in run.stderr


DIES_BEFORE_ITS_FIRST_STEP = """
import os
number = int(os.environ["PUSHPULL_WORKER_ID"])
if number == 0:
    import a_module_that_is_not_there
import torch
from pushpull.worker import connect
with connect() as worker:
    if number == 1:
        os._exit(9)
    model = torch.nn.Linear(2, 1)
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
    if number == 2:
        os._exit(9)
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
"""


def test_nobody_waits_for_a_worker_that_died_before_its_first_step(launch: Callable[..., Launch]) -> None:
    """Before `connect`, before its optimizer, and behind it; the time for which a start waits is far beyond this test's."""
    run = launch(DIES_BEFORE_ITS_FIRST_STEP, "--set", "start_timeout_seconds=3600", servers=1, workers=4)
    status, summary = run.end()
    assert status == 0, run.said
    assert [failure["id"] for failure in summary["worker_failures"]] == [0, 1, 2]
    assert summary["failures"] == 3
    assert {worker["id"]: worker["steps_applied"] for worker in summary["workers"]}[3] == 3


SAYS_ITS_VALUES = """
import torch
from pushpull.worker import connect
with connect() as worker:
    model = torch.nn.Linear(2, 1, bias=False)
    worker.optimizer(model, torch.optim.SGD, lr=0.1)
    worker.log(values=model.weight.sum())
"""


def test_a_launched_run_may_start_from_a_file(launch: Callable[..., Launch], tmp_path: Path) -> None:
    import torch

    torch.save({"weight": torch.tensor([[3.0, 4.0]])}, tmp_path / "start.pt")
    run = launch(SAYS_ITS_VALUES, "--init", str(tmp_path / "start.pt"), workers=1)
    status, summary = run.end()
    assert status == 0, run.said
    assert summary["metrics"]["values"] == 7.0
    assert summary["values_of"].startswith("the file start.pt")
