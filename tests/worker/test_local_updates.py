"""Local updates against fake servers, which apply plain gradient descent: with rate 1 they take over the local values."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from pushpull.protos.common_pb2 import Mode
from pushpull.protos.errors import NonFiniteError, SettingError
from pushpull.protos.registrar_pb2 import DealRequest, DealResponse
from pushpull.protos.shard_pb2 import Outcome, Verdict
from pushpull.worker import Worker, connect

from .fake_servers import FakeServers, wait_until
from .small_model import SmallModel, assert_close, backward, small_model, spoil, values_of

TAKE_OVER: dict[str, float] = {"outer_lr": 1.0, "outer_momentum": 0.0}


def adam(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()


def plainly_trained(num_steps: int) -> SmallModel:
    model = small_model()
    train(model, adam(model), range(num_steps))
    return model


class TestWindows:
    def test_pushes_once_in_a_window_and_keeps_the_local_optimizers_state(
        self, servers: FakeServers, worker: Worker
    ) -> None:
        model = small_model()
        optimizer = worker.local_updates(model, adam(model), every=3, **TAKE_OVER)
        train(model, optimizer, range(6))
        assert_close(model, plainly_trained(6))
        assert [shard.applied for shard in servers.shards] == [2, 2]

    def test_local_values_lie_in_the_model_between_pushes(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.local_updates(model, adam(model), every=3, **TAKE_OVER)
        train(model, optimizer, range(2))
        assert_close(model, plainly_trained(2))
        assert servers.shards[0].commits == []

    def test_the_servers_rate_stretches_the_way(self, servers: FakeServers, worker: Worker) -> None:
        model, local, start = small_model(), plainly_trained(3), small_model()
        optimizer = worker.local_updates(model, adam(model), every=3, outer_lr=0.5, outer_momentum=0.9)
        optimizer.outer_lr = 2.0
        train(model, optimizer, range(3))
        for new, at, away in zip(model.parameters(), start.parameters(), local.parameters(), strict=True):
            torch.testing.assert_close(new, at + 2.0 * (away - at), rtol=1e-5, atol=1e-6)
        assert servers.enrolments[0].optimizer.groups[0].flags["nesterov"]

    def test_the_way_begins_at_the_value_that_was_pulled(self, servers: FakeServers) -> None:
        servers.job.pull_codec = "bf16"
        with connect(servers.address) as worker:
            model = small_model()
            optimizer = worker.local_updates(model, adam(model), every=2, **TAKE_OVER)
            masters, pulled = torch.cat([_flat(values) for values in _masters(servers)]), _flat(values_of(model))
            train(model, optimizer, range(1))
            local = _flat(values_of(model))
            optimizer.flush()
        moved = torch.cat([_flat(values) for values in _masters(servers)]) - masters
        torch.testing.assert_close(moved.sum(), (local - pulled).sum(), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_models_of_other_types_train(self, worker: Worker, dtype: torch.dtype) -> None:
        model = small_model().to(dtype)
        optimizer = worker.local_updates(model, torch.optim.SGD(model.parameters(), lr=0.5), every=1, **TAKE_OVER)
        start = values_of(model)
        model(torch.randn(8, 40, dtype=dtype)).square().mean().backward()
        optimizer.step()
        for old, new in zip(start, model.parameters(), strict=True):
            assert new.grad is not None
            torch.testing.assert_close(new.detach(), old - 0.5 * new.grad, rtol=1e-2, atol=1e-3)

    def test_parameters_without_gradient_in_the_whole_window_are_absent(
        self, servers: FakeServers, worker: Worker
    ) -> None:
        model = small_model()
        optimizer = worker.local_updates(model, adam(model), every=2, **TAKE_OVER)
        for _ in range(2):
            model.first(torch.randn(4, 40)).square().mean().backward()
            optimizer.step()
        absent = {block for shard in servers.shards for block in shard.commits[0].absent}
        names = {servers.plan.parameters[servers.plan.blocks[block].parameter].name for block in absent}
        assert names == {"second.weight", "second.bias"}

    def test_frozen_parameters_and_buffers_stay_local(self, servers: FakeServers, worker: Worker) -> None:
        linear, norm = torch.nn.Linear(40, 30), torch.nn.BatchNorm1d(30)
        linear.weight.requires_grad_(False)
        model = torch.nn.Sequential(linear, norm)
        frozen = linear.weight.clone()
        optimizer = worker.local_updates(model, adam(model), every=1, **TAKE_OVER)
        model(torch.randn(8, 40)).square().mean().backward()
        assert norm.running_mean is not None
        running_mean = norm.running_mean.clone()
        optimizer.step()
        assert torch.equal(linear.weight, frozen)
        assert torch.equal(norm.running_mean, running_mean)
        frames = [frames for shard in servers.shards for frames in shard.frames_of(0)]
        pushed = {servers.plan.blocks[block].parameter for each in frames for block in each.blocks}
        assert {servers.plan.parameters[number].name for number in pushed} == {"0.bias", "1.weight", "1.bias"}

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"every": 0}, "every=0"),
            ({"every": 2, "outer_lr": 0.0}, "outer_lr"),
            ({"every": 2, "outer_momentum": 1.0}, "outer_momentum"),
        ],
    )
    def test_settings_that_make_no_sense_are_refused_by_name(
        self, worker: Worker, wrong: dict[str, Any], named: str
    ) -> None:
        model = small_model()
        with pytest.raises(SettingError, match=named):
            worker.local_updates(model, adam(model), **wrong)


class TestAsATorchOptimizer:
    def test_schedulers_drive_the_local_optimizer(self, worker: Worker) -> None:
        model, plain = small_model(), small_model()
        local = adam(plain)
        optimizer = worker.local_updates(model, adam(model), every=3, **TAKE_OVER)
        schedules = [torch.optim.lr_scheduler.ExponentialLR(each, 0.5) for each in (local, optimizer)]
        for step in range(6):
            train(plain, local, range(step, step + 1))
            train(model, optimizer, range(step, step + 1))
            for schedule in schedules:
                schedule.step()
        assert optimizer.param_groups[0]["lr"] == optimizer.inner.param_groups[0]["lr"] == 0.01 * 0.5**6
        assert_close(model, plain)

    def test_a_closure_goes_to_the_local_optimizer(self, worker: Worker) -> None:
        model, plain = small_model(), small_model()
        local = torch.optim.LBFGS(plain.parameters(), max_iter=3)
        optimizer = worker.local_updates(model, torch.optim.LBFGS(model.parameters(), max_iter=3), every=2, **TAKE_OVER)

        def closure_of(each: torch.nn.Module, step: int) -> Callable[[], float]:
            def closure() -> float:
                each.zero_grad()
                backward(each, step)
                return 7.0

            return closure

        for step in range(2):
            assert optimizer.step(closure_of(model, step)) == 7.0
            local.step(closure_of(plain, step))
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("by_hand", [False, True])
    def test_gradients_are_unscaled_and_an_overflow_counts_without_samples(
        self, servers: FakeServers, worker: Worker, by_hand: bool
    ) -> None:
        model, plain = small_model(), small_model()
        local = adam(plain)
        optimizer = worker.local_updates(model, adam(model), every=2, **TAKE_OVER)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(4):
            torch.manual_seed(step)
            batch = torch.randn(8, 40)
            scaler.scale(model(batch).square().mean()).backward()
            if step == 1:
                spoil(model.first.weight, float("inf"))
            else:
                plain(batch).square().mean().backward()
                local.step()
            if by_hand:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            local.zero_grad()
        assert_close(model, plain)
        assert scaler.get_scale() == 512.0
        assert [commit.num_samples for commit in servers.shards[0].commits] == [1.0, 2.0]

    def test_a_window_of_overflows_is_a_skip(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        start = values_of(model)
        optimizer = worker.local_updates(model, adam(model), every=2, **TAKE_OVER)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(2):
            scaler.scale(model(torch.randn(8, 40)).square().mean()).backward()
            spoil(model.first.weight, float("inf"))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            assert optimizer.num_pending == 1 - step
        assert [commit.verdict for commit in servers.shards[0].commits] == [Verdict.VERDICT_SKIP]
        assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))

    def test_a_saved_window_goes_on_after_loading(self, servers: FakeServers) -> None:
        servers.job.push_codec = "int8"
        with connect(servers.address) as worker:
            model = small_model()
            optimizer = worker.local_updates(model, adam(model), every=4, **TAKE_OVER)
            train(model, optimizer, range(6))
            local, state = values_of(model), copy.deepcopy(optimizer.state_dict())
            optimizer.detach()
        with connect(servers.address) as worker:
            again = SmallModel()
            optimizer = worker.local_updates(again, adam(again), every=4, **TAKE_OVER)
            optimizer.load_state_dict(state)
            assert optimizer.num_pending == 2
            for saved, loaded in zip(local, again.parameters(), strict=True):
                torch.testing.assert_close(loaded.detach(), saved, rtol=1e-6, atol=1e-7)
            assert optimizer.state[again.first.weight]["step"] == 6
            train(again, optimizer, range(6, 8))
            assert optimizer.num_pending == 0
        commits = servers.shards[0].commits
        assert [commit.num_samples for commit in commits] == [4.0, 4.0]


class TestOutcomes:
    def test_a_late_push_is_dropped_and_the_servers_values_replace_the_local_ones(self, servers: FakeServers) -> None:
        servers.job.push_codec = "int8"
        with connect(servers.address) as worker:
            model = small_model()
            start = values_of(model)
            optimizer = worker.local_updates(model, adam(model), every=2, **TAKE_OVER)
            for shard in servers.shards:
                shard.outcome_kind = lambda commit: Outcome.KIND_LATE
            train(model, optimizer, range(2))
            assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
            memory = optimizer.state_dict()["pushpull"]["memory"].values()
            assert not any(bool(block["residual"].any()) for block in memory)

    def test_a_refused_push_raises_and_the_next_window_starts_from_the_servers_values(
        self, servers: FakeServers, worker: Worker
    ) -> None:
        model = small_model()
        start = values_of(model)
        optimizer = worker.local_updates(model, adam(model), every=2, **TAKE_OVER)
        for shard in servers.shards:
            shard.outcome_kind = lambda commit: Outcome.KIND_REFUSED if commit.step == 1 else Outcome.KIND_APPLIED
        with pytest.raises(ValueError, match="refused by the test"):
            train(model, optimizer, range(2))
        assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
        train(model, optimizer, range(2))
        assert [shard.applied for shard in servers.shards] == [1, 1]

    def test_values_that_are_not_finite_are_dropped_and_named(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        start = values_of(model)
        optimizer = worker.local_updates(model, torch.optim.SGD(model.parameters(), lr=0.1), every=2, **TAKE_OVER)
        backward(model)
        spoil(model.second.weight, float("nan"))
        optimizer.step()
        backward(model)
        with pytest.raises(NonFiniteError, match=r"2 local steps .*parameter \w+\.weight"):
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
        assert servers.shards[0].commits[0].verdict == Verdict.VERDICT_SKIP

    def test_an_expired_lease_costs_the_open_window_only(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.local_updates(model, adam(model), every=3, **TAKE_OVER)
        train(model, optimizer, range(3))
        pushed = values_of(model)
        train(model, optimizer, range(2))
        servers.expire()
        worker._training._come_back()  # as when the registrar says so while data are asked for
        assert optimizer.num_pending == 0
        assert all(torch.equal(a, b) for a, b in zip(pushed, model.parameters(), strict=True))
        train(model, optimizer, range(3))
        assert [shard.applied for shard in servers.shards] == [2, 2]

    def test_a_lease_that_expires_in_silence_is_noticed_at_the_push(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        start = values_of(model)
        optimizer = worker.local_updates(model, adam(model), every=2, **TAKE_OVER)
        train(model, optimizer, range(1))
        servers.expire()
        wait_until(lambda: worker._membership._fenced is not None)
        train(model, optimizer, range(1))
        assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
        train(model, optimizer, range(2))
        assert [shard.applied for shard in servers.shards] == [1, 1]
        report = worker._recorder.report()
        assert (report.steps_applied, report.steps_dropped) == (1, 1)

    def test_a_worker_that_trains_counts_from_its_first_local_step(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.local_updates(model, adam(model), every=5, **TAKE_OVER)
        assert servers.activations == []
        train(model, optimizer, range(1))
        assert len(servers.activations) == 1

    def test_a_gradient_of_values_that_others_have_moved_since_is_dropped(self) -> None:
        servers = FakeServers(2, Mode.MODE_SYNC)
        try:
            servers.first_round = 5
            with connect(servers.address) as worker:
                model = small_model()
                start = values_of(model)
                optimizer = worker.local_updates(model, adam(model), every=2, **TAKE_OVER)
                for shard in servers.shards:
                    shard.round = 4
                train(model, optimizer, range(1))
                assert optimizer.num_pending == 0
                assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
                train(model, optimizer, range(2))
                assert [shard.commits[0].round for shard in servers.shards] == [5, 5]
        finally:
            servers.stop()


class TestData:
    def test_lots_and_samples_of_all_local_steps_ride_in_the_push(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.local_updates(model, adam(model), every=3, **TAKE_OVER)
        for (batch,) in worker.share(TensorDataset(torch.randn(64, 40)), batch_size=10):
            model(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        commits = servers.shards[0].commits
        assert [commit.num_samples for commit in commits] == [30.0, 30.0, 4.0]
        assert [len(commit.lots) for commit in commits] == [3, 3, 1]

    def test_a_refused_push_leaves_its_data_and_progress_to_the_next_one(
        self, servers: FakeServers, worker: Worker
    ) -> None:
        model = small_model()
        optimizer = worker.local_updates(model, adam(model), every=2, **TAKE_OVER)
        for number, (batch,) in enumerate(worker.share(TensorDataset(torch.randn(64, 40)), batch_size=16)):
            model(batch).square().mean().backward()
            if number == 1:
                optimizer.outer_groups[0]["lr"] = float("nan")
                with pytest.raises(SettingError, match="lr is nan"):
                    optimizer.step()
                optimizer.outer_lr = 1.0
            else:
                optimizer.step()
        commits = servers.shards[0].commits
        assert [list(commit.lots) for commit in commits] == [[1, 2, 3], [4]]
        assert [commit.num_samples for commit in commits] == [48.0, 16.0]

    def test_the_samples_of_a_refused_step_count_with_the_next_one(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.local_updates(model, adam(model), every=2, **TAKE_OVER)
        for number, (batch,) in enumerate(worker.share(TensorDataset(torch.randn(64, 40)), batch_size=16)):
            model(batch).square().mean().backward()
            if number == 1:
                with pytest.raises(SettingError, match="num_samples"):
                    optimizer.step(num_samples=-1.0)
            else:
                optimizer.step()
        assert [commit.num_samples for commit in servers.shards[0].commits] == [48.0, 16.0]

    def test_the_weights_that_user_code_gives_add_up(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.local_updates(model, adam(model), every=2, **TAKE_OVER)
        for weight in (5, 0):
            backward(model)
            optimizer.step(num_samples=weight)
        assert [commit.num_samples for commit in servers.shards[0].commits] == [5.0]

    def test_a_worker_without_data_pushes_what_it_has_in_the_round_of_the_others(self, servers: FakeServers) -> None:
        answers = iter([*[DealResponse.STATE_EXHAUSTED] * 2, DealResponse.STATE_OVER])
        dealt = servers.answer_deal

        def deal(request: DealRequest) -> DealResponse:
            answer = dealt(request)
            return answer if answer.lots or request.leave_epoch else DealResponse(state=next(answers), take_part=True)

        servers.answer_deal = deal
        with connect(servers.address) as worker:
            model = small_model()
            optimizer = worker.local_updates(model, adam(model), every=5, **TAKE_OVER)
            for (batch,) in worker.share(TensorDataset(torch.randn(64, 40)), batch_size=10):
                model(batch).square().mean().backward()
                optimizer.step()
        commits = servers.shards[0].commits
        assert [commit.num_samples for commit in commits] == [50.0, 14.0, 0.0]
        assert commits[2].verdict == Verdict.VERDICT_SKIP

    def test_leaving_the_loop_early_pushes_before_the_rest_of_the_data_goes_back(self, servers: FakeServers) -> None:
        with connect(servers.address) as worker:
            model = small_model()
            optimizer = worker.local_updates(model, adam(model), every=5, **TAKE_OVER)
            for number, (batch,) in enumerate(worker.share(TensorDataset(torch.randn(64, 40)), batch_size=10)):
                model(batch).square().mean().backward()
                optimizer.step()
                if number == 1:
                    break
        assert [len(commit.lots) for commit in servers.shards[0].commits] == [2]
        assert servers.deals[-1].leave_epoch
        assert len(servers.pauses) == 1

    @pytest.mark.parametrize("way", ["pause", "end"])
    def test_progress_is_pushed_before_a_pause_and_at_the_end(self, servers: FakeServers, way: str) -> None:
        model = small_model()
        with connect(servers.address) as worker:
            optimizer = worker.local_updates(model, adam(model), every=5, **TAKE_OVER)
            train(model, optimizer, range(2))
            if way == "pause":
                with worker.pause():
                    assert servers.shards[0].applied == 1
        assert [shard.applied for shard in servers.shards] == [1, 1]
        assert_close(model, plainly_trained(2))

    def test_a_script_that_fails_pushes_nothing_more(self, servers: FakeServers) -> None:
        def fail() -> None:
            with connect(servers.address) as worker:
                model = small_model()
                optimizer = worker.local_updates(model, adam(model), every=5, **TAKE_OVER)
                train(model, optimizer, range(2))
                raise RuntimeError("user code")

        with pytest.raises(RuntimeError, match="user code"):
            fail()
        assert servers.shards[0].commits == []


def _flat(values: Any) -> torch.Tensor:
    return torch.cat([torch.as_tensor(value).flatten() for value in values])


def _masters(servers: FakeServers) -> list[list[torch.Tensor]]:
    return [[torch.from_numpy(values.copy()) for values in shard.values.values()] for shard in servers.shards]
