"""What a step did not change is not sent, not rewritten, and keeps its version: as in plain torch."""

import copy
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from clusters import local_cluster
from rank_groups import rank_groups
from unchanged_bodies import adapter_model, data_of_step, versions

from pushpull.worker import LAMB, LARS, Worker

MODES = ("sync", "bounded", "async")
WAYS = [("sync", "fp32"), ("sync", "bf16"), ("sync", "int8"), ("bounded", "fp32"), ("async", "fp32")]
"""Modes, and pull codecs that go with them."""
NUM_STEPS = 10


def bytes_received(optimizer: Any) -> int:
    """Of values, so far."""
    received: int = optimizer._replica.traffic()[1]
    return received


class TestTraffic:
    """A large frozen network with small adapters, as in fine-tuning with LoRA."""

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "in-the-optimizer-without-gradient"])
    def test_is_that_of_the_adapters(self, mode: str, frozen: bool) -> None:
        def body(worker: Worker) -> tuple[int, int, int]:
            model = adapter_model()
            if frozen:
                model.freeze()
            optimizer = worker.optimizer(model, torch.optim.AdamW, lr=1e-3)
            model.freeze()
            before = bytes_received(optimizer)
            for step in range(NUM_STEPS):
                model(data_of_step(step)).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            return before, bytes_received(optimizer) - before, model.num_trained

        with local_cluster(2, mode=mode) as cluster:
            ((first, behind, num_trained),) = cluster.train(body)
        assert first > 20 * 4 * num_trained
        assert 4 * num_trained * NUM_STEPS <= behind <= 1.1 * 4 * num_trained * NUM_STEPS


def gan() -> torch.nn.ModuleDict:
    torch.manual_seed(0)
    generator = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 6))
    judge = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    return torch.nn.ModuleDict({"generator": generator, "judge": judge})


def train_gan(model: torch.nn.ModuleDict, optimizer: torch.optim.Optimizer) -> None:
    """The judge's step lies between the generator's forward and its backward, which uses the graph of before."""
    generator, judge = model["generator"], model["judge"]
    for step in range(6):
        made = generator(data_of_step(step)[:, :4])
        optimizer.zero_grad()
        (judge(made.detach()).mean() - judge(data_of_step(step)[:, :6]).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        judge.requires_grad_(False)
        (-judge(made).mean()).backward()
        judge.requires_grad_(True)
        optimizer.step()


class TestTwoNetworksUnderOneOptimizer:
    @pytest.mark.parametrize(("mode", "pull_codec"), WAYS)
    def test_train_in_turn_with_a_graph_that_is_kept(self, mode: str, pull_codec: str) -> None:
        def body(worker: Worker) -> dict[str, torch.Tensor]:
            model = gan()
            train_gan(model, worker.optimizer(model, torch.optim.Adam, lr=1e-3))
            return model.state_dict()

        with local_cluster(2, mode=mode, pull_codec=pull_codec, damping="none") as cluster:
            (trained,) = cluster.train(body)
        if pull_codec == "fp32":
            plain = gan()
            train_gan(plain, torch.optim.Adam(plain.parameters(), lr=1e-3, fused=True))
            for name, value in plain.state_dict().items():
                torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-5)


class TestVersions:
    """Two adapters, of which every second step uses one, on a base of several blocks."""

    def check(self, changed: list[set[str]]) -> None:
        assert changed == [{"adapters.0"}, {"adapters.1"}, {"adapters.0"}, {"adapters.1"}]

    @pytest.mark.parametrize(("mode", "pull_codec"), WAYS)
    def test_of_tensors_without_change_stay(self, mode: str, pull_codec: str) -> None:
        with local_cluster(2, mode=mode, pull_codec=pull_codec, block_elements=256) as cluster:
            (changed,) = cluster.train(lambda worker: changed_in_each_step(worker, torch.optim.AdamW))
        self.check(changed)

    @pytest.mark.parametrize("optimizer_class", [LARS, LAMB])
    def test_stay_with_norms_of_whole_parameters(self, optimizer_class: type[torch.optim.Optimizer]) -> None:
        with local_cluster(2, block_elements=256) as cluster:
            (changed,) = cluster.train(lambda worker: changed_in_each_step(worker, optimizer_class))
        self.check(changed)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_stay_with_local_updates(self, dtype: torch.dtype) -> None:
        def body(worker: Worker) -> list[set[str]]:
            model = adapter_model().to(dtype)
            model.freeze()
            inner = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
            return versions(model, worker.local_updates(model, inner, every=1), 4)

        with local_cluster(2, block_elements=256) as cluster:
            (changed,) = cluster.train(body)
        self.check(changed)

    def test_stay_on_every_rank_that_holds_a_copy(self, tmp_path: Path) -> None:
        with local_cluster(2, block_elements=256) as cluster, rank_groups(tmp_path) as start:
            servers = {"PUSHPULL_SERVERS": ",".join(cluster.addresses)}
            for changed in start("dp2", "unchanged_bodies:changed_on_a_rank", environment=servers).results():
                self.check(changed)


def changed_in_each_step(worker: Worker, optimizer_class: type[torch.optim.Optimizer]) -> list[set[str]]:
    """Names of the parameters with a new version, by step."""
    model = adapter_model()
    model.freeze()
    return versions(model, worker.optimizer(model, optimizer_class, lr=1e-2), 4)


class TestUnlikeHolders:
    def test_each_gets_what_it_lacks(self) -> None:
        """One worker trains one half, and the one that comes behind it the other: it has the values of both."""
        trained, ended = threading.Event(), threading.Event()

        def first(worker: Worker) -> Mapping[str, torch.Tensor]:
            values = halves(worker, 0, 3)
            trained.set()
            assert ended.wait(60)  # the run would be over without it
            return values

        def second(worker: Worker) -> Mapping[str, torch.Tensor]:
            assert trained.wait(60)
            values = halves(worker, 1, 3)
            ended.set()
            return values

        with local_cluster(2, mode="async", damping="none") as cluster:
            one, two = cluster.train(first, second)
        plain = copy.deepcopy(gan())
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
        for half in (0, 1):
            train_half(plain, optimizer, half, 3)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6)
        assert not torch.equal(one["judge.0.weight"], two["judge.0.weight"])


def halves(worker: Worker, half: int, num_steps: int) -> Mapping[str, torch.Tensor]:
    model = gan()
    train_half(model, worker.optimizer(model, torch.optim.SGD, lr=0.1), half, num_steps)
    return model.state_dict()


def train_half(model: torch.nn.ModuleDict, optimizer: torch.optim.Optimizer, half: int, num_steps: int) -> None:
    network: Callable[..., torch.Tensor] = model[("generator", "judge")[half]]
    for step in range(num_steps):
        optimizer.zero_grad()
        network(data_of_step(step)[:, : (4, 6)[half]]).square().mean().backward()
        optimizer.step()
