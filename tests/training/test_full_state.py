"""What is saved is what the servers hold: full precision, whole names and shapes, moments as plain torch has them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from clusters import local_cluster
from full_state_bodies import LEARNING_RATE, NUM_STEPS, batch, small_model, train
from rank_groups import rank_groups

from pushpull.worker import LAMB, LARS, Worker

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "SGD-plain": (torch.optim.SGD, {}),
    "Adam": (torch.optim.Adam, {"amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "Adagrad": (torch.optim.Adagrad, {}),
    "RMSprop": (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
    "LARS": (LARS, {}),
    "LAMB": (LAMB, {}),
}


def saved(
    cluster_settings: dict[str, Any], kind: type[torch.optim.Optimizer], numbers: dict[str, Any]
) -> dict[str, Any]:
    def body(worker: Worker) -> dict[str, Any]:
        model = small_model()
        train(model, worker.optimizer(model, kind, lr=LEARNING_RATE, **numbers))
        return worker.full_state_dict()

    with local_cluster(2, **cluster_settings) as cluster:
        (state,) = cluster.train(body)
    return state  # type: ignore[no-any-return]


def plain(kind: type[torch.optim.Optimizer], numbers: dict[str, Any]) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = small_model()
    optimizer = kind(model.parameters(), lr=LEARNING_RATE, **numbers)
    train(model, optimizer)
    return model, optimizer


def assert_like_plain(state: dict[str, Any], kind: type[torch.optim.Optimizer], numbers: dict[str, Any]) -> None:
    """By values, moments, and by going on from them."""
    model, optimizer = plain(kind, numbers)
    expected = model.state_dict()
    assert set(state["model"]) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(state["model"][name], value, rtol=1e-5, atol=1e-6)
    restored = small_model()
    restored.load_state_dict(state["model"])
    other = kind(restored.parameters(), lr=1.0, **numbers)
    other.load_state_dict(state["optimizer"])
    of_torch, loaded = optimizer.state_dict()["state"], other.state_dict()["state"]
    for number, kept in of_torch.items():
        tensors = {key: value for key, value in kept.items() if value is not None}
        assert not tensors or set(loaded[number]) == set(tensors)
        for key, value in tensors.items():
            torch.testing.assert_close(
                torch.as_tensor(loaded[number][key]), torch.as_tensor(value), rtol=1e-4, atol=1e-6
            )
    for each, stepper in ((model, optimizer), (restored, other)):
        train(each, stepper, first=NUM_STEPS)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(restored.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_plain_optimizer_goes_on_from_what_was_saved(name: str) -> None:
    kind, numbers = OPTIMIZERS[name]
    state = saved({"block_elements": 64}, kind, numbers)
    assert state["round"] == NUM_STEPS
    assert_like_plain(state, kind, numbers)


@pytest.mark.parametrize("pull_codec", ["bf16", "fp16", "int8"])
def test_values_have_full_precision_although_pulls_have_not(pull_codec: str) -> None:
    def body(worker: Worker) -> tuple[torch.nn.Module, dict[str, Any]]:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1e-4)
        for step in range(20):
            for number, parameter in enumerate(model.parameters()):
                parameter.grad = torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(100 * number + step)
                )
            optimizer.step()
        return model, worker.full_state_dict()

    with local_cluster(2, pull_codec=pull_codec) as cluster:
        ((model, state),) = cluster.train(body)
        stores = [server._engine._loaded().store for server in cluster.servers]  # what the servers have, by block
        held = sum(float(store.values.double().sum()) for store in stores)
    # The servers hold float buffers, too: as they were in the beginning.
    buffers = [b for b in small_model().buffers() if b.is_floating_point()]
    parameters = sum(float(state["model"][name].double().sum()) for name, _ in model.named_parameters())
    assert parameters + sum(float(b.double().sum()) for b in buffers) == pytest.approx(held, abs=1e-9)
    pulled = [torch.equal(state["model"][name], value) for name, value in model.named_parameters()]
    assert not all(pulled)


@pytest.mark.parametrize("mode", ["bounded", "async"])
def test_works_without_rounds(mode: str) -> None:
    kind, numbers = OPTIMIZERS["AdamW"]
    assert_like_plain(saved({"mode": mode, "damping": "none"}, kind, numbers), kind, numbers)


def test_moments_in_8_bits_are_read_and_not_changed() -> None:
    def body(worker: Worker, times: int) -> dict[str, Any]:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.Adam, lr=LEARNING_RATE)
        for step in range(times):
            worker.full_state_dict()
            train(model, optimizer, first=step * NUM_STEPS)
        for step in range(times, 3):
            train(model, optimizer, first=step * NUM_STEPS)
        return worker.full_state_dict()

    states = []
    for times in (0, 3):
        with local_cluster(2, optimizer_state="int8") as cluster:
            (state,) = cluster.train(lambda worker, times=times: body(worker, times))
        states.append(state)
    unread, read = states
    for name, value in unread["model"].items():
        assert torch.equal(read["model"][name], value)
    for number, kept in unread["optimizer"]["state"].items():
        assert kept["exp_avg"].abs().max() > 0
        assert torch.equal(read["optimizer"]["state"][number]["exp_avg"], kept["exp_avg"])
        assert torch.equal(read["optimizer"]["state"][number]["exp_avg_sq"], kept["exp_avg_sq"])


def test_experts_on_demand_are_in_it_although_nobody_fetched_them() -> None:
    def body(worker: Worker) -> dict[str, Any]:
        model = small_model()
        optimizer = worker.optimizer(
            model, torch.optim.SGD, lr=LEARNING_RATE, on_demand=["frozen.*"] if worker.id else []
        )
        for _ in range(3):
            optimizer.zero_grad()
            (model if worker.id == 0 else torch.nn.Sequential(model.first, model.norm))(
                batch(1)
            ).square().mean().backward()
            optimizer.step()
        return worker.full_state_dict()

    with local_cluster(2, expected_workers=2) as cluster:
        first, second = cluster.train(body, body)
    assert not torch.equal(first["model"]["frozen.weight"], small_model().frozen.weight)
    assert torch.equal(first["model"]["frozen.weight"], second["model"]["frozen.weight"])


def test_groups_keep_their_order_and_their_numbers() -> None:
    def body(worker: Worker) -> dict[str, Any]:
        model = small_model()
        first, *others = model.parameters()
        groups = [{"params": others, "lr": 0.5}, {"params": [first]}]
        train(model, worker.optimizer(model, torch.optim.Adam, params=groups, lr=LEARNING_RATE))
        return worker.full_state_dict()

    with local_cluster(1) as cluster:
        (state,) = cluster.train(body)
    model = small_model()
    first, *others = model.parameters()
    optimizer = torch.optim.Adam([{"params": others}, {"params": [first]}], lr=1.0)
    optimizer.load_state_dict(state["optimizer"])
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, LEARNING_RATE]
    assert optimizer.state[first]["exp_avg"].shape == first.shape


def test_buffers_and_frozen_parameters_are_this_workers() -> None:
    def body(worker: Worker) -> tuple[dict[str, Any], dict[str, Any]]:
        model = small_model()
        model.frozen.requires_grad_(False)
        optimizer = worker.optimizer(model, torch.optim.SGD, params=[*model.first.parameters()], lr=LEARNING_RATE)
        train(model, optimizer)
        with torch.no_grad():
            model.frozen.weight.fill_(3.0)
        return worker.full_state_dict(), copy.deepcopy(model.state_dict())

    with local_cluster(2) as cluster:
        ((state, own),) = cluster.train(body)
    assert state["model"]["frozen.weight"].unique().tolist() == [3.0]
    for name, value in own.items():
        torch.testing.assert_close(state["model"][name], value)


def test_with_local_updates_the_local_optimizer_is_saved_and_the_outer_one() -> None:
    def body(worker: Worker) -> tuple[dict[str, Any], dict[str, Any]]:
        model = small_model()
        inner = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        train(model, worker.local_updates(model, inner, every=2, outer_momentum=0.5))
        return worker.full_state_dict(), inner.state_dict()

    with local_cluster(2) as cluster:
        ((state, inner),) = cluster.train(body)
    assert state["optimizer"]["state"].keys() == inner["state"].keys()
    outer = torch.optim.SGD(small_model().parameters(), lr=1.0, momentum=0.1)
    outer.load_state_dict(state["outer_optimizer"])
    assert all("momentum_buffer" in kept for kept in outer.state.values())


def test_every_rank_of_a_divided_worker_gets_the_whole(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"layouts": ("tp2",), "tensor_splits": (("first.weight", 0), ("first.bias", 0))}
    with local_cluster(2, **settings) as cluster, rank_groups(tmp_path) as start:
        servers = {"PUSHPULL_SERVERS": ",".join(cluster.addresses)}
        states = start("tp2", "full_state_bodies:saved_by_a_rank", environment=servers).results()
    for state in states:
        assert_like_plain(state, torch.optim.AdamW, {})


def test_before_there_is_a_model_it_says_so() -> None:
    def body(worker: Worker) -> str:
        with pytest.raises(Exception, match="nothing to save before") as refusal:
            worker.full_state_dict()
        return str(refusal.value)

    with local_cluster(1) as cluster:
        cluster.train(body)
