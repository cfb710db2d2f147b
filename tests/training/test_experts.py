"""Mixtures of experts: what was not used is not pushed, what is on demand is pulled for its use, and nothing else changes."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clusters import local_cluster
from expert_bodies import MIXTURE, NUM_WINDOWS, SHAPE, Training, train_plain
from moe_gpt import whole_model
from rank_groups import rank_groups

from pushpull.compression.spec import parse_codec
from pushpull.protos.errors import ExpiredError, SettingError
from pushpull.worker import Worker

NUM_STEPS = 10
SETTINGS = {"mode": "sync", "expected_workers": 1, "block_elements": 1024}
"""One block for each parameter."""
EXPERTS = {name for name, _ in whole_model(SHAPE, MIXTURE).named_parameters() if ".experts." in name}
SIZES = {name: parameter.numel() for name, parameter in whole_model(SHAPE, MIXTURE).named_parameters()}


def training(on_demand: bool, num_steps: int = NUM_STEPS, *windows: int) -> Callable[[Worker], tuple[Any, ...]]:
    """A body: losses, final values, the experts used in each step, and the bytes received by then."""

    def body(worker: Worker) -> tuple[Any, ...]:
        run = Training(worker, on_demand)
        run.train(num_steps, *windows)
        received = run.bytes_received
        return run.losses, run.values(), run.used, received

    return body


class TestUnusedExperts:
    def test_are_not_pushed(self) -> None:
        def body(worker: Worker) -> tuple[list[set[str]], dict[str, int]]:
            run = Training(worker, on_demand=False)
            run.train(NUM_STEPS)
            replica = run.optimizer._replica
            names = [replica.plan.entries[block.entry].name for block in replica.plan.blocks]
            return run.used, dict(zip(names, replica._held.versions_of(range(len(names))), strict=True))

        with local_cluster(**SETTINGS) as cluster:
            ((used, versions),) = cluster.train(body)
            num_pushed = sum(shard.elements_pushed for shard in cluster.status().shards)
        times_used = Counter(name for step in used for name in step)
        assert min(times_used[name] for name in EXPERTS) < NUM_STEPS  # else there is nothing to see here
        assert versions == {name: times_used[name] if name in EXPERTS else NUM_STEPS for name in SIZES}
        assert num_pushed == sum(SIZES[name] * versions[name] for name in SIZES)


class TestOnDemand:
    @pytest.mark.parametrize("codecs", [{}, {"push_codec": "int8", "pull_codec": "int8"}], ids=["fp32", "int8"])
    def test_is_the_same_training_bit_for_bit(self, codecs: dict[str, str]) -> None:
        results = []
        for on_demand in (False, True):
            with local_cluster(**SETTINGS, **codecs) as cluster:
                results += cluster.train(training(on_demand))
        (losses, values, _, _), (losses_on_demand, values_on_demand, _, _) = results
        assert losses == losses_on_demand
        assert torch.equal(values, values_on_demand)

    def test_pulls_what_is_used_and_no_more(self) -> None:
        with local_cluster(**SETTINGS) as cluster:
            ((_, _, used, received),) = cluster.train(training(True))
        with local_cluster(**SETTINGS) as cluster:
            ((_, _, used_of_all, received_of_all),) = cluster.train(training(False))
        frame_bytes = {name: parse_codec("fp32").frame_bound(size) for name, size in SIZES.items()}
        always = sum(frame_bytes[name] for name in SIZES if name not in EXPERTS)
        fetched = sum(frame_bytes[name] for step in used for name in step)
        assert received == (1 + NUM_STEPS) * always + fetched
        # Also without being asked for, values of experts that nobody used in a step do not come behind it.
        changed = sum(frame_bytes[name] for step in used_of_all for name in step)
        assert received_of_all == sum(frame_bytes.values()) + NUM_STEPS * always + changed
        assert received < received_of_all

    def test_workers_may_differ_in_it(self) -> None:
        results = []
        for on_demand in (False, True):
            bodies = [training(on_demand and i == 1, NUM_STEPS, 2 * i, 2 * i + 2, 4) for i in range(2)]
            with local_cluster(mode="sync", expected_workers=2) as cluster:
                results.append(cluster.train(*bodies))
        for everything, mixed in zip(*results, strict=True):
            assert everything[0] == mixed[0]
            assert torch.equal(everything[1], mixed[1])

    @pytest.mark.parametrize("mode", [{"mode": "bounded", "staleness_bound": 1}, {"mode": "async"}], ids=str)
    def test_works_without_rounds(self, mode: dict[str, Any]) -> None:
        with local_cluster(expected_workers=2, **mode) as cluster:
            results = cluster.train(*[training(True, NUM_STEPS, 2 * i, 2 * i + 2, 4) for i in range(2)])
            assert [shard.steps_applied for shard in cluster.status().shards] == [2 * NUM_STEPS] * 2
        for losses, *_ in results:
            assert sum(losses[-3:]) < sum(losses[:3])

    def test_a_pattern_without_parameters_is_refused(self) -> None:
        def body(worker: Worker) -> None:
            worker.optimizer(torch.nn.Linear(2, 2), torch.optim.SGD, lr=0.1, on_demand=["weight", "*.expert.*"])

        with local_cluster() as cluster, pytest.raises(SettingError, match=r"'\*\.expert\.\*' matches no parameter"):
            cluster.train(body)

    def test_what_is_not_of_the_model_cannot_be_fetched(self) -> None:
        def body(worker: Worker) -> None:
            optimizer = worker.optimizer(torch.nn.Linear(2, 2), torch.optim.SGD, lr=0.1, on_demand=["weight"])
            optimizer.fetch(torch.nn.Linear(3, 3))

        with local_cluster() as cluster, pytest.raises(SettingError, match=r"shape \(3, 3\)"):
            cluster.train(body)


class TestFetching:
    """When it happens, beside other things."""

    @pytest.mark.parametrize("moment", ["between two micro-batches", "behind the backward pass"])
    def test_in_the_middle_of_a_step_nothing_is_lost_or_counted_twice(self, moment: str) -> None:
        def body(on_demand: bool) -> Callable[[Worker], torch.Tensor]:
            def run(worker: Worker) -> torch.Tensor:
                micro = moment == "between two micro-batches"
                training = Training(worker, on_demand, accumulate=2 if micro else 1)
                for number in range(4):
                    training.used.append(set())
                    training.backward(number, 0, NUM_WINDOWS, 2 * NUM_WINDOWS)
                    if micro:  # its forward fetches
                        training.backward(number, NUM_WINDOWS, 2 * NUM_WINDOWS, 2 * NUM_WINDOWS)
                        assert bool(training.entries_sent_early()) == (number > 0)
                    else:  # some gradients are on their way
                        training.optimizer.fetch(training.model)
                        assert not on_demand or not training.entries_sent_early()  # on their way no more
                    training.optimizer.step()
                    training.optimizer.zero_grad()
                assert training.optimizer._replica.num_restaged == 0
                return training.values()

            return run

        values = []
        for on_demand in (False, True):
            with local_cluster(**SETTINGS, push_codec="int4") as cluster:
                values += cluster.train(body(on_demand))
        assert torch.equal(*values)

    @pytest.mark.parametrize("spoil", ["never", "in the step before", "in a life before"])
    def test_a_gradient_of_what_was_not_fetched_is_refused(self, spoil: str) -> None:
        def body(worker: Worker) -> set[str]:
            run = Training(worker, on_demand=True)
            if spoil != "never":
                run.optimizer.fetch(run.model)
            if spoil == "in the step before":
                run.train(1)
            elif spoil == "in a life before":
                run.optimizer.rejoin()
            run.model.fetch_with(lambda *experts: None)
            run.backward(0)
            early = run.entries_sent_early()
            with pytest.raises(
                SettingError, match=r"layers\.0\.mlp\.experts\.\d.* was not fetched.*optimizer\.fetch\("
            ):
                run.optimizer.step()
            return early

        with local_cluster(**SETTINGS) as cluster:
            (early,) = cluster.train(body)
            applied = {shard.steps_applied for shard in cluster.status().shards}
        assert applied == {int(spoil == "in the step before")}
        # Once it counts, gradients leave during the backward pass: these do not.
        assert early == ((SIZES.keys() - EXPERTS) if spoil == "in the step before" else set())

    def test_training_goes_on_behind_a_refusal(self) -> None:
        def body(worker: Worker) -> list[float]:
            run = Training(worker, on_demand=True)
            run.train(1)
            run.model.fetch_with(lambda *experts: None)
            with pytest.raises(SettingError):
                run.train(1)
            run.optimizer.zero_grad()
            run.model.fetch_with(run.fetch)
            run.losses.clear()
            run.used.clear()
            run.train(2)
            return run.losses

        with local_cluster(**SETTINGS) as cluster:
            (losses,) = cluster.train(body)
        with local_cluster(**SETTINGS) as cluster:

            def expected(worker: Worker) -> list[float]:
                run = Training(worker, on_demand=False)
                run.train(1)
                run.losses.clear()
                run.train(2)
                return run.losses

            assert losses == cluster.train(expected)[0]

    def test_a_lease_that_runs_out_costs_the_step_and_no_more(self) -> None:
        def body(worker: Worker) -> tuple[int, int]:
            run = Training(worker, on_demand=True)
            run.train(2)
            worker._membership._take_end(ExpiredError("the lease ran out"))
            run.train(3)
            report = worker._recorder.report()
            return report.steps_dropped, report.steps_applied

        with local_cluster(**SETTINGS) as cluster:
            assert cluster.train(body) == [(1, 4)]

    def test_after_a_new_life_everything_is_pulled_again(self) -> None:
        def body(worker: Worker) -> list[int]:
            run = Training(worker, on_demand=True)
            received = []
            for _ in range(2):
                before = run.bytes_received
                run.values()
                received.append(run.bytes_received - before)
                run.values()
                received.append(run.bytes_received - before)
                run.optimizer.rejoin()
            return received

        with local_cluster(**SETTINGS) as cluster:
            (received,) = cluster.train(body)
        experts = sum(parse_codec("fp32").frame_bound(SIZES[name]) for name in EXPERTS)
        assert received == [experts] * 4  # the second time in a life there is nothing newer


class TestExpertParallelRanks:
    """A worker whose ranks divide the experts between them."""

    def test_equal_plain_torch_and_notice_together_what_was_not_fetched(self, tmp_path: Path) -> None:
        with (
            local_cluster(**SETTINGS, layouts=("dp2",)) as cluster,
            rank_groups(tmp_path) as start,
        ):
            environment = {"PUSHPULL_SERVERS": ",".join(cluster.addresses)}
            ranks = start("dp2", "expert_bodies:train_ranks", environment, num_steps=NUM_STEPS).results()
            num_pushed = sum(shard.elements_pushed for shard in cluster.status().shards)
        losses, _ = train_plain(NUM_STEPS)
        used = [first | second for first, second in zip(*(rank["used"] for rank in ranks), strict=True)]
        for rank in ranks:
            assert rank["losses"] == pytest.approx(losses, rel=0, abs=1e-4)
            assert set().union(*rank["used"]) < EXPERTS
        pushed = [SIZES[name] for step in used for name in step | (SIZES.keys() - EXPERTS)]
        assert num_pushed == sum(pushed)
        assert ranks[0]["said"].startswith("SettingError: layers.0.mlp.experts.")
        assert ranks[1]["said"].startswith("RankFailedError: another rank of this worker")
