"""The worker as user code sees it, against fake servers."""

from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import pytest
import torch

from pushpull.protos.errors import SettingError
from pushpull.protos.shard_pb2 import Verdict
from pushpull.worker import Worker, connect
from pushpull.worker.ending import EXIT_STATUS

from .fake_servers import FakeServers
from .small_model import backward, small_model


class TestWorker:
    def test_has_one_optimizer(self, worker: Worker) -> None:
        model = small_model()
        worker.optimizer(model, torch.optim.SGD, lr=0.5)
        with pytest.raises(SettingError, match="one optimizer"):
            worker.optimizer(model, torch.optim.SGD, lr=0.5)

    def test_leaves_torch_to_judge_the_arguments(self, worker: Worker) -> None:
        with pytest.raises(TypeError, match="learning_rate"):
            worker.optimizer(small_model(), torch.optim.SGD, learning_rate=0.5)
        with pytest.raises(ValueError, match="Invalid learning rate"):
            worker.optimizer(small_model(), torch.optim.SGD, lr=-1.0)

    @pytest.mark.parametrize("given", [lambda model: model.parameters(), lambda model: [model, 1], lambda model: "net"])
    def test_says_that_it_wants_the_model_itself(self, worker: Worker, given: Callable[[torch.nn.Module], Any]) -> None:
        model = small_model()
        with pytest.raises(SettingError, match=r"the model is .* not its parameters: those go into params="):
            worker.optimizer(given(model), torch.optim.SGD, lr=0.5)
        with pytest.raises(SettingError, match="the model is"):
            worker.local_updates(given(model), torch.optim.SGD(model.parameters(), lr=0.5), every=2)
        worker.optimizer(model, torch.optim.SGD, lr=0.5)

    @pytest.mark.parametrize("given", [torch.optim.SGD, small_model(), "SGD"])
    def test_says_that_local_updates_want_an_optimizer_that_is_made(self, worker: Worker, given: Any) -> None:
        with pytest.raises(SettingError, match="where an optimizer belongs that is made already"):
            worker.local_updates(small_model(), given, every=2)

    def test_refuses_settings_that_are_not_the_jobs(self, servers: FakeServers) -> None:
        with pytest.raises(SettingError, match="push_codec='int8'"):
            connect(servers.address, push_codec="int8")
        assert servers.leaves[0].failure

    def test_told_to_end_while_it_joins_has_not_failed(
        self, servers: FakeServers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def told(*arguments: object) -> None:
            raise SystemExit(EXIT_STATUS)

        monkeypatch.setattr("pushpull.worker.worker.check_expectations", told)
        with pytest.raises(SystemExit):
            connect(servers.address)
        assert [leave.failure for leave in servers.leaves] == [""]

    @pytest.mark.parametrize(
        ("optimizer_class", "numbers", "names"),
        [
            (torch.optim.SGD, {"momentum": 0.8}, "momentum=0.8 of parameter group 0 would count twice"),
            (torch.optim.RMSprop, {"momentum": 0.8}, "would count twice"),
            (torch.optim.AdamW, {}, "AdamW would apply its own .* use torch.optim.SGD without momentum"),
            (torch.optim.Adam, {}, "Adam would apply its own"),
        ],
    )
    def test_refuses_momentum_on_both_sides(
        self,
        servers: FakeServers,
        optimizer_class: type[torch.optim.Optimizer],
        numbers: dict[str, float],
        names: str,
    ) -> None:
        servers.job.push_codec = "dgc:0.9+topk:0.01+fp16"
        with connect(servers.address) as worker:
            with pytest.raises(SettingError, match=names):
                worker.optimizer(small_model(), optimizer_class, lr=0.5, **numbers)
            worker.optimizer(small_model(), torch.optim.SGD, lr=0.5)

    def test_refuses_an_override_that_matches_nothing(self, servers: FakeServers) -> None:
        servers.job.push_overrides.add(pattern="first.bias", codec="fp32")
        servers.job.push_overrides.add(pattern="fist.weight", codec="int8")
        with (
            connect(servers.address) as worker,
            pytest.raises(SettingError, match=r"push_overrides\.fist\.weight.*nearest is 'first\.weight'"),
        ):
            worker.optimizer(small_model(), torch.optim.SGD, lr=0.5)

    def test_reports_what_was_logged(self, servers: FakeServers) -> None:
        with connect(servers.address) as worker:
            worker.log(loss=torch.tensor(2.5, requires_grad=True))
            worker.log(loss=1.5, accuracy=0.5)
        (leave,) = servers.leaves
        assert leave.failure == ""
        assert dict(leave.report.first_metrics) == {"loss": 2.5, "accuracy": 0.5}
        assert dict(leave.report.metrics) == {"loss": 1.5, "accuracy": 0.5}

    def test_says_why_it_leaves(self, servers: FakeServers) -> None:
        with pytest.raises(ZeroDivisionError), connect(servers.address):
            raise ZeroDivisionError("the script's own")
        assert servers.leaves[0].failure == "ZeroDivisionError: the script's own"

    def test_counts_shared_samples_and_reports_lots_to_the_registrar(
        self, servers: FakeServers, worker: Worker
    ) -> None:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        for _ in worker.share(torch.utils.data.TensorDataset(torch.randn(64, 40)), batch_size=24):
            backward(model)
            optimizer.step()
        assert [list(commit.lots) for commit in servers.shards[0].commits] == [[1], [2], [3]]
        assert [commit.num_samples for commit in servers.shards[1].commits] == [24, 24, 16]
        assert [list(commit.lots) for commit in servers.shards[1].commits] == [[], [], []]

    def test_takes_the_weight_that_the_caller_names(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        for num_samples in (None, 3.0, 0.0):
            backward(model)
            optimizer.step(num_samples=num_samples)
        commits = servers.shards[0].commits
        assert [commit.num_samples for commit in commits] == [1.0, 3.0, 0.0]
        assert commits[2].verdict == Verdict.VERDICT_SKIP

    def test_pauses_and_counts_again_with_its_next_step(self, servers: FakeServers, worker: Worker) -> None:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
        for _ in range(2):
            backward(model)
            optimizer.step()
            with worker.pause():
                assert len(servers.pauses) == len(servers.activations)
        assert len(servers.activations) == 2

    def test_serves_metrics(self, servers: FakeServers) -> None:
        with connect(servers.address, metrics_listen="127.0.0.1:0") as worker:
            model = small_model()
            optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.25, clip_norm=100.0)
            backward(model)
            optimizer.step()
            worker.log(loss=0.5)
            text = urlopen(f"http://{worker.metrics_address}/metrics").read().decode()
        whose = f'job_id="{worker.job.job_id}"'
        me = f'rank="0",worker="{worker.id}"'
        for line in (
            f'pushpull_worker_steps_total{{{whose},outcome="applied",{me}}} 1.0',
            f'pushpull_worker_steps_total{{{whose},outcome="late",{me}}} 0.0',
            f"pushpull_worker_loss{{{whose},{me}}} 0.5",
            f"pushpull_worker_learning_rate{{{whose},{me}}} 0.25",
            f'pushpull_worker_step_seconds_count{{{whose},part="encode",{me}}} 1.0',
            f"pushpull_worker_gradient_norm{{{whose},{me}}} ",
            f"pushpull_worker_joins_total{{{whose},{me}}} 1.0",
            f"pushpull_worker_heartbeats_failed_total{{{whose},{me}}} ",
            f'pushpull_worker_stream_failures_total{{{whose},rank="0",shard="0",worker="{worker.id}"}} 0.0',
            f"process_cpu_seconds_total{{{whose},{me}}}",
        ):
            assert line in text, f"{line} is missing from\n{text}"
        assert "gpu" not in text.replace("GPU", "")
