"""The core keeps its invariants."""

from collections.abc import Callable

import invariants
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
