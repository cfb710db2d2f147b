"""What becomes of a step, and what of the optimizer is saved."""

from dataclasses import replace

import pytest
import torch

from pushpull.protos.common_pb2 import Mode
from pushpull.protos.errors import NonFiniteError
from pushpull.protos.shard_pb2 import Outcome, Verdict
from pushpull.worker import Worker, connect
from pushpull.worker.settlement import what_became
from pushpull.worker.step_messages import StagedFrames, StepRequest, commit_of

from .fake_servers import FakeServers
from .small_model import backward, small_model, spoil, values_of

APPLIED, LATE = Outcome(kind=Outcome.KIND_APPLIED), Outcome(kind=Outcome.KIND_LATE)


class TestOutcomes:
    def test_a_gradient_that_is_not_finite_is_skipped_and_named(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        before = values_of(model)
        backward(model)
        spoil(model.second.weight, float("nan"))
        with pytest.raises(NonFiniteError, match=r"second\.weight"):
            optimizer.step()
        assert servers.shards[0].commits[0].verdict == Verdict.VERDICT_SKIP
        assert all(torch.equal(b, p) for b, p in zip(before, model.parameters(), strict=True))
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
        assert servers.shards[0].applied == 1

    @pytest.mark.parametrize(
        ("known", "never", "words"),
        [
            ([APPLIED, APPLIED], [], "applied"),
            ([APPLIED, LATE], [], "applied, late"),
            ([APPLIED], [1], "applied, but never on shards [1]"),
            ([], [0], "no shard took it"),
            ([], [0, 1], "no shard took it"),
        ],
    )
    def test_of_a_step_that_was_cut_off_is_said_what_each_shard_did(
        self, known: list[Outcome], never: list[int], words: str
    ) -> None:
        assert what_became(known, never) == words

    @pytest.mark.parametrize(
        ("kind", "grows"), [(Outcome.KIND_APPLIED, True), (Outcome.KIND_LATE, False), (Outcome.KIND_SKIPPED, False)]
    )
    def test_the_residual_grows_by_applied_steps_only(
        self, servers: FakeServers, worker: Worker, kind: "Outcome.Kind", grows: bool
    ) -> None:
        servers.job.push_codec = "int8"
        with connect(servers.address) as second:
            model = small_model()
            optimizer = second.optimizer(model, torch.optim.SGD, lr=0.5)
            for shard in servers.shards:
                shard.outcome_kind = lambda commit: kind
            backward(model)
            optimizer.step()
            memory = optimizer.state_dict()["pushpull"]["memory"].values()
            assert any(bool(block["residual"].any()) for block in memory) is grows

    def test_a_refused_step_raises_its_error_and_training_can_go_on(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        for shard in servers.shards:
            shard.outcome_kind = lambda commit: Outcome.KIND_REFUSED if commit.step == 1 else Outcome.KIND_APPLIED
        backward(model)
        with pytest.raises(ValueError, match="refused by the test"):
            optimizer.step()
        optimizer.step()
        assert [shard.applied for shard in servers.shards] == [1, 1]
        report = worker._recorder.report()
        assert (report.steps_applied, report.steps_dropped) == (1, 1)

    def test_a_gradient_too_old_for_its_first_round_is_dropped(self) -> None:
        servers = FakeServers(2, Mode.MODE_SYNC)
        try:
            servers.first_round = 5
            with connect(servers.address) as worker:
                model = small_model()
                optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
                for shard in servers.shards:
                    shard.round = 4
                backward(model)
                optimizer.step()
                assert [shard.commits for shard in servers.shards] == [[], []]
                optimizer.step()
                assert [shard.commits[0].round for shard in servers.shards] == [5, 5]
                assert worker._recorder.report().steps_dropped == 1
        finally:
            servers.stop()


class TestState:
    def test_survives_saving_and_loading(self, servers: FakeServers) -> None:
        servers.job.push_codec = "int8"
        model = small_model()
        with connect(servers.address) as worker:
            optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
            backward(model)
            optimizer.step()
            optimizer.param_groups[0]["lr"] = 0.25
            state = optimizer.state_dict()
        assert state["state"] == {}
        with connect(servers.address) as worker:
            again = worker.optimizer(model, torch.optim.SGD, lr=0.5)
            again.load_state_dict(state)
            loaded = again.state_dict()
        assert loaded["param_groups"][0]["lr"] == 0.25
        saved, got = (s["pushpull"]["memory"] for s in (state, loaded))
        assert saved.keys() == got.keys()
        for block, rows in saved.items():
            assert rows.keys() == got[block].keys() == {"residual", "num_applied"}
            assert all(torch.equal(rows[name], got[block][name]) for name in rows)

    def test_of_an_older_torch_leaves_what_it_lacks_as_it_is(self, servers: FakeServers) -> None:
        model = small_model()
        with connect(servers.address) as worker:
            optimizer = worker.optimizer(
                model, torch.optim.SGD, lr=0.5, weight_decay=0.125, nesterov=True, momentum=0.5
            )
            state = optimizer.state_dict()
            for key in ("nesterov", "weight_decay"):
                del state["param_groups"][0][key]
            state["param_groups"][0]["lr"] = 0.25
            optimizer.load_state_dict(state)
            group = optimizer.param_groups[0]
            assert (group["lr"], group["weight_decay"], group["nesterov"]) == (0.25, 0.125, True)
            backward(model)
            optimizer.step()
            with pytest.raises(ValueError, match="parameter groups"):
                optimizer.load_state_dict({**state, "param_groups": state["param_groups"] * 2})

    def test_holds_the_velocities_of_momentum_correction(self, servers: FakeServers) -> None:
        servers.job.push_codec = "dgc:0.9:4+topk:0.05+int8"
        model = small_model()
        with connect(servers.address) as worker:
            optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
            backward(model)
            optimizer.step()
            memory = optimizer.state_dict()["pushpull"]["memory"]
        assert all({"velocity", "residual", "num_applied"} >= rows.keys() > {"velocity"} for rows in memory.values())
        assert any(bool(rows["velocity"].any()) for rows in memory.values())
        assert {int(rows["num_applied"]) for rows in memory.values()} == {1}

    def test_of_another_plan_is_dropped_with_a_warning(self, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
        optimizer = worker.optimizer(small_model(), torch.optim.SGD, lr=0.5)
        state = optimizer.state_dict()
        state["pushpull"] |= {"plan": "other", "memory": {0: {"residual": torch.ones(3)}}}
        optimizer.load_state_dict(state)
        assert "belong to another model" in caplog.text


@pytest.mark.parametrize(("request_fields", "idle"), [({"idle": True}, True), ({}, False)])
def test_only_who_has_no_data_says_that_it_idles(request_fields: dict[str, bool], idle: bool) -> None:
    request = StepRequest(gradients={}, groups=[], num_samples=0.0, skip=True, **request_fields)
    nothing = StagedFrames(attempt=1, blocks=[[]], absent=[[]], apply=False)
    assert commit_of(0, request, nothing, [], (1, 1)).idle is idle
    assert not commit_of(0, request, replace(nothing, apply=True), [], (1, 1)).idle
