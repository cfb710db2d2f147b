"""The invariants of the core as functions: each raises AssertionError if the core breaks it.

`test_invariants.py` runs them on the core as it is, `test_mutants.py` on cores with one named fault each.
"""

import numpy as np
from simulated import Faults
from simulation import Simulation

from pushpull.compression.encoder_spec import parse_encoder
from pushpull.compression.frame import parse_frame
from pushpull.protos.errors import FencedError, PushpullError
from pushpull.protos.registrar_pb2 import JoinRequest, Role
from pushpull.protos.shard_pb2 import Outcome

SEEDS = range(12)


def _run(simulation: Simulation) -> Simulation:
    """A refusal in a run of well-behaved workers is a broken invariant."""
    try:
        return simulation.run()
    except PushpullError as error:
        raise AssertionError(f"a well-behaved worker was refused: {error}") from error


def _mixed(seed: int) -> list[int]:
    """Ranks of two workers: both plain in a third of the runs, else one or both of two ranks."""
    return [[1, 1], [2, 1], [2, 2]][seed % 3]


def applied_exactly_once() -> None:
    """Invariant 1: on each shard the parameters are minus the sum of the steps that were told applied."""
    for mode in ("async", "bounded"):
        for seed in SEEDS:
            gradients = [[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]]
            faults = Faults(repeat=0.2, cut=0.1)
            simulation = Simulation(gradients, seed=seed, faults=faults, mode=mode, damping="none", ranks=_mixed(seed))
            _run(simulation)
            for number, shard in enumerate(simulation.shards):
                total = 0.0
                for worker in simulation.workers:
                    told = {outcome.step: outcome.kind for outcome in worker.outcomes[number]}
                    assert set(told) == set(range(1, 5)), "a step has no outcome"
                    total += sum(
                        worker.gradients[step - 1] for step, kind in told.items() if kind == Outcome.KIND_APPLIED
                    )
                for block in shard.shard.store.blocks:
                    expected = -total if block.group >= 0 else 0.0
                    assert (shard.shard.store.array(block) == expected).all(), "applied not exactly once"


def fenced_changes_nothing() -> None:
    """Invariant 2: nothing of a replaced incarnation is applied, nor staged."""
    simulation = Simulation([[1.0, 1.0], [1.0, 1.0]], seed=1, mode="async", damping="none", ranks=[2, 1])
    old = simulation.workers[0]
    simulation.registrar.join(simulation.now, JoinRequest(worker_id=0, role=Role.ROLE_TRAINER))
    simulation._take_orders()
    simulation.settle()
    before = simulation.values.copy()
    simulation.begin_step(old)
    for stream in old.streams:
        simulation.greet(old, stream)  # the record of its steps may be read
        for message in stream.sent or ():
            try:
                simulation.deliver(old, stream, message)
            except FencedError:
                continue
            raise AssertionError("a fenced incarnation was listened to")
        assert not simulation.shards[stream.shard].jobs
    assert (simulation.values == before).all()


def staleness_bounded(bound: int = 2) -> None:
    """Invariant 6: no pull is answered while its worker is more than `bound` steps ahead of what another has sent."""
    waited = 0
    for seed in SEEDS:
        simulation = Simulation(
            [[1.0] * 12, [1.0] * 12], seed=seed, mode="bounded", staleness_bound=bound, ranks=_mixed(seed)
        )
        simulation.workers[1].speed = 0.02
        _run(simulation)
        waited += sum(shard.shard.state.counters.pulls_waited for shard in simulation.shards)
        for pull in simulation.history:
            for other, commits in pull.commits_sent.items():
                assert other == pull.worker or commits >= pull.clock - bound, "a pull was answered too early"
    assert waited >= 20, "the runs hold no pull that waited"


def reduction_order_fixed() -> None:
    """Invariant 4: the order in which steps arrive changes no bit of a synchronous run."""
    gradients = [[0.1, 0.7], [1e8, 3e7], [-1e8, -3e7], [0.3, 0.9]]
    results = [
        _run(Simulation(gradients, seed=seed, mode="sync", num_samples=[1, 3, 3, 2], ranks=[1, 2, 1, 2])).values
        for seed in SEEDS
    ]
    for result in results:
        assert (result == results[0]).all(), "arrival order changed the sum"


def faults_change_no_bit() -> None:
    """Invariant 4: repeated and lost messages and cut streams change no bit of a synchronous run."""
    gradients = [[0.1, 0.7, 0.5], [0.2, 0.4, 1e-3], [0.9, 1e7, 3.0]]
    clean = _run(Simulation(gradients, seed=0, mode="sync")).values
    repeated = 0
    for seed in SEEDS:
        faults = Faults(repeat=0.2, cut=0.15)
        faulty = _run(Simulation(gradients, seed=seed, mode="sync", faults=faults, ranks=[1, *_mixed(seed)]))
        assert (faulty.values == clean).all(), "faults changed the result"
        repeated += sum(shard.shard.state.counters.duplicates_dropped for shard in faulty.shards)
    assert repeated >= 20, "the runs hold no fault"


def rounds_close_complete() -> None:
    """A round holds every member's step whole, and is the same on every shard."""
    for seed in SEEDS:
        simulation = _run(
            Simulation([[1.0] * 4, [2.0] * 4, [4.0] * 4], seed=seed, mode="sync", ranks=[2, *_mixed(seed)])
        )
        for shard in simulation.shards:
            assert len(shard.rounds) == 4
            for record in shard.rounds:
                assert [c.worker_id for c in record.contributions] == [0, 1, 2], "a member is missing"
            for mine, theirs in zip(shard.rounds, simulation.shards[0].rounds, strict=True):
                assert mine == theirs, "contributor sets differ between shards"
            for block in shard.shard.store.blocks:
                expected = -4 * 7.0 / 3 if block.group >= 0 else 0.0
                assert np.allclose(shard.shard.store.array(block), expected, rtol=1e-6), "a step was lost"


def steps_hold_every_rank() -> None:
    """A step of several ranks is applied once all have committed, with the frames of all; every rank is told the same."""
    for mode in ("async", "bounded", "sync"):
        for seed in SEEDS:
            faults = Faults(repeat=0.1, cut=0.05)
            simulation = Simulation(
                [[1.0, 2.0, 4.0]], seed=seed, faults=faults, mode=mode, damping="none", ranks=[2 + seed % 2]
            )
            _run(simulation)
            (worker,) = simulation.workers
            for stream in worker.streams:
                told = {outcome.step: outcome.kind for outcome in stream.outcomes}
                assert told == dict.fromkeys((1, 2, 3), Outcome.KIND_APPLIED), "a rank was told something else"
            for shard in simulation.shards:
                for block in shard.shard.store.blocks:
                    expected = -7.0 if block.group >= 0 else 0.0
                    assert (shard.shard.store.array(block) == expected).all(), "a rank's frames are missing"


def a_silent_rank_ends_its_worker_alone() -> None:
    """Invariant 8: a worker lives while all its ranks do; nobody else's step is lost when one of them dies."""
    counted = set()
    for seed in SEEDS:
        simulation = Simulation([[1.0] * 6, [3.0] * 6], seed=seed, mode="sync", lease_seconds=1, ranks=[1, 2])
        for _ in range(10 + 5 * seed):
            simulation.turn()
        simulation.kill(simulation.workers[1], rank=seed % 2)
        simulation.let_leases_run_out()
        assert simulation.registrar.lease_expiries == 1, "the worker lives though a rank is silent"
        _run(simulation)
        first, second = simulation.shards
        assert first.rounds == second.rounds, "contributor sets differ between shards"
        contributors = [[c.worker_id for c in record.contributions] for record in first.rounds]
        together = contributors.count([0, 1])
        assert contributors == [[0, 1]] * together + [[0]] * (len(contributors) - together)
        counted.add(together)
        for shard in simulation.shards:
            for block in shard.shard.store.blocks:
                expected = -sum(2.0 if len(who) == 2 else 1.0 for who in contributors) if block.group >= 0 else 0.0
                assert np.allclose(shard.shard.store.array(block), expected, rtol=1e-6), "a step was lost"
    assert len(counted) >= 3, "the deaths came always at the same moment"


def residual_telescopes() -> None:
    """Invariant 7: over applied steps, sum of gradients = sum of decoded frames + committed residual."""
    generator = np.random.default_rng(0)
    for spec in ("int8", "fp16", "topk:0.1+int8"):
        encoder = parse_encoder(spec).build()
        out = np.empty(parse_encoder(spec).frame_bound(600), dtype=np.uint8)
        gradients, decoded = np.zeros(600), np.zeros(600)
        for step in range(30):
            gradient = generator.standard_normal(600).astype(np.float32)
            length = encoder.encode(0, gradient, out, step)
            if step % 3 == 2:
                encoder.discard([0])
                continue
            encoder.commit([0])
            value = np.empty(600, dtype=np.float32)
            parse_frame(out[:length].tobytes(), 600).decode_into(value)
            gradients += gradient
            decoded += value
        # one more frame of zeros brings out what the residual holds
        residual_frame = encoder.encode(0, np.zeros(600, dtype=np.float32), out, 99)
        value = np.empty(600, dtype=np.float32)
        parse_frame(out[:residual_frame].tobytes(), 600).decode_into(value)
        encoder.commit([0])
        missing = np.linalg.norm(gradients - decoded - value)
        assert abs(missing - encoder.residual_norm()) < 1e-3, "the residual is not what the frames left out"


ALL = (
    applied_exactly_once,
    fenced_changes_nothing,
    staleness_bounded,
    reduction_order_fixed,
    faults_change_no_bit,
    rounds_close_complete,
    steps_hold_every_rank,
    a_silent_rank_ends_its_worker_alone,
    residual_telescopes,
)
