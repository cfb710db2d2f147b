"""LARS and LAMB on the servers: norms of whole parameters, whatever blocks they are cut into and wherever the blocks lie."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from simulation import Faults, Simulation

from pushpull.protos.common_pb2 import Block, OptimizerSpecification, Parameter, ParameterGroup, Plan
from pushpull.protos.errors import SettingError
from pushpull.protos.registrar_pb2 import BlockNorms, SettledStep
from pushpull.protos.shard_pb2 import Outcome
from pushpull.ps_server.effects import Job
from pushpull.ps_server.norms import NewestNorms, RoundNorms, Squares
from pushpull.ps_server.optimizers import GroupValues, LayerwiseOptimizer, check_optimizer, optimizer_for
from pushpull.worker import LAMB, LARS
from pushpull.worker.optimizer_values import optimizer_specification

CASES: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (LAMB, {"lr": 0.01}),
    (LAMB, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.0}),
    (LAMB, {"lr": 0.01, "adapt": False}),
    (LARS, {"lr": 1.0}),
    (LARS, {"lr": 1.0, "momentum": 0.0, "trust_coefficient": 0.02}),
    (LARS, {"lr": 1.0, "nesterov": True, "weight_decay": 0.1}),
    (LARS, {"lr": 0.01, "dampening": 0.5, "adapt": False}),
]


def specification_of(kind: type[torch.optim.Optimizer], kwargs: dict[str, Any]) -> OptimizerSpecification:
    template = kind([torch.zeros(1)], **kwargs)
    return optimizer_specification(kind, template.param_groups, template.defaults)


@pytest.mark.parametrize(("kind", "kwargs"), CASES, ids=[f"{kind.__name__} {kwargs}" for kind, kwargs in CASES])
def test_blocks_of_a_parameter_move_as_the_whole_parameter_does(
    kind: type[torch.optim.Optimizer], kwargs: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    parameter = torch.randn(140, requires_grad=True)
    reference = kind([parameter], **kwargs)
    specification = specification_of(kind, kwargs)
    group = GroupValues(dict(specification.groups[0].numbers), dict(specification.groups[0].flags))
    ranges = [(0, 7), (7, 107), (107, 140)]
    ours = optimizer_for(specification, ranges, 140)
    assert isinstance(ours, LayerwiseOptimizer)
    flat = parameter.detach().clone()
    views = [flat[start:stop] for start, stop in ranges]
    for _ in range(5):
        gradient = torch.randn(140)
        parameter.grad = gradient.clone()
        held = [gradient[start:stop].clone() for start, stop in ranges]
        ours.prepare([0, 1, 2], views, held, group)
        weight, update = (sum(float(part.double().square().sum()) for part in parts) for parts in (views, held))
        ours.finish([0, 1, 2], views, held, [ours.trust_ratio(weight, update, group)] * 3, group)
        reference.step()
    torch.testing.assert_close(parameter.detach(), flat, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [LAMB, LARS])
@pytest.mark.parametrize(("weight", "update"), [(0.0, 1.0), (1.0, 0.0), (1.0, float("nan")), (float("inf"), 1.0)])
def test_a_norm_that_says_nothing_leaves_the_update_as_it_is(
    kind: type[torch.optim.Optimizer], weight: float, update: float
) -> None:
    specification = specification_of(kind, {"lr": 1.0})
    group = GroupValues(dict(specification.groups[0].numbers), dict(specification.groups[0].flags))
    optimizer = optimizer_for(specification, [(0, 1)], 1)
    assert isinstance(optimizer, LayerwiseOptimizer)
    assert optimizer.trust_ratio(weight, update, group) == 1.0


def spread_plan(num_shards: int) -> Plan:
    """Parameter p0 in six blocks over all shards, p1 on shard 0 alone, p2 frozen."""
    plan = Plan(num_shards=num_shards, block_elements=6, fingerprint=f"spread over {num_shards}")
    for index, size in enumerate((33, 5, 4)):
        frozen = index == 2
        plan.parameters.append(
            Parameter(name=f"p{index}", shape=[size], trainable=not frozen, group=-1 if frozen else 0)
        )
    for number in range(6):
        size = 6 if number < 5 else 3
        plan.blocks.append(Block(parameter=0, offsets=[6 * number], sizes=[size], shard=number % num_shards))
    for index, size in ((1, 5), (2, 4)):
        plan.blocks.append(Block(parameter=index, offsets=[0], sizes=[size], shard=0))
    return plan


class LambSimulation(Simulation):
    """Servers whose parameters start at their block's number + 1, trained with LAMB."""

    def __init__(self, gradients: list[list[float]], num_shards: int = 3, **arguments: Any) -> None:
        specification = specification_of(LAMB, {"lr": 0.01})
        plan = spread_plan(num_shards)
        super().__init__(gradients, num_shards=num_shards, plan=plan, optimizer=specification, **arguments)
        for shard in self.shards:
            for block in shard.shard.store.blocks:
                shard.shard.store.array(block)[:] = block.block_id + 1

    @property
    def by_block(self) -> dict[int, list[float]]:
        return {
            block.block_id: shard.shard.store.array(block).tolist()
            for shard in self.shards
            for block in shard.shard.store.blocks
        }


GRADIENTS = [[1.0, -2.0, 3.0, 0.5], [0.25, 1.0, -1.0, 2.0]]


def reference_blocks(num_samples: list[float]) -> dict[int, list[float]]:
    plan = spread_plan(1)
    parts = [np.full(block.sizes[0], number + 1, dtype=np.float32) for number, block in enumerate(plan.blocks)]
    parameters = [
        torch.tensor(np.concatenate(parts[:6]), requires_grad=True),
        torch.tensor(parts[6], requires_grad=True),
    ]
    optimizer = LAMB(parameters, lr=0.01)
    for values in zip(*GRADIENTS, strict=True):
        mean = np.average(values, weights=num_samples)
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, float(mean))
        optimizer.step()
    whole = [*parameters[0].detach().split([6, 6, 6, 6, 6, 3]), parameters[1].detach(), torch.tensor(parts[7])]
    return {number: values.tolist() for number, values in enumerate(whole)}


@pytest.mark.parametrize("num_shards", [1, 2, 3])
def test_rounds_equal_the_optimizer_in_one_process(num_shards: int) -> None:
    simulation = LambSimulation(GRADIENTS, num_shards, seed=0, num_samples=[3.0, 1.0]).run()
    expected = reference_blocks([3.0, 1.0])
    for number, values in simulation.by_block.items():
        np.testing.assert_allclose(values, expected[number], rtol=2e-6)


def test_neither_order_nor_faults_nor_the_number_of_shards_change_a_bit() -> None:
    expected = LambSimulation(GRADIENTS, 1, seed=0).run().by_block
    for seed in range(8):
        faults = Faults(repeat=0.2, cut=0.1)
        assert LambSimulation(GRADIENTS, 2 + seed % 2, seed=seed, faults=faults).run().by_block == expected


def test_a_link_that_says_everything_again_changes_nothing() -> None:
    simulation = LambSimulation(GRADIENTS, seed=3)
    turns = 0
    while any(worker.step < 4 or worker.waiting for worker in simulation.workers):
        simulation.turn()
        turns += 1
        if turns % 20 == 0:
            shard = simulation.shards[turns % 3]
            shard.reports.extend(shard.shard.state.reports_again())
        assert turns < 10_000
    assert simulation.by_block == LambSimulation(GRADIENTS, seed=0).run().by_block


def test_a_worker_that_dies_between_the_passes_holds_nobody_up() -> None:
    simulation = LambSimulation([[1.0], [2.0, 3.0]], seed=1)
    for worker in simulation.workers:
        simulation.begin_step(worker)
    while not any(shard.passes for shard in simulation.shards):
        simulation.turn()
    simulation.kill(simulation.workers[0])
    simulation.let_leases_run_out()
    simulation.run()
    (survivor,) = simulation.workers
    assert [outcome.kind for outcomes in survivor.outcomes for outcome in outcomes] == [Outcome.KIND_APPLIED] * 6
    assert {shard.shard.state.round for shard in simulation.shards} == {2}


@pytest.mark.parametrize("mode", ["bounded", "async"])
def test_without_rounds_every_step_is_applied_and_no_shard_waits_for_ever(mode: str) -> None:
    for seed in range(6):
        faults = Faults(repeat=0.2, cut=0.1)
        simulation = LambSimulation(GRADIENTS, seed=seed, faults=faults, mode=mode, damping="none").run()
        told = [outcome.kind for worker in simulation.workers for each in worker.outcomes for outcome in each]
        assert set(told) == {Outcome.KIND_APPLIED}
        spread = [values[0] for number, values in sorted(simulation.by_block.items()) if number < 6]
        assert all(abs(value - number - 1) > 0 for number, value in enumerate(spread))


def test_the_ratios_of_a_job_are_kept_with_it() -> None:
    simulation = LambSimulation(GRADIENTS, seed=0)
    for worker in simulation.workers:
        simulation.begin_step(worker)
    while not all(shard.jobs for shard in simulation.shards):
        simulation.turn()
    jobs = [shard.jobs[0] for shard in simulation.shards]
    while any(shard.jobs for shard in simulation.shards):
        simulation.turn()
    assert {job.trust_ratios[0] for job in jobs} == {jobs[0].trust_ratios[0]}
    assert [sorted(job.trust_ratios) for job in jobs] == [[0, 1], [0], [0]]


def job_of(worker_id: int, incarnation: int, round: int = 0) -> Job:
    return Job(1, [], [], None, 1, {(worker_id, incarnation): Outcome.KIND_APPLIED}, round)


def published(shard: int, weight: float, *settled: tuple[int, int, int]) -> BlockNorms:
    block = shard
    norms = BlockNorms(shard=shard, blocks=[block], weight_squares=[weight], update_squares=[weight])
    for worker_id, incarnation, step in settled:
        norms.settled.append(SettledStep(worker_id=worker_id, incarnation=incarnation, step=step))
    return norms


class TestNormsWithoutRounds:
    """At most the newest step of each worker is missing from the norms of other shards."""

    def setup_method(self) -> None:
        self.norms = NewestNorms(spread_plan(2), shard=0)

    def apply(self, step: int, worker: tuple[int, int] = (7, 100)) -> None:
        self.norms.measured(job_of(*worker), {0: Squares(1.0, 1.0)})
        assert self.norms.ready(job_of(*worker))
        self.norms.settled(*worker, step)

    def test_the_first_step_waits_for_nobody_and_uses_the_blocks_of_this_shard(self) -> None:
        self.norms.measured(job_of(7, 100), {0: Squares(4.0, 9.0), 2: Squares(1.0, 1.0)})
        assert self.norms.ready(job_of(7, 100))
        assert self.norms.whole(job_of(7, 100)) == {0: Squares(5.0, 10.0)}

    def test_a_step_waits_until_the_other_shard_has_published_the_one_before(self) -> None:
        self.apply(1)
        assert not self.norms.ready(job_of(7, 100))
        self.norms.take(published(1, 16.0, (7, 100, 1)))
        assert self.norms.ready(job_of(7, 100))
        self.norms.measured(job_of(7, 100), {0: Squares(1.0, 2.0)})
        assert self.norms.whole(job_of(7, 100)) == {0: Squares(17.0, 18.0)}

    def test_the_newest_that_another_shard_published_counts(self) -> None:
        self.apply(1)
        self.norms.take(published(1, 16.0, (7, 100, 1)))
        self.norms.take(published(1, 25.0, (7, 100, 2)))
        self.norms.measured(job_of(7, 100), {0: Squares(1.0, 1.0)})
        assert self.norms.whole(job_of(7, 100)) == {0: Squares(26.0, 26.0)}

    def test_a_worker_that_came_back_does_not_wait_for_its_earlier_life(self) -> None:
        self.apply(1)
        assert self.norms.ready(job_of(7, 101))

    def test_a_shard_publishes_with_every_step_that_it_settles(self) -> None:
        self.norms.measured(job_of(7, 100), {0: Squares(4.0, 9.0), 6: Squares(1.0, 1.0)})
        (report,) = self.norms.settled(7, 100, 1)
        (report,) = self.norms.settled(8, 101, 3)
        assert list(report.norms.blocks) == [0], "block 6 is of a parameter that lies here alone"
        assert [(each.worker_id, each.step) for each in report.norms.settled] == [(7, 1), (8, 3)]
        assert self.norms.reports_again() == [report]

    def test_workers_that_are_gone_are_not_told_of_and_nobody_waits_for_what_they_did(self) -> None:
        for worker in range(100):
            self.apply(1, (worker, 200 + worker))
            self.norms.take(published(1, 16.0, (worker, 200 + worker, 1)))
            self.norms.keep({(worker, 200 + worker)})
        (report,) = self.norms.settled(99, 299, 2)
        assert [each.worker_id for each in report.norms.settled] == [99]
        assert [len(settled) for settled in self.norms._settled.values()] == [1, 1]
        self.norms.keep(set())
        assert self.norms.ready(job_of(99, 299)), "its last step is under way when it ends"


class TestNormsInRounds:
    def test_a_shard_waits_for_all_others_of_the_same_round(self) -> None:
        norms = RoundNorms(spread_plan(3), shard=0)
        norms.measured(job_of(7, 100, 4), {0: Squares(1.0, 1.0)})
        for shard, round in ((1, 4), (2, 3), (1, 4)):
            message = published(shard, 2.0**shard)
            message.round = round
            norms.take(message)
            assert not norms.ready(job_of(7, 100, 4))
        message = published(2, 4.0)
        message.round = 4
        norms.take(message)
        assert norms.ready(job_of(7, 100, 4))
        assert norms.whole(job_of(7, 100, 4)) == {0: Squares(7.0, 7.0)}

    def test_what_lies_on_one_shard_is_told_to_nobody(self) -> None:
        norms = RoundNorms(spread_plan(1), shard=0)
        assert norms.measured(job_of(7, 100, 1), {0: Squares(1.0, 1.0), 1: Squares(2.0, 2.0)}) == []
        assert norms.ready(job_of(7, 100, 1))

    def test_blocks_are_added_in_the_order_of_the_plan(self) -> None:
        rng = random.Random(0)
        values = {block: Squares(rng.random() * 10.0 ** rng.randrange(-9, 9), 1.0) for block in range(6)}
        sums = set()
        for shard in range(3):
            norms = RoundNorms(spread_plan(3), shard)
            norms.measured(job_of(7, 100, 1), {block: values[block] for block in (shard, shard + 3)})
            for other in sorted({0, 1, 2} - {shard}, reverse=True):
                message = BlockNorms(shard=other, round=1, blocks=[other + 3, other])
                message.weight_squares.extend([values[other + 3].weight, values[other].weight])
                message.update_squares.extend([1.0, 1.0])
                norms.take(message)
            sums.add(norms.whole(job_of(7, 100, 1))[0].weight)
        assert len(sums) == 1


@pytest.mark.parametrize(("name", "missing"), [("LAMB", "betas"), ("LARS", "trust_coefficient")])
def test_a_group_without_its_numbers_is_refused(name: str, missing: str) -> None:
    group = ParameterGroup(numbers={"lr": 0.1, "weight_decay": 0.0})
    with pytest.raises(SettingError, match=missing):
        check_optimizer(OptimizerSpecification(name=name, groups=[group]))
