"""`pushpull server --servers ...`, the same for every shard, and `pushpull health`, which probes ask."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launches import DEADLINE_SECONDS, pushpull, wait_until

from pushpull.deploy.linger import ending
from pushpull.deploy.server_place import ServerPlace
from pushpull.protos.errors import PlanMismatchError, PushpullError, RunOverError, SettingError

Start = Callable[..., subprocess.Popen[str]]


class TestPlace:
    def test_in_a_list_follows_from_the_list(self) -> None:
        first = ServerPlace.in_list("a:7077, b:7078", 0)
        second = ServerPlace.in_list("a:7077,b:7078", 1)
        assert first == ServerPlace(shard=0, num_shards=2, registrar=None, listen="0.0.0.0:7077", advertise="a:7077")
        assert second == ServerPlace(
            shard=1, num_shards=2, registrar="a:7077", listen="0.0.0.0:7078", advertise="b:7078"
        )

    def test_in_a_list_may_listen_elsewhere(self) -> None:
        assert ServerPlace.in_list("a:7077", 0, "10.0.0.1:9").listen == "10.0.0.1:9"

    @pytest.mark.parametrize(
        ("servers", "shard", "sentence"),
        [
            (",", 0, "--servers is empty"),
            ("a:7077", 1, "--shard is 0 to 0, not 1"),
            ("a:7077,b", 1, "--servers: 'b' is not host:port"),
            ("a:0", 0, "no port that others could dial"),
        ],
    )
    def test_says_what_is_wrong_with_a_list(self, servers: str, shard: int, sentence: str) -> None:
        with pytest.raises(SettingError, match=sentence):
            ServerPlace.in_list(servers, shard)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts commands of ours in the background; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def starter(*words: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*before, *pushpull(*words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield starter
    for process in started:
        process.kill()
        process.communicate(timeout=DEADLINE_SECONDS)


def ports(number: int) -> list[int]:
    """Ports that are free at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        return [taken.getsockname()[1] for taken in sockets]
    finally:
        for taken in sockets:
            taken.close()


def health(port: int, service: str | None = None) -> tuple[int, str]:
    """Exit status of `pushpull health` and what it said."""
    options = () if service is None else ("--service", service)
    command = pushpull("health", f"127.0.0.1:{port}", *options)
    run = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    return run.returncode, run.stdout.strip() or run.stderr.strip()


def test_servers_with_one_command_are_ready_when_all_are_there_whoever_comes_first(start: Start) -> None:
    first, second = ports(2)
    command = ("server", "--servers", f"127.0.0.1:{first},127.0.0.1:{second}", "--set", "mode=async")
    others = start(*command, "--shard", "1", "--metrics-listen", "")
    wait_until(lambda: health(second, "") == (0, "SERVING"), "shard 1 serves")
    assert health(second) == (1, "NOT_SERVING"), "it is not linked to shard 0"
    registrar = start(*command, "--shard", "0", "--metrics-listen", "")
    wait_until(lambda: health(first) == health(second) == (0, "SERVING"), "both are ready")
    assert health(first, "trained") == (1, "NOT_SERVING")
    others.kill()
    wait_until(lambda: health(first) == (1, "NOT_SERVING"), "shard 0 misses shard 1")
    for _ in range(2):  # as `timeout` does: to the process and to its group
        registrar.send_signal(signal.SIGTERM)
    assert registrar.wait(DEADLINE_SECONDS) == 0


def test_max_workers_is_what_the_server_takes(start: Start) -> None:
    (port,) = ports(1)
    address = f"127.0.0.1:{port}"
    start("server", "--shard", "0", "--num-shards", "1", "--max-workers", "7", "--metrics-listen", address)

    def limit() -> str:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/metrics", timeout=5.0) as page:
            lines = page.read().decode().splitlines()
            return next(line for line in lines if line.startswith("pushpull_worker_streams_limit")).split()[-1]
        return ""

    wait_until(lambda: limit() == "7.0", "shard 0 shows its limit")


def test_health_of_nobody_is_bad_and_says_why() -> None:
    (port,) = ports(1)
    status, said = health(port)
    assert status == 1
    assert f"no answer from 127.0.0.1:{port}: UNAVAILABLE" in said


def test_health_is_quick_because_it_loads_nothing_heavy() -> None:
    program = "import sys, pushpull.deploy.cli, pushpull.deploy.health; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "numba"} & set(run.stdout.split())


def can_have_hosts_of_its_own() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--map-root-user", "--mount", "mount", "--bind", "/etc/hosts", "/etc/hosts"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(
    not can_have_hosts_of_its_own(), reason="needs a mount namespace: Linux, and unshare with rights to it"
)
def test_a_shard_and_a_worker_get_on_soon_after_the_names_of_servers_exist(start: Start, tmp_path: Path) -> None:
    """A resolver that fails waits ever longer until it tries again; so each attempt has a channel of its own."""
    hosts, script = tmp_path / "hosts", tmp_path / "script.py"
    hosts.write_text("127.0.0.1 localhost\n", encoding="utf-8")
    script.write_text(
        "from pushpull.worker import connect\nwith connect() as worker:\n    print('joined', flush=True)\n"
    )
    first, second = ports(2)
    servers = f"ps-0.late.test:{first},ps-1.late.test:{second}"
    mount = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    with_hosts = ("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    for shard in (1, 0):
        start("server", "--servers", servers, "--shard", str(shard), "--metrics-listen", "", before=with_hosts)
    worker = start("worker", "--servers", servers, str(script), before=with_hosts)
    wait_until(lambda: health(first, "")[0] == health(second, "")[0] == 0, "servers serve")
    assert worker.stdout is not None
    assert "no answer from the registrar" in worker.stdout.readline()
    hosts.write_text("127.0.0.1 localhost ps-0.late.test ps-1.late.test\n", encoding="utf-8")
    assert "joined\n" in iter(worker.stdout.readline, "")
    assert worker.wait(DEADLINE_SECONDS) == 0


class TestLinger:
    def test_keeps_a_worker_whose_script_ended_well_until_sigterm(self, start: Start, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
        worker = start("worker", "--servers", "a:1", "--linger", str(script))
        assert worker.stdout is not None
        assert "stays until SIGTERM" in worker.stdout.readline()
        assert worker.poll() is None
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.wait(DEADLINE_SECONDS) == 143

    def test_does_not_keep_one_that_failed(self, start: Start, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text("import sys\nsys.exit(3)\n", encoding="utf-8")
        assert start("worker", "--servers", "a:1", "--linger", str(script)).wait(DEADLINE_SECONDS) == 3


class TestARunThatIsOver:
    """Who is started again when there is nothing left to do must not be started for ever."""

    @pytest.fixture
    def script(self, tmp_path: Path) -> str:
        path = tmp_path / "script.py"
        refused = "from pushpull.protos.errors import RunOverError\nraise RunOverError('the run of this job is over')\n"
        path.write_text(refused, encoding="utf-8")
        return str(path)

    @pytest.mark.parametrize(
        ("refusal", "over_is_done", "fails"),
        [(RunOverError, False, True), (RunOverError, True, False), (PlanMismatchError, True, True)],
    )
    def test_is_a_failure_unless_the_command_says_that_it_is_none(
        self, refusal: type[PushpullError], over_is_done: bool, fails: bool
    ) -> None:
        with pytest.raises(refusal) if fails else contextlib.nullcontext(), ending(False, over_is_done):
            raise refusal("no place here")

    def test_is_no_failure_of_any_rank_then(self, start: Start, script: str) -> None:
        worker = start("worker", "--servers", "a:1", "--ranks", "2", "--over-is-done", script)
        said, _ = worker.communicate(timeout=DEADLINE_SECONDS)
        assert (worker.returncode, said.count("nothing left to do: the run of this job is over")) == (0, 2)

    def test_lets_a_worker_linger_where_whatever_ends_is_started_again(self, start: Start, script: str) -> None:
        worker = start("worker", "--servers", "a:1", "--linger", script)
        assert worker.stdout is not None
        assert "nothing left to do: the run of this job is over" in worker.stdout.readline()
        assert "stays until SIGTERM" in worker.stdout.readline()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(DEADLINE_SECONDS) == 143
