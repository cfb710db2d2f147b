"""`pushpull bench links`: shaped links, and time to a loss over them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from pushpull.benchmarks.links.command import main
from pushpull.benchmarks.links.link import Link, parse_link, parse_links
from pushpull.benchmarks.links.network import Network, TcpSettings, why_not_here
from pushpull.benchmarks.links.records import STEPS_OF_MEAN, Record, Recording, course_of, read_record
from pushpull.benchmarks.links.systems import SYSTEMS, systems_named
from pushpull.deploy.processes import pushpull_command
from pushpull.protos.errors import PushpullError, SettingError

WHY_NOT = why_not_here()
MARK = "LINKS_TEST_MARK"
needs_namespaces = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
needs_ping = pytest.mark.skipif(shutil.which("ping") is None, reason="ping is not installed (Debian: iputils-ping)")


def ignored(name: str, line: str) -> None:
    """What processes say."""


def running(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def descendants_marked(mark: str) -> list[int]:
    """Processes that were started with this value in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process.pid)
        except psutil.Error:
            continue
    return running(found)


@pytest.mark.parametrize(
    ("text", "link", "described"),
    [
        ("1gbit", Link(1000.0), "1 Gbit/s"),
        ("100mbit/20ms", Link(100.0, 20.0), "100 Mbit/s, 20 ms"),
        ("2.5mbit/80ms/1%", Link(2.5, 80.0, 0.01), "2.5 Mbit/s, 80 ms, 1% loss"),
    ],
)
def test_a_link_is_written_as_rate_round_trip_and_loss(text: str, link: Link, described: str) -> None:
    assert parse_link(text) == link
    assert str(link) == described


@pytest.mark.parametrize("text", ["", "fast", "100", "100mbit/20", "0mbit", "10mbit/20ms/100%", "10mbit/1%/20ms"])
def test_what_is_no_link_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(SettingError, match=f"'{text}' is no link"):
        parse_link(text)


def test_a_system_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(SettingError, match=r"no system 'dpp'.*ddp"):
        systems_named(["dpp"])
    assert systems_named([SYSTEMS[1].name]) == [SYSTEMS[1]]


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(SettingError, match="need root"):
        main(["--systems", "ddp"])


def test_root_that_may_make_no_namespace_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: root, and every program is there."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: subprocess.CompletedProcess(words, 1))
    assert why_not_here() == "root may make no network namespaces here"


def test_what_is_recorded_is_read_while_it_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "0.jsonl"
    assert read_record(path) == Record(None, [])
    recording = Recording(path)
    recording.step_begins()
    recording.step_ended(5.0)
    recording.step_begins()
    with path.open("a") as file:
        file.write('{"ended": 1')
    record = read_record(path)
    assert [loss for _, loss in record.steps] == [5.0]
    assert record.started is not None
    assert record.started <= record.steps[0][0]


def test_the_mean_is_over_the_newest_steps_of_all_workers_whoever_took_them() -> None:
    """Two workers, of which one is four times as fast; the loss falls by one a second."""
    fast = Record(100.0, [(100.0 + second / 4, 50.0 - second / 4) for second in range(1, 121)])
    slow = Record(101.0, [(100.0 + second, 50.0 - second) for second in range(1, 31)])
    course = course_of([fast, slow])
    assert course.started == 100.0
    assert course.num_steps_until(10.0) == 50
    # Forty steps are eight seconds; their mean is that of the time four seconds ago.
    assert course.seconds_to(30.0) == pytest.approx(24.0, abs=0.5)
    assert course.seconds_to(1.0) is None
    assert course.loss == pytest.approx(24.0, abs=0.5)


def test_there_is_no_mean_before_there_are_enough_steps() -> None:
    record = Record(0.0, [(float(step), 0.0) for step in range(STEPS_OF_MEAN)])
    assert course_of([record]).seconds_to(1.0) == STEPS_OF_MEAN - 1
    assert course_of([record, Record(None, [])]).seconds_to(1.0) is None


@needs_namespaces
@needs_ping
def test_hosts_see_each_other_through_their_links_only() -> None:
    """20 + 40 ms between two hosts: each link adds its own."""
    links = {"near": parse_link("100mbit/20ms"), "far": parse_link("100mbit/40ms"), "free": None}
    with Network(links, TcpSettings(), ignored) as network:
        near, far, free = (network.hosts[name] for name in links)
        pids = [host.pid for host in network.hosts.values()]
        assert running(pids) == pids
        for target, least_ms in ((far, 60.0), (free, 20.0)):
            words = near.command(["ping", "-q", "-c", "3", "-i", "0.1", target.address])
            said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            fastest = float(said.split(" = ")[1].split("/")[0])
            assert least_ms <= fastest < least_ms + 15.0
        sent, received = free.bytes_sent_and_received()
        assert sent == received == 3 * 84
    assert running(pids) == []


@needs_namespaces
@needs_ping
def test_the_rate_holds_in_both_directions_and_lost_packets_are_lost() -> None:
    with Network({"a": parse_link("8mbit/0ms/50%"), "b": None}, TcpSettings(), ignored) as network:
        a, b = network.hosts.values()
        for source, target in ((a, b), (b, a)):
            before = [host.bytes_sent_and_received() for host in (source, target)]
            words = ["ping", "-q", "-f", "-c", "200", "-w", "2", "-s", "1000", target.address]
            subprocess.run(source.command(words), stdout=subprocess.DEVNULL, check=False)
            sent = source.bytes_sent_and_received()[0] - before[0][0]
            arrived = target.bytes_sent_and_received()[1] - before[1][1]
            assert 0.3 < arrived / sent < 0.7
            assert sent < 8e6 / 8 * 2 + 40_000, "more than the link carries in two seconds"


@needs_namespaces
def test_a_network_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = str(tmp_path)
    monkeypatch.setenv(MARK, mark)
    with (
        pytest.raises(PushpullError, match="nonsense"),
        Network({"a": None}, TcpSettings(sysctls=["nonsense=1"]), ignored),
    ):
        pass
    assert descendants_marked(mark) in ([], [os.getpid()])


@needs_namespaces
def test_a_quick_run_says_when_each_system_got_to_the_loss(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    command = [
        *(sys.executable, "-m", "pushpull.deploy.cli", "bench", "links", "--quick", "--json", "--no-link-check"),
        *("--links", "1gbit/10ms,50mbit/20ms/0.5%", "--systems", "ddp;topk"),
        *("--steps", "60", "--target-loss", "5.0", "--limit-seconds", "60", "--log", str(log)),
    ]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=110, check=False, env=os.environ | {MARK: str(tmp_path)}
    )
    assert run.returncode == 0, f"{run.stderr}\n{log.read_text() if log.exists() else ''}"
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    assert result["links"] == [str(link) for link in parse_links("1gbit/10ms,50mbit/20ms/0.5%")]
    assert [one["system"] for one in result["runs"]] == ["ddp", "topk"]
    for one in result["runs"]:
        assert 0 < one["seconds_to_target"] <= one["seconds"] + 0.01
        assert one["loss"] <= 5.5
        assert one["num_steps"] >= 2 * STEPS_OF_MEAN
        for worker in one["workers"]:
            assert worker["bytes_up"] > 100 * worker["num_steps"]
            assert worker["bytes_down"] > 100 * worker["num_steps"]
    dense, sparse = (one["workers"][0] for one in result["runs"][:2])
    assert sparse["bytes_up"] / sparse["num_steps"] < dense["bytes_up"] / dense["num_steps"] / 2
    assert sparse["seconds"]["wait"] > 0
    assert descendants_marked(str(tmp_path)) == []


@needs_namespaces
def test_a_system_that_fails_is_reported_with_what_it_said(tmp_path: Path) -> None:
    options = ["--quick", "--no-link-check", "--links", "1gbit", "--systems", "fp32", "--training=--no-such-option"]
    with pytest.raises(PushpullError, match="unrecognized arguments: --no-such-option"):
        main(options)


@needs_namespaces
@pytest.mark.parametrize(
    "channel",
    [
        "from pushpull.protos.transport import dial; channel = dial('{0}')",
        "from pushpull.deploy.status import StatusClient; channel = StatusClient('{0}')._channel",
    ],
)
def test_a_server_is_reached_over_a_link_on_which_connecting_takes_a_second(channel: str) -> None:
    """A handshake is two round trips. An attempt that is given up sooner than that is given up for ever."""
    with Network({"far": parse_link("100mbit/600ms"), "server": None}, TcpSettings(), ignored) as network:
        far, server = network.hosts.values()
        address = f"{server.address}:7077"
        command = [*pushpull_command("server"), "--shard", "0", "--num-shards", "1", "--listen", address]
        network.start(server, "server", [*command, "--metrics-listen", "", "--guard-fd", str(network.guard_fd)])
        program = f"import grpc; {channel.format(address)}; grpc.channel_ready_future(channel).result(30)"
        done = subprocess.run(far.command([sys.executable, "-c", program]), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
