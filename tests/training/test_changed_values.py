"""Parameters that the script changes by itself: never overwritten unnoticed, and the servers' values once they are pushed."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from clusters import local_cluster
from torch import nn

from pushpull.protos.errors import SettingError
from pushpull.worker import Worker

MODES = ["sync", "bounded", "async"]


def net() -> nn.Sequential:
    """The same one whatever other threads draw."""
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def backward(model: nn.Module, seed: int = 0) -> None:
    batch = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    model(batch).square().mean().backward()


def values(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert torch.equal(mine, theirs)


# ---- noticed ----


def load(model: nn.Module) -> None:
    model.load_state_dict({name: torch.full_like(value, 0.5) for name, value in model.state_dict().items()})


def clamp(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.clamp_(-0.1, 0.1)


def clamp_through_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.clamp_(-0.1, 0.1)


def through_numpy(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.detach().numpy()[:] *= -1


def new_head(model: nn.Module) -> None:
    model[2].reset_parameters()  # type: ignore[index, operator]


def half_precision(model: nn.Module) -> None:
    model.half()


def other_memory(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 2


@pytest.mark.parametrize(
    "change", [load, clamp, clamp_through_data, through_numpy, new_head, half_precision, other_memory]
)
def test_a_step_from_changed_values_is_refused_by_name_and_changes_nothing(
    change: Callable[[nn.Module], None],
) -> None:
    def body(worker: Worker) -> None:
        model = net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        backward(model)
        optimizer.step()
        optimizer.zero_grad()
        before = values(model)
        change(model)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        with pytest.raises(SettingError, match=r"changed .*2\.weight.*optimizer\.push_values\(\)"):
            optimizer.step()
        assert optimizer._replica.position.round == 1
        if change is half_precision:
            model.float()
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.copy_(value)
                parameter.grad = torch.ones_like(value)
        optimizer.step()  # the same values are there again: nothing was lost, and nothing was pushed
        for parameter, value in zip(model.parameters(), before, strict=True):
            torch.testing.assert_close(parameter.detach(), value - 0.1)

    with local_cluster() as cluster:
        cluster.train(body)


@pytest.mark.parametrize("local_updates", [False, True])
def test_a_layer_that_was_replaced_is_refused_by_name_wherever_it_would_count(local_updates: bool) -> None:
    """It would not be trained, and the old one's values would be saved under its name."""

    def body(worker: Worker) -> None:
        model = net()
        optimizer: Any
        if local_updates:
            optimizer = worker.local_updates(model, torch.optim.SGD(model.parameters(), lr=0.1), every=1)
        else:
            optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        backward(model)
        optimizer.step()
        head, before = model[2], values(model)
        model[2] = nn.Linear(5, 2)
        backward(model)
        for call in (optimizer.step, optimizer.push_values, optimizer.skip_step, worker.full_state_dict):
            with pytest.raises(SettingError, match=r"2\.weight, 2\.bias: not the parameters"):
                call()
        model[2] = head
        assert_same(values(model), before)
        saved = worker.full_state_dict()["model"]
        assert torch.equal(saved["2.weight"], head.weight)

    with local_cluster() as cluster:
        cluster.train(body)


def test_a_late_joiner_gets_the_frozen_layer_that_took_the_place_of_another() -> None:
    """Frozen parameters and buffers are the script's own, also by load_state_dict(assign=True) or another module."""
    joined, trained = threading.Event(), threading.Event()

    def student() -> nn.ModuleDict:
        return nn.ModuleDict({"net": net(), "teacher": nn.BatchNorm1d(2).requires_grad_(False)})

    def first(worker: Worker) -> None:
        model = student()
        optimizer = worker.optimizer(model, torch.optim.SGD, params=model["net"].parameters(), lr=0.1)
        model["teacher"] = nn.BatchNorm1d(2).requires_grad_(False)
        nn.init.constant_(model["teacher"].weight, 3.0)
        model["teacher"].running_mean.fill_(4.0)
        backward(model["net"])
        optimizer.step()
        with worker.pause():
            trained.set()
            assert joined.wait(60)

    def second(worker: Worker) -> None:
        assert trained.wait(60)
        model = student()
        worker.optimizer(model, torch.optim.SGD, params=model["net"].parameters(), lr=0.1)
        joined.set()
        assert model["teacher"].weight.tolist() == [3.0, 3.0]
        assert model["teacher"].running_mean.tolist() == [4.0, 4.0]

    with local_cluster() as cluster:
        cluster.train(first, second)


@pytest.mark.parametrize("what", ["skip", "fetch"])
def test_nothing_is_pulled_over_changed_values_outside_a_step(what: str) -> None:
    def body(worker: Worker) -> None:
        model = net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1, on_demand=["0.*"] if what == "fetch" else [])
        if what == "fetch":
            optimizer.fetch(model[0])
        model[0].weight.data.clamp_(-0.1, 0.1)
        with pytest.raises(SettingError, match=r"0\.weight"):
            optimizer.skip_step() if what == "skip" else optimizer.fetch(model[0])

    with local_cluster() as cluster:
        cluster.train(body)


def test_what_is_the_scripts_own_may_change() -> None:
    def body(worker: Worker) -> None:
        model = net()
        model.register_buffer("mean", torch.zeros(3))
        teacher = model[0].requires_grad_(False)
        optimizer = worker.optimizer(model, torch.optim.SGD, params=model[2].parameters(), lr=0.1)
        for step in range(3):
            teacher.weight.data.mul_(0.5)
            model.mean.add_(1.0)
            backward(model, step)
            optimizer.step()
            optimizer.zero_grad()
        assert torch.equal(model.mean, torch.full((3,), 3.0))

    with local_cluster() as cluster:
        cluster.train(body)


# ---- pushed ----


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("push_codec", ["fp32", "int8", "topk:0.05+int8"])
def test_loaded_values_become_the_servers_and_training_goes_on_from_them(mode: str, push_codec: str) -> None:
    loaded = [torch.full((5, 6), 0.5), torch.full((5,), 0.5), torch.full((2, 5), 0.5), torch.full((2,), 0.5)]

    def body(worker: Worker) -> list[torch.Tensor]:
        model = net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        load(model)
        optimizer.push_values()
        if mode == "sync":
            assert_same(values(model), loaded)
        optimizer.push_values()  # nothing was changed since: nothing happens
        backward(model)
        optimizer.step()
        if (mode, push_codec) == ("sync", "fp32"):
            assert optimizer._replica.position.round == 2
        return values(model)

    with local_cluster(mode=mode, push_codec=push_codec, expected_workers=2) as cluster:
        first, second = cluster.train(body, body)
        if mode == "sync":
            assert_same(first, second)
        if (mode, push_codec) == ("sync", "fp32"):
            plain = net()
            load(plain)
            backward(plain)
            torch.optim.SGD(plain.parameters(), lr=0.1).step()
            for mine, theirs in zip(first, plain.parameters(), strict=True):
                torch.testing.assert_close(mine, theirs.detach())


@pytest.mark.parametrize("pull_codec", ["fp32", "bf16", "int8"])
def test_clamping_after_every_step_gives_what_it_gives_in_one_process(pull_codec: str) -> None:
    def train(model: nn.Module, optimizer: Any, push: Callable[[], None]) -> None:
        batch = torch.ones(2, 4)
        for _ in range(10):
            optimizer.zero_grad()
            (-model(batch).mean()).backward()
            optimizer.step()
            for parameter in model.parameters():
                parameter.data.clamp_(-0.5, 0.5)
            push()
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()

    def body(worker: Worker) -> list[torch.Tensor]:
        model = nn.Linear(4, 1)
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        train(model, optimizer, optimizer.push_values)
        return values(model)

    plain = nn.Linear(4, 1)
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.1), lambda: None)
    assert torch.allclose(plain.weight, torch.tensor(0.4))
    with local_cluster(pull_codec=pull_codec, expected_workers=2) as cluster:
        first, second = cluster.train(body, body)
    assert_same(first, second)
    tolerance = 2**-9 if pull_codec == "bf16" else 1e-3 if pull_codec == "int8" else 1e-6
    for mine, theirs in zip(first, plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=0, atol=tolerance)


def test_rows_that_different_workers_renormalise_are_put_together() -> None:
    """`max_norm` changes the rows of a batch in its forward pass: other rows on every worker, in the same block."""

    def body(worker: Worker) -> list[torch.Tensor]:
        model = nn.Embedding(8, 3, max_norm=0.5)
        nn.init.ones_(model.weight)
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        rows = torch.tensor([0, 1, 2]) if worker.id == 0 else torch.tensor([3, 4, 5])
        loss = model(rows).sum()
        with pytest.raises(SettingError, match="weight"):
            optimizer.step()
        optimizer.push_values()
        norms = model.weight.detach().norm(dim=1)
        assert bool((norms[:6] < 0.5001).all())
        assert bool((norms[6:] > 0.6).any())
        del loss
        model(rows).sum().backward()  # what it would renormalise is so already: nothing changes
        optimizer.step()
        return values(model)

    with local_cluster(expected_workers=2) as cluster:
        assert_same(*cluster.train(body, body))


def test_what_one_worker_loads_alone_voids_the_gradients_of_that_round() -> None:
    def body(worker: Worker) -> list[torch.Tensor]:
        model = net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        if worker.id == 0:
            load(model)
            optimizer.push_values()
        else:
            backward(model)
            optimizer.step()
        return values(model)

    with local_cluster(expected_workers=2) as cluster:
        first, second = cluster.train(body, body)
    assert_same(first, second)
    assert_same(first, [torch.full_like(value, 0.5) for value in first])


def test_values_reach_who_joins_later() -> None:
    loaded = threading.Event()
    joined = threading.Event()

    def first(worker: Worker) -> list[torch.Tensor]:
        model = net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        load(model)
        optimizer.push_values()
        loaded.set()
        assert joined.wait(60)
        return values(model)

    def second(worker: Worker) -> list[torch.Tensor]:
        assert loaded.wait(60)
        model = net()
        worker.optimizer(model, torch.optim.SGD, lr=0.1)
        joined.set()
        return values(model)

    with local_cluster(mode="async") as cluster:
        assert_same(*cluster.train(first, second))


def test_values_that_are_not_finite_are_refused_by_name() -> None:
    def body(worker: Worker) -> None:
        model = net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        model[2].bias.data[1] = float("inf")
        with pytest.raises(Exception, match=r"2\.bias is not finite"):
            optimizer.push_values()
        model[2].bias.data[1] = 1.0
        optimizer.push_values()
        assert model[2].bias[1] == 1.0

    with local_cluster() as cluster:
        cluster.train(body)


# ---- local updates ----


class TestLocalUpdates:
    @staticmethod
    def made(worker: Worker, model: nn.Module, every: int) -> Any:
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        return worker.local_updates(model, inner, every=every, outer_lr=1.0, outer_momentum=0.0)

    def test_a_change_between_two_windows_is_noticed_and_can_be_pushed(self) -> None:
        def body(worker: Worker) -> list[torch.Tensor]:
            model = net()
            optimizer = self.made(worker, model, 2)
            load(model)
            backward(model)
            with pytest.raises(SettingError, match="push_values"):
                optimizer.step()
            optimizer.push_values()
            assert_same(values(model), [torch.full_like(value, 0.5) for value in values(model)])
            backward(model)
            optimizer.step()
            with pytest.raises(SettingError, match="1 local steps are not pushed yet"):
                optimizer.push_values()
            optimizer.step()
            return values(model)

        with local_cluster(expected_workers=2) as cluster:
            assert_same(*cluster.train(body, body))

    def test_a_change_inside_a_window_is_pushed_with_it_also_of_a_parameter_without_gradient(self) -> None:
        def body(worker: Worker) -> list[torch.Tensor]:
            model = net()
            optimizer = self.made(worker, model, 2)
            for step in range(2):
                model[2](torch.ones(1, 5)).sum().backward()  # nothing for the first layer
                optimizer.step()
                if step == 0:
                    model[0].bias.data.fill_(0.25)
            return [model[0].bias.detach().clone()]

        with local_cluster(expected_workers=2) as cluster:
            first, second = cluster.train(body, body)
        assert_same(first, second)
        torch.testing.assert_close(first[0], torch.full((5,), 0.25))


def test_a_lost_lease_says_what_it_takes_away(caplog: pytest.LogCaptureFixture) -> None:
    def body(worker: Worker) -> None:
        model = net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        model[0].weight.data.zero_()
        with caplog.at_level(logging.WARNING):
            optimizer.rejoin()
        assert "what the script had put into 0.weight is lost" in caplog.text

    with local_cluster() as cluster:
        cluster.train(body)


@pytest.mark.parametrize(
    ("optimizer_class", "options", "kept"),
    [
        (torch.optim.AdamW, {}, True),
        (torch.optim.SGD, {"momentum": 0.9}, True),
        (torch.optim.SGD, {}, False),
    ],
)
def test_that_the_servers_keep_their_moments_is_said_once_for_each_place(
    optimizer_class: type[torch.optim.Optimizer], options: dict[str, Any], kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint's model without its moments: as in torch, but there the moments are in the script's own hands."""

    def body(worker: Worker) -> None:
        model = net()
        optimizer = worker.optimizer(model, optimizer_class, lr=0.01, **options)
        load(model)
        optimizer.push_values()  # there are no moments yet
        for _ in range(3):
            backward(model)
            optimizer.step()
            optimizer.push_values()  # nothing was changed
            clamp(model)
            optimizer.push_values()
        load(model)
        optimizer.push_values()

    with caplog.at_level(logging.INFO, "pushpull"), local_cluster() as cluster:
        cluster.train(body)
    told = [record.getMessage() for record in caplog.records if "keep the moments" in record.getMessage()]
    assert len(told) == (2 if kept else 0)
    for line in told:
        assert line.startswith("optimizer.push_values() at test_changed_values.py:")
        assert f"0.weight, 0.bias, 2.weight and 1 more, and keep the moments of {optimizer_class.__name__}" in line
