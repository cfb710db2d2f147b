"""The core keeps its invariants."""

from collections.abc import Callable

import invariants
import numpy as np
import pytest
from simulation import Simulation

from pushpull.protos.shard_pb2 import Outcome


@pytest.mark.parametrize("invariant", invariants.ALL, ids=lambda function: function.__name__)
def test_the_core_keeps(invariant: Callable[[], None]) -> None:
    invariant()


def test_with_a_quorum_late_steps_end_late_on_every_shard_and_nobody_hangs() -> None:
    num_late = 0
    for seed in range(20):
        simulation = Simulation([[1.0] * 12, [1.0] * 12, [1.0] * 99], seed=seed, mode="sync", quorum=2)
        first, second, slow = simulation.workers
        slow.speed = 0.05
        for _ in range(5000):
            if not (first.waiting or second.waiting) and first.step == second.step == 12:
                break
            simulation.turn()
        else:
            raise AssertionError("the fast workers hang")
        for worker in simulation.workers:
            mine, theirs = ([outcome.kind for outcome in outcomes] for outcomes in worker.outcomes)
            shared = min(len(mine), len(theirs))
            assert mine[:shared] == theirs[:shared], "shards disagree about what was late"
            num_late += mine.count(Outcome.KIND_LATE)
    assert num_late >= 20, "the runs hold no late step"


def test_a_death_at_any_moment_leaves_the_same_rounds_on_every_shard_and_the_others_finish() -> None:
    counted = set()
    for seed in range(40):
        simulation = Simulation([[1.0] * 6, [2.0] * 6, [4.0] * 6], seed=seed, mode="sync", lease_seconds=1)
        for _ in range(10 + 3 * seed):
            simulation.turn()
        simulation.kill(simulation.workers[2])
        for _ in range(seed % 7):
            simulation.turn()
        simulation.let_leases_run_out()
        simulation.run()
        first, second = simulation.shards
        assert first.rounds == second.rounds, "contributor sets differ between shards"
        assert len(first.rounds) >= 6
        contributors = [[c.worker_id for c in record.contributions] for record in first.rounds]
        survivors_only = contributors.index([0, 1]) if [0, 1] in contributors else len(contributors)
        assert contributors == [[0, 1, 2]] * survivors_only + [[0, 1]] * (len(contributors) - survivors_only)
        counted.add(survivors_only)
        for shard in simulation.shards:
            total = sum(7.0 / 3 if len(workers) == 3 else 1.5 for workers in contributors)
            for block in shard.shard.store.blocks:
                expected = -total if block.group >= 0 else 0.0
                np.testing.assert_allclose(shard.shard.store.array(block), expected, rtol=1e-5)
    assert len(counted) >= 4, "the deaths came always at the same moment"
