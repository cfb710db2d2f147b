"""Training through the optimizer equals training with torch's own, against fake servers."""

import copy
import logging
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pushpull.protos.errors import SettingError
from pushpull.protos.shard_pb2 import Verdict
from pushpull.worker import Worker, connect

from .fake_servers import FakeServers, wait_until
from .small_model import SmallModel, assert_close, backward, small_model, spoil, values_of


class TestTraining:
    def test_equals_plain_torch(self, worker: Worker) -> None:
        model, plain = small_model(), small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        local = torch.optim.SGD(plain.parameters(), lr=0.5)
        for step in range(5):
            for each, its_optimizer in ((model, optimizer), (plain, local)):
                backward(each, step)
                its_optimizer.step()
                its_optimizer.zero_grad()
        assert_close(model, plain)

    def test_starts_from_the_servers_values(self, servers: FakeServers) -> None:
        first, second = small_model(), SmallModel()
        for model in (first, second):
            with connect(servers.address) as worker:
                worker.optimizer(model, torch.optim.SGD, lr=0.5)
        assert_close(second, first)

    def test_follows_schedulers(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1.0)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for _ in range(3):
            backward(model)
            optimizer.step()
            scheduler.step()
        assert [commit.groups[0].numbers["lr"] for commit in servers.shards[1].commits] == [1.0, 0.5, 0.25]

    def test_sends_the_values_of_every_parameter_group(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        groups: list[dict[str, object]] = [
            {"params": model.first.parameters(), "lr": 0.1},
            {"params": model.second.parameters()},
        ]
        optimizer = worker.optimizer(model, torch.optim.SGD, params=groups, lr=0.2)
        backward(model)
        optimizer.step()
        (commit,) = servers.shards[0].commits
        assert [group.numbers["lr"] for group in commit.groups] == [0.1, 0.2]

    @pytest.mark.parametrize("copies", [copy.copy, copy.deepcopy, pickle.dumps])
    def test_is_not_copied(self, worker: Worker, copies: Callable[[object], object]) -> None:
        """A copy would lack the servers, and fail at its first step by an attribute that nobody knows."""
        optimizer = worker.optimizer(small_model(), torch.optim.SGD, lr=0.5)
        with pytest.raises(SettingError, match=r"Save optimizer\.state_dict"):
            copies(optimizer)

    def test_accepts_a_closure(self, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)

        def closure() -> float:
            optimizer.zero_grad()
            backward(model)
            return 7.0

        assert optimizer.step(closure) == 7.0

    def test_sends_frames_before_the_step_once_it_counts(self, servers: FakeServers) -> None:
        servers.job.message_bytes = 1000
        with connect(servers.address) as worker:
            model = small_model()
            optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
            backward(model)
            optimizer.step()
            optimizer.zero_grad()
            backward(model)
            wait_until(lambda: any(frames.step == 2 for frames in servers.shards[0].frames_of(0)))
            optimizer.step()
        assert worker._recorder.report().steps_restaged == 0
        assert [shard.applied for shard in servers.shards] == [2, 2]

    def test_sends_again_what_was_clipped_in_between(self, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
        model, plain = small_model(), small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        local = torch.optim.SGD(plain.parameters(), lr=0.5)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                for each, its_optimizer in ((model, optimizer), (plain, local)):
                    its_optimizer.zero_grad()
                    backward(each)
                    nn.utils.clip_grad_norm_(each.parameters(), 0.01)
                    its_optimizer.step()
        assert_close(model, plain)
        assert worker._recorder.report().steps_restaged == 1
        assert caplog.text.count("changed between backward") == 1

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_pushes_what_is_in_the_gradients_however_it_came_there(self, worker: Worker, accumulate: int) -> None:
        model, plain = small_model(), small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5, accumulate=accumulate)
        local = torch.optim.SGD(plain.parameters(), lr=0.5)
        for step in range(4):
            for each, its_optimizer in ((model, optimizer), (plain, local)):
                its_optimizer.zero_grad()
                for micro_batch in range(accumulate):
                    backward(each, 10 * step + micro_batch)
                first, second = each.first.weight.grad, each.second.weight.grad
                assert first is not None
                assert second is not None
                if step == 1:
                    first.data.clamp_(-1e-3, 1e-3)
                if step == 3:
                    second.numpy()[:] = -second.numpy()[::-1]
                its_optimizer.step()
        assert_close(model, plain)

    def test_clips_by_the_norm_of_all_gradients(self, worker: Worker) -> None:
        model, plain = small_model(), small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5, clip_norm=0.01)
        local = torch.optim.SGD(plain.parameters(), lr=0.5)
        for _ in range(3):
            for each, its_optimizer in ((model, optimizer), (plain, local)):
                its_optimizer.zero_grad()
                backward(each)
            nn.utils.clip_grad_norm_(plain.parameters(), 0.01)
            optimizer.step()
            local.step()
        assert_close(model, plain)
        assert worker._recorder.report().steps_restaged == 0

    def test_accumulates_micro_batches(self, worker: Worker) -> None:
        model, plain = small_model(), small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5, accumulate=2)
        local = torch.optim.SGD(plain.parameters(), lr=0.5)
        for _ in range(2):
            for each, its_optimizer in ((model, optimizer), (plain, local)):
                backward(each, 1)
                backward(each, 2)
                its_optimizer.step()
                its_optimizer.zero_grad()
        assert_close(model, plain)
        assert worker._recorder.report().steps_restaged == 0


class TestRefusedSteps:
    """A script that catches the error goes on, and its epoch ends: what the refused step had used is the next one's."""

    @pytest.mark.parametrize(
        ("spoil_step", "num_samples"),
        [
            (lambda _, optimizer: optimizer.param_groups[0].update(lr=float("nan")), None),
            (lambda _, optimizer: optimizer.param_groups[0].update(lr="fast"), None),
            (lambda *_: None, "many"),
            (lambda *_: None, -1.0),
            (lambda model, _: model.first.weight.data.add_(1.0), None),
        ],
        ids=["no finite rate", "no number", "no weight", "negative weight", "changed values"],
    )
    def test_leave_their_data_to_the_next_step(
        self,
        servers: FakeServers,
        worker: Worker,
        spoil_step: Callable[[SmallModel, torch.optim.Optimizer], object],
        num_samples: float | None,
    ) -> None:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        for number, (batch,) in enumerate(worker.share(TensorDataset(torch.randn(64, 40)), batch_size=16)):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            if number == 1:
                before = model.first.weight.detach().clone()
                spoil_step(model, optimizer)
                with pytest.raises(SettingError):
                    optimizer.step(num_samples=num_samples)
                optimizer.param_groups[0].update(lr=0.5)
                model.first.weight.data.copy_(before)
            else:
                optimizer.step()
        commits = servers.shards[0].commits
        assert [list(commit.lots) for commit in commits] == [[1], [2, 3], [4]]
        assert [commit.num_samples for commit in commits] == [16.0, 32.0, 16.0]


class TestModels:
    def test_parameters_without_gradient_are_absent_and_keep_their_values(
        self, servers: FakeServers, worker: Worker
    ) -> None:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        before = values_of(model)
        model.first(torch.randn(4, 40)).square().mean().backward()
        optimizer.step()
        after = values_of(model)
        assert [torch.equal(b, a) for b, a in zip(before, after, strict=True)] == [False, False, True, True]
        absent = {block for shard in servers.shards for block in shard.commits[0].absent}
        names = {servers.plan.parameters[servers.plan.blocks[block].parameter].name for block in absent}
        assert names == {"second.weight", "second.bias"}

    def test_frozen_parameters_and_buffers_are_initialised_and_not_pushed(
        self, servers: FakeServers, worker: Worker
    ) -> None:
        linear, norm = nn.Linear(40, 30), nn.BatchNorm1d(30)
        linear.weight.requires_grad_(False)
        model = nn.Sequential(linear, norm)
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        model(torch.randn(8, 40)).square().mean().backward()
        assert norm.running_mean is not None
        running_mean = norm.running_mean.clone()
        optimizer.step()
        assert torch.equal(norm.running_mean, running_mean)
        frames = [frames for shard in servers.shards for frames in shard.frames_of(0)]
        pushed = {servers.plan.blocks[block].parameter for each in frames for block in each.blocks}
        assert {servers.plan.parameters[number].name for number in pushed} == {"0.bias", "1.weight", "1.bias"}
        assert sum(len(shard.values) for shard in servers.shards) == len(servers.plan.blocks)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_other_types_take_the_servers_float32_values(self, worker: Worker, dtype: torch.dtype) -> None:
        model = small_model().to(dtype)
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        before = values_of(model)
        model(torch.randn(8, 40, dtype=dtype)).square().mean().backward()
        optimizer.step()
        for old, new in zip(before, model.parameters(), strict=True):
            expected = (old.float() - 0.5 * new.grad.float()).to(dtype)  # type: ignore[union-attr]
            torch.testing.assert_close(new.detach(), expected, rtol=1e-2, atol=1e-3)

    def test_pulled_values_are_seen_by_autograd(self, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        backward(model)
        loss = model(torch.randn(4, 40)).sum()
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


class TestLossScaling:
    @pytest.mark.parametrize("attach", [True, False])
    def test_gradients_are_unscaled_and_overflows_skipped(
        self, servers: FakeServers, worker: Worker, attach: bool
    ) -> None:
        model, plain = small_model(), small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        local = torch.optim.SGD(plain.parameters(), lr=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        if attach:
            optimizer.attach_scaler(scaler)
        for step in range(4):
            torch.manual_seed(step)
            batch = torch.randn(8, 40)
            scaler.scale(model(batch).square().mean()).backward()
            if step == 1:
                spoil(model.first.weight, float("inf"))
            else:
                plain(batch).square().mean().backward()
                local.step()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            local.zero_grad()
        assert_close(model, plain)
        verdicts = [commit.verdict for commit in servers.shards[0].commits]
        assert verdicts == [Verdict.VERDICT_APPLY, Verdict.VERDICT_SKIP, *[Verdict.VERDICT_APPLY] * 2]
        assert scaler.get_scale() == 512.0
        assert worker._recorder.report().steps_skipped == 1

    def test_unscaling_by_hand_is_noticed(self, worker: Worker) -> None:
        model, plain = small_model(), small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        local = torch.optim.SGD(plain.parameters(), lr=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer.attach_scaler(scaler)
        for step in range(3):
            torch.manual_seed(step)
            batch = torch.randn(8, 40)
            scaler.scale(model(batch).square().mean()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            plain(batch).square().mean().backward()
            local.step()
            optimizer.zero_grad()
            local.zero_grad()
        assert_close(model, plain)
