"""`pushpull status`: rates between looks, what is wrong stands out, and a job whose shards cannot be reached from here."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from launches import Launch, pushpull, wait_until
from rich.console import Console

from pushpull.deploy.status import JobWatch, ShardAsker, with_answers
from pushpull.deploy.status_command import show_json, show_live, show_page
from pushpull.deploy.status_figures import Look, Looks, clocks_behind, workers_to_show
from pushpull.deploy.status_page import Room, status_page
from pushpull.protos.common_pb2 import JobSpecification, Mode
from pushpull.protos.errors import ServerUnreachableError
from pushpull.protos.registrar_pb2 import JobStatus, ShardStatus, WorkerReport, WorkerStatus

JOB = JobSpecification(
    job_id="abc", mode=Mode.MODE_BOUNDED, staleness_bound=4, push_codec="int8", pull_codec="fp32", lease_seconds=10
)


def a_report(samples: float = 0.0, seconds: float = 0.0, loss: float = 0.5, num_bytes: int = 0) -> WorkerReport:
    return WorkerReport(
        num_samples=samples,
        compute_seconds=seconds * 0.75,
        wait_seconds=seconds * 0.25,
        metrics={"loss": loss},
        bytes_pushed=num_bytes,
        bytes_pulled=2 * num_bytes,
    )


def a_worker(worker_id: int, state: str = "active", clock: int = 100, **fields: Any) -> WorkerStatus:
    fields.setdefault("report", a_report())
    return WorkerStatus(
        worker_id=worker_id, incarnation=7 + worker_id, state=state, clock=clock, host="h", pid=1, **fields
    )


def a_status(*workers: WorkerStatus, shards: tuple[ShardStatus, ...] = (), **fields: Any) -> JobStatus:
    return JobStatus(job=JOB, phase="training", workers=workers, shards=shards, **fields)


def looks_at(*statuses: JobStatus, seconds: float = 2.0, answered: frozenset[str] = frozenset()) -> Looks:
    looks = Looks()
    for number, status in enumerate(statuses):
        looks.add(Look(status, number * seconds, answered))
    return looks


def page(looks: Looks, room: Room | None = None, trouble: str = "", colour: bool = False) -> str:
    console = Console(width=250, force_terminal=colour, color_system="standard" if colour else None)
    with console.capture() as captured:
        console.print(status_page(looks, room, trouble), highlight=False)
    return captured.get()


def row(text: str, first: str) -> list[str]:
    """Cells of the row that begins with this cell."""
    return next(re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.strip().startswith(f"{first} "))


def test_rates_are_taken_between_reports_and_not_between_looks() -> None:
    """Reports come every second: by the time of the looks the rate would be wrong by half."""
    first = a_worker(0, report=a_report(samples=100, num_bytes=10**6), reported_seconds_ago=0.9)
    later = a_worker(0, report=a_report(samples=400, seconds=4.0, num_bytes=7 * 10**6), reported_seconds_ago=0.1)
    looks = looks_at(a_status(first), a_status(later), seconds=2.2)
    rates = looks.worker_rates()[0]
    assert rates.samples_per_second == pytest.approx(100.0)
    assert rates.pushed_bytes_per_second == pytest.approx(2e6)
    assert rates.shares == pytest.approx((0.75, 0.0, 0.25, 0.0))
    cells = row(page(looks), "0")
    assert cells[:9] == ["0", "active", "100", "0", "100", "0.5000", "75/0/25/0", "2.0 MB/s", "4.0 MB/s"]


def test_another_life_of_a_worker_or_of_the_job_begins_anew() -> None:
    before, after = a_worker(0, report=a_report(samples=1000)), a_worker(0, report=a_report(samples=10))
    after.incarnation += 1
    assert looks_at(a_status(before), a_status(after)).worker_rates() == {}
    other = a_status(before)
    other.job.job_id = "another"
    looks = looks_at(a_status(before), other)
    assert looks.worker_rates() == {}
    assert "job another" in page(looks)


def test_the_traffic_of_a_worker_is_that_of_all_its_ranks() -> None:
    def of(num_bytes: int) -> JobStatus:
        ranks = [a_report(num_bytes=num_bytes), a_report(num_bytes=3 * num_bytes)]
        return a_status(a_worker(0, report=ranks[0], ranks=ranks, layout="tp2"))

    looks = looks_at(of(0), of(10**6))
    assert looks.worker_rates()[0].pushed_bytes_per_second == pytest.approx(2e6)
    rows = [re.split(r" {2,}", line.strip()) for line in page(looks).splitlines()]
    assert ["0", "tp2", "1", "3.0 MB", "6.0 MB", "0 B", "-"] in rows


def test_only_what_is_wrong_has_a_colour() -> None:
    shards = (ShardStatus(shard=0, address="a:1", epoch=1),)
    calm = page(looks_at(a_status(a_worker(0), a_worker(1, clock=98), shards=shards)), colour=True)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", calm)
    for status, told in [
        (a_status(a_worker(0), a_worker(1, clock=96)), "4"),
        (a_status(a_worker(0, heard_seconds_ago=5.0)), "5.0 s ago"),
        (a_status(a_worker(0, report=a_report(loss=float("nan")))), "nan"),
        (a_status(a_worker(0, state="failed", failure="OSError: disk full")), "OSError: disk full"),
        (a_status(a_worker(0, state="paused", suspended="shard 1 has not")), "suspended: shard 1 has not"),
        (a_status(shards=(ShardStatus(shard=0, pushes_refused={"NON_FINITE": 2}),)), "2"),
        (a_status(shards=(ShardStatus(shard=0, reported_seconds_ago=9.0),)), "as reported 9.0 s ago: link down"),
        (a_status(failures=3), "failures 3"),
    ]:
        assert re.search(rf"\x1b\[[0-9;]*3[13]m *{told}", page(looks_at(status), colour=True)), told


def test_workers_that_do_not_fit_are_counted_and_those_in_trouble_stay() -> None:
    workers = [a_worker(number) for number in range(50)]
    workers[40].heard_seconds_ago = 8.0
    workers[45].state = "expired"
    shown, left_out = workers_to_show(workers, 3)
    assert [worker.worker_id for worker in shown] == [0, 40, 45]
    assert left_out == 47
    text = page(looks_at(a_status(*workers)), Room(workers=3))
    assert "... and 47 more" in text
    assert "49 active; gone: 1 expired" in text
    assert len(workers_to_show([a_worker(n, state="failed") for n in range(50)])[0]) == 5


def test_only_active_workers_are_ahead_or_behind() -> None:
    workers = [a_worker(0, clock=10), a_worker(1, clock=7), a_worker(2, clock=99, state="left")]
    assert clocks_behind(workers) == {0: 0, 1: 3}


def test_a_narrow_page_leaves_out_what_can_be_done_without() -> None:
    looks = looks_at(a_status(a_worker(0), shards=(ShardStatus(shard=0, address="a:1"),)))
    assert "host" in page(looks, Room(columns=120))
    narrow = page(looks, Room(columns=100))
    assert "host" not in narrow
    assert "samples/s" in narrow


def test_a_server_of_another_job_at_the_same_address_is_not_believed() -> None:
    status = a_status(shards=(ShardStatus(shard=0, address="a:1", epoch=5, steps_applied=1),))
    with_answers(status, {"a:1": ShardStatus(shard=0, address="a:1", epoch=6, steps_applied=99)})
    assert status.shards[0].steps_applied == 1
    with_answers(status, {"a:1": ShardStatus(shard=0, address="a:1", epoch=5, steps_applied=2)})
    assert status.shards[0].steps_applied == 2


@contextmanager
def silent_addresses(number: int) -> Iterator[list[str]]:
    """They take connections and never answer."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        yield [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    finally:
        for one in sockets:
            one.close()


def test_shards_that_do_not_answer_are_waited_for_together_and_then_not_at_all() -> None:
    asker = ShardAsker()
    with silent_addresses(8) as addresses:
        started = time.monotonic()
        assert asker.ask([*addresses, "no-such-host.invalid:7077"], timeout_seconds=0.5) == {}
        first = time.monotonic() - started
        started = time.monotonic()
        assert asker.ask(addresses, timeout_seconds=0.5) == {}
        assert time.monotonic() - started < 0.2
        assert first < 4.0, "one after the other they would take 4 s and more"
    asker.close()


class FailingWatch:
    """Answers, then does not, then does again; Ctrl-C comes behind the last answer."""

    address = "a:7077"

    def __init__(self, answers: list[bool]) -> None:
        self._answers = answers
        self.num_looks = 0

    def look(self, timeout_seconds: float = 5.0) -> Look:
        if not self._answers:
            raise KeyboardInterrupt
        self.num_looks += 1
        if not self._answers.pop(0):
            raise ServerUnreachableError("nobody is there")
        return Look(a_status(a_worker(0), clock=self.num_looks), time.monotonic())


def test_a_live_page_outlives_its_server_and_ends_with_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushpull.deploy.status_command.INTERVAL_SECONDS", 0.01)
    console = Console(width=250, height=40, force_terminal=True, color_system=None)
    with console.capture() as captured:
        show_live(FailingWatch([True, *[False] * 5, True]), console)  # type: ignore[arg-type]
    lost, back = captured.get().rindex("No answer from a:7077"), captured.get().rindex("clock 7")
    assert lost < back
    with pytest.raises(ServerUnreachableError):
        show_live(FailingWatch([False]), console)  # type: ignore[arg-type]


TRAINS = """
import torch
from pushpull.worker import connect

model = torch.nn.Linear(8, 8)
with connect() as worker:
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=1e-3)
    while True:
        loss = model(torch.ones(2, 8)).square().mean()
        loss.backward()
        optimizer.step(num_samples=2)
        worker.log(loss=loss.item())
"""


def test_a_running_job_is_shown_once_live_and_as_json(
    launch: Callable[..., Launch], capsys: pytest.CaptureFixture[str]
) -> None:
    run = launch(TRAINS, workers=1)
    run.wait_for("pushpull status --servers")
    address = re.findall(r"pushpull status --servers (\S+)", run.said)[0]
    with JobWatch(address) as watch:
        wait_until(lambda: watch.look().status.round > 0, "a round")
        show_page(watch, Console(width=250))
        text = capsys.readouterr().out
        worker, shard = row(text, "0"), [line for line in text.splitlines() if line.endswith("its own")]
        assert (worker[1], len(shard)) == ("active", 2)
        assert float(worker[4].replace(" ", "")) > 0
        show_json(watch)
        (seen,) = json.loads(capsys.readouterr().out)["workers"]
        assert 0 <= seen["heard_seconds_ago"] < 10
        # From where the shards' advertised addresses lead nowhere: the registrar says how they were.
        watch._shards.ask = lambda addresses, timeout_seconds: {}  # type: ignore[method-assign]
        show_page(watch, Console(width=250))
        assert len(re.findall(r"as reported 0\.\d s ago", capsys.readouterr().out)) == 2
    done = subprocess.run(pushpull("status", "--servers", address), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "training" in done.stdout
    run.process.send_signal(signal.SIGTERM)
    run.end()
    with grpc.insecure_channel(address), pytest.raises(ServerUnreachableError):
        JobWatch(address).look(timeout_seconds=1.0)
