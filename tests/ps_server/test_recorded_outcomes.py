"""What a shard says of a step to whoever asks: it changes nothing, and is told to those that may not act any more."""

import pytest
from simulation import Simulation

from pushpull.protos.errors import StepError
from pushpull.protos.registrar_pb2 import Fence, View
from pushpull.protos.shard_pb2 import Outcome, RecordedRequest, RecordedResponse
from pushpull.ps_server.ledgers import ENDED_LEDGERS_KEPT
from pushpull.ps_server.membership import FENCES_KEPT

State = RecordedResponse.State


def asked(cluster: Simulation, worker: int, incarnation: int, step: int, shard: int = 0) -> RecordedResponse:
    request = RecordedRequest(worker_id=worker, incarnation=incarnation, step=step)
    return cluster.shards[shard].shard.state.recorded(request)


def test_of_a_live_worker_the_recorded_and_the_open_step() -> None:
    cluster = Simulation([[1.0, 2.0], [3.0, 4.0]], seed=1).run()
    worker = cluster.workers[0]
    answer = asked(cluster, *worker.key, step=2)
    assert (answer.state, answer.outcome.kind) == (State.STATE_RECORDED, Outcome.KIND_APPLIED)
    assert asked(cluster, *worker.key, step=3).state == State.STATE_OPEN


@pytest.mark.parametrize("ahead", [1, 10**6])
def test_of_a_step_that_cannot_be_under_way_it_is_refused_so_that_nobody_waits_for_it(ahead: int) -> None:
    cluster = Simulation([[1.0, 2.0], [3.0, 4.0]], seed=1).run()
    live, unheard_of = cluster.workers[0].key, (5, 10**9)
    for key, due in ((live, 3), (unheard_of, 1)):
        assert asked(cluster, *key, step=due).state == State.STATE_OPEN
        with pytest.raises(StepError, match=f"step {due + ahead} of worker {key[0]}: its step {due} is due"):
            asked(cluster, *key, step=due + ahead)


def test_of_a_dead_worker_what_was_applied_and_what_never_will_be() -> None:
    cluster = Simulation([[1.0], [3.0]], seed=1).run()
    dead = cluster.workers[1]
    cluster.kill(dead)
    cluster.let_leases_run_out()
    cluster.settle()
    assert asked(cluster, *dead.key, step=1).outcome.kind == Outcome.KIND_APPLIED
    assert asked(cluster, *dead.key, step=2).state == State.STATE_NEVER


def test_a_step_that_is_being_applied_is_open_until_it_is_recorded() -> None:
    cluster = Simulation([[1.0], [3.0]], seed=1, mode="async")
    dead = cluster.workers[1]
    cluster.begin_step(dead)
    for stream in dead.streams:
        while stream.up:
            cluster._up(dead, stream)
    cluster.kill(dead)
    cluster.let_leases_run_out()
    cluster.settle()
    assert asked(cluster, *dead.key, step=1).state == State.STATE_OPEN
    while cluster.shards[0].jobs:
        cluster._run_job(0)
    assert asked(cluster, *dead.key, step=1).outcome.kind == Outcome.KIND_APPLIED


def test_of_one_that_a_shard_has_not_heard_of_it_is_not_decided() -> None:
    cluster = Simulation([[1.0]], seed=1).run()
    assert asked(cluster, 5, 10**9, step=1).state == State.STATE_OPEN


def test_what_is_forgotten_is_said_to_be() -> None:
    cluster = Simulation([[1.0], [3.0]], seed=1).run()
    state, dead = cluster.shards[0].shard.state, cluster.workers[1]
    for number in range(max(ENDED_LEDGERS_KEPT, FENCES_KEPT) + 2):
        view = View(number=100 + number, newest_incarnation=10**6)
        view.fences.append(Fence(worker_id=7, incarnation=1000 + number))
        state.install_view(view)
        state._ledgers.obtain((7, 1000 + number))
    state.install_view(View(number=10**5, newest_incarnation=10**6))
    assert asked(cluster, *dead.key, step=1).state == State.STATE_FORGOTTEN


def test_asking_changes_nothing() -> None:
    cluster = Simulation([[1.0, 1.0], [3.0, 3.0]], seed=3)
    worker = cluster.workers[0]
    for _ in range(40):
        for shard in (0, 1):
            asked(cluster, *worker.key, step=1, shard=shard)
        cluster.turn()
    calm = Simulation([[1.0, 1.0], [3.0, 3.0]], seed=3).run()
    assert (cluster.run().values == calm.values).all()
