"""Which values a job starts from, and what is said of it: real servers, real workers."""

import logging
import threading
from collections.abc import Callable

import pytest
import torch
from clusters import local_cluster

from pushpull.protos.errors import RunOverError, SettingError
from pushpull.worker import Worker, connect

Model = Callable[[], torch.nn.Module]


def model_of(value: float) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    records = [record for record in caplog.records if record.name.startswith("pushpull.worker")]
    return [record.getMessage() for record in records if record.levelno == level and "values" in record.getMessage()]


def test_a_file_on_the_machine_that_joins_second_is_not_given_up_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The documented pattern: load, if the file is there, before `worker.optimizer`."""
    caplog.set_level(logging.INFO)
    with local_cluster() as cluster, connect(cluster.addresses) as without:
        without.optimizer(model_of(1.0), torch.optim.SGD, lr=0.1)
        with connect(cluster.addresses) as loaded:
            model = model_of(2.0)
            loaded.optimizer(model, torch.optim.SGD, lr=0.1)
        origin = cluster.status().origin
    assert model[0].bias.tolist() == [1.0, 1.0]
    (warning,) = lines(caplog, logging.WARNING)
    assert "the values of worker 1" in warning
    assert "those of worker 0 (process " in warning
    assert "0.weight, 0.bias, 1.weight and 1 more differ" in warning
    assert origin.who.startswith("worker 0 (process ")
    assert origin.who in warning


@pytest.mark.parametrize("pull_codec", ["fp32", "bf16"])
def test_workers_that_build_the_same_are_not_warned(caplog: pytest.LogCaptureFixture, pull_codec: str) -> None:
    """Also where values travel narrower than they are."""
    caplog.set_level(logging.INFO)
    with local_cluster(pull_codec=pull_codec) as cluster, connect(cluster.addresses) as first:
        first.optimizer(model_of(0.1), torch.optim.SGD, lr=0.1)
        with connect(cluster.addresses) as second:
            second.optimizer(model_of(0.1), torch.optim.SGD, lr=0.1)
    assert lines(caplog, logging.WARNING) == []
    assert len(lines(caplog, logging.INFO)) == 2


def train(worker: Worker, model: torch.nn.Module, num_steps: int = 2) -> None:
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
    for _ in range(num_steps):
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()


def test_a_second_run_does_not_silently_start_from_the_firsts_weights(caplog: pytest.LogCaptureFixture) -> None:
    """Folds, sweeps: a loop around `connect`."""
    with local_cluster() as cluster:
        with connect(cluster.addresses) as worker:
            train(worker, model_of(1.0))
        with pytest.raises(RunOverError, match="start the servers anew"):
            connect(cluster.addresses)
        with connect(cluster.addresses, resume=True) as worker:
            data = torch.utils.data.TensorDataset(torch.ones(8, 3))
            model = model_of(1.0)
            optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
            num_steps = 0
            for (batch,) in worker.share(data, batch_size=4):
                model(batch).sum().backward()
                optimizer.step()
                num_steps += 1
    assert num_steps == 2
    (warning,) = lines(caplog, logging.WARNING)
    assert "trained ones: this job is at clock 2" in warning


def test_somebody_elses_going_job_is_not_joined_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with local_cluster(mode="async") as cluster, connect(cluster.addresses) as first:
        train(first, model_of(1.0))
        with connect(cluster.addresses) as second:
            train(second, model_of(1.0), num_steps=0)
    (warning,) = lines(caplog, logging.WARNING)
    assert "the values of worker 1 are replaced by trained ones" in warning


def test_a_job_with_a_name_is_joined_by_its_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with local_cluster(1, name="cats") as cluster:
        for wrong in (None, "dogs"):
            with pytest.raises(SettingError, match="cats"):
                connect(cluster.addresses, job_name=wrong)
        with connect(cluster.addresses, job_name="cats") as worker:
            assert worker.job.name == "cats"
        monkeypatch.setenv("PUSHPULL_JOB_NAME", "cats")
        connect(cluster.addresses).close()
        assert cluster.status().failures == 0


def test_workers_that_begin_together_agree_whose_values_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    together = threading.Barrier(2)

    def body(worker: Worker) -> float:
        together.wait()
        model = model_of(float(worker.id))
        worker.optimizer(model, torch.optim.SGD, lr=0.1)
        return float(model[0].bias[0].detach())

    with local_cluster(expected_workers=2) as cluster:
        assert cluster.train(body, body) == [0.0, 0.0]
    assert len(lines(caplog, logging.WARNING)) == 1
