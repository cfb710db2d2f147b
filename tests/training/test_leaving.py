"""Workers that come twice, and workers that nobody closes: real servers, and real processes where these end."""

import gc
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from clusters import Cluster, local_cluster

from pushpull.protos.errors import PushpullError
from pushpull.worker import Worker, connect

DEADLINE_SECONDS = 20.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with local_cluster(mode="async") as cluster:
        yield cluster


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def states(cluster: Cluster) -> dict[int, str]:
    return {worker.worker_id: worker.state for worker in cluster.status().workers}


def train(worker: Worker) -> torch.optim.Optimizer:
    model = torch.nn.Linear(2, 1)
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer


class TestAfterTheBlock:
    def test_a_step_and_a_loop_say_that_the_worker_has_left(self, cluster: Cluster) -> None:
        with connect(cluster.addresses) as worker:
            data = worker.share(range(8), batch_size=2)  # type: ignore[arg-type]
            optimizer = train(worker)
        for late in (optimizer.step, lambda: next(iter(data))):
            with pytest.raises(
                PushpullError, match=r"worker 0 has left the job: its `with connect\(\)` block has ended"
            ):
                late()
        assert states(cluster) == {0: "left"}

    def test_a_loop_that_outlives_it_ends_quietly(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        unraisable: list[object] = []
        monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
        with connect(cluster.addresses) as worker:
            train(worker)
            loop = iter(worker.share(range(8), batch_size=2))  # type: ignore[arg-type]
            next(loop)
        del loop
        gc.collect()
        assert unraisable == []


class TestTwoInOneProcess:
    def test_are_two_workers(self, cluster: Cluster) -> None:
        with connect(cluster.addresses) as first, connect(cluster.addresses) as second:
            assert [first.id, second.id] == [0, 1]
            for worker in (first, second, first, second):
                worker.log(loss=1.0)
            train(first)
            train(second)
            assert states(cluster) == {0: "active", 1: "active"}

    def test_are_two_workers_also_where_the_launcher_has_given_one_id(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("PUSHPULL_WORKER_ID", "3")
        with connect(cluster.addresses) as first, connect(cluster.addresses) as second:
            assert first.id == 3
            assert second.id != 3
            train(first)
        assert cluster.status().failures == 0
        assert "this process is worker 3 already" in caplog.text

    def test_one_that_was_let_go_of_leaves_in_order(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A cell of a notebook that is run again: the same names, other workers."""
        monkeypatch.setenv("PUSHPULL_METRICS_LISTEN", "127.0.0.1:0")
        worker = connect(cluster.addresses)
        optimizer = train(worker)
        worker = connect(cluster.addresses)
        optimizer = train(worker)
        gc.collect()
        wait_until(lambda: states(cluster) == {0: "left", 1: "active"})
        assert "worker 0 was never closed and leaves the job now" in caplog.text
        optimizer.step()
        worker.close()
        assert cluster.status().failures == 0

    def test_a_cell_that_is_run_again_does_not_wait_for_the_worker_before(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Names are bound anew one by one: only the loop finds that nothing refers to the first worker any more."""
        monkeypatch.setenv("PUSHPULL_METRICS_LISTEN", "127.0.0.1:0")
        gc.disable()
        try:
            for _ in range(2):
                worker = connect(cluster.addresses)
                optimizer = train(worker)
                data = worker.share(range(8), batch_size=2)  # type: ignore[arg-type]
            for _ in data:
                optimizer.step()
            wait_until(lambda: states(cluster) == {0: "left", 1: "active"})
            worker.close()
        finally:
            gc.enable()

    def test_nor_does_one_whose_loop_is_over_data_of_its_own(self, caplog: pytest.LogCaptureFixture) -> None:
        """There its first step finds it, which would wait for the worker before it as long as that one lives."""
        gc.disable()
        try:
            with local_cluster(progress_timeout_seconds=30.0) as cluster:
                for _ in range(2):
                    worker = connect(cluster.addresses)
                    model = torch.nn.Linear(2, 1)
                    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
                    model(torch.ones(1, 2)).sum().backward()
                    optimizer.step()
                assert states(cluster) == {0: "left", 1: "active"}
                assert "have not left their job" not in caplog.text
                worker.close()
        finally:
            gc.enable()

    def test_one_that_another_of_this_thread_may_wait_for_is_named(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        """In synchronous mode its step would wait until `progress_timeout_seconds` for a worker that only this thread moves."""
        with connect(cluster.addresses) as first:
            train(first)
            assert "have not left their job" not in caplog.text
            with connect(cluster.addresses) as second:
                optimizer = train(second)
                optimizer.step()
        assert caplog.text.count("workers 0, 1 of this thread have not left their job") == 1

    def test_one_whose_optimizer_is_still_used_is_not_let_go_of(self, cluster: Cluster) -> None:
        optimizer = train(connect(cluster.addresses))
        gc.collect()
        connect(cluster.addresses).close()
        optimizer.step()
        assert states(cluster)[0] == "active"
        del optimizer
        gc.collect()
        wait_until(lambda: states(cluster)[0] == "left")

    def test_the_same_id_asked_for_again_ends_the_first_in_order(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = connect(cluster.addresses, 2)
        train(first)
        with connect(cluster.addresses, 2) as second:
            train(second)
            assert cluster.status().failures == 0
        assert "worker 2 of this process is still open; it leaves" in caplog.text
        first.close()


SCRIPT = """
import os, sys, torch
from pushpull.worker import connect
worker = connect()
model = torch.nn.Linear(2, 1)
optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
"""
ENDS = {
    "at its end": ("", "left", 0),
    "by an exception": ("raise ValueError('no luck')", "failed", 1),
    "after a forked child has ended": (
        "child = os.fork()\nif child == 0:\n    sys.exit(0)\nos.waitpid(child, 0)\noptimizer.step()",
        "left",
        0,
    ),
}


@pytest.mark.parametrize(
    ("end", "by_command"), [*((end, False) for end in ENDS), ("by an exception", True)], ids=[*ENDS, "pushpull worker"]
)
def test_a_script_without_a_block_leaves_when_its_process_ends(
    cluster: Cluster, end: str, by_command: bool, tmp_path: Path
) -> None:
    """Not by its lease, which is 20 s here: at once, and a failure says what it was."""
    ending, state, status = ENDS[end]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + ending, encoding="utf-8")
    words = [str(script)]
    if by_command:
        words = ["-m", "pushpull.deploy.cli", "worker", "--servers", ",".join(cluster.addresses), *words]
    environment = os.environ | {"PUSHPULL_SERVERS": ",".join(cluster.addresses)}
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == status, done.stderr
    (worker,) = cluster.status().workers
    assert worker.state == state
    assert worker.failure == ("ValueError: no luck" if state == "failed" else "")


def test_the_first_worker_moves_on(cluster: Cluster) -> None:
    """Whoever saves by `worker.is_first` goes on saving when worker 0 has gone."""
    first = connect(cluster.addresses)
    assert not first.is_first
    train(first)
    with connect(cluster.addresses) as second:
        train(second)
        assert (first.is_first, second.is_first) == (True, False)
        first.close()
        assert not first.is_first
        wait_until(lambda: second.is_first)


def test_a_worker_that_hears_nothing_is_not_the_first_for_longer_than_its_lease(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    with local_cluster(1, lease_seconds=1.0, server_patience_seconds=1.0) as cluster:
        worker = connect(cluster.addresses)
        train(worker)
        assert worker.is_first
        cluster.servers[0].stop(0.0)
        wait_until(lambda: not worker.is_first)
        worker.close()
