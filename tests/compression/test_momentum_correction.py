"""Deep gradient compression: velocities are accumulated, what is sent stops, and only applied steps count."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushpull.compression.encoder_spec import parse_encoder
from pushpull.protos.errors import NonFiniteError

from .sender import KEY, SIZE, Sender, gradient

DGC = "dgc:0.9+topk:0.1+int8"
INSIDE = ["topk:0.1+int8", "topk:0.02+fp32", "threshold:2+fp16", "topk:0.1+int8+zstd"]


def committed(sender):
    return sender.encoder.state_dict().get(KEY)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("codec", INSIDE)
def test_without_momentum_it_is_error_feedback(codec):
    correction, feedback = Sender(f"dgc:0+{codec}"), Sender(f"ef+{codec}")
    for step in range(8):
        np.testing.assert_array_equal(correction.send(gradient(step)), feedback.send(gradient(step)))
        if step != 5:
            correction.commit()
            feedback.commit()
        np.testing.assert_array_equal(correction.residual(), feedback.residual())


@pytest.mark.parametrize("codec", INSIDE)
def test_a_step_is_the_published_one(codec):
    """u' = m u + x; v' = v + u' - D; u' is zero where an element was sent."""
    sender = Sender(f"dgc:0.9+{codec}")
    velocity, total = np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32)
    for step in range(6):
        values = gradient(step) + (np.float32(3) if step == 2 else np.float32(0))
        received = sender.send(values)
        sender.commit()
        velocity = np.float32(0.9) * velocity + values
        total = velocity + total
        if "threshold" in codec:
            sent = np.abs(total) >= 2
        else:
            sent = np.isin(np.arange(SIZE), np.argsort(-np.abs(total), kind="stable")[: np.count_nonzero(received)])
        assert sent.any()
        total = total - received
        velocity[sent] = 0
        np.testing.assert_array_equal(sender.remembered("velocity"), velocity)
        np.testing.assert_array_equal(sender.residual(), total)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("spec", ["dgc:0.9+topk:0.05+int8", "dgc:0.5:12+topk:0.05+int8", "momentum:0.9+int8"])
@given(outcomes=st.lists(st.sampled_from(["applied", "dropped", "again", "not finite"]), max_size=25))
def test_over_applied_steps_velocities_are_what_was_received_and_the_residual(spec, outcomes):
    sender = Sender(spec)
    velocities, received, rounding = np.zeros(SIZE), np.zeros(SIZE), 0.0
    momentum = np.float32(sender.spec.memory.momentum)
    for step, outcome in enumerate(outcomes):
        before = committed(sender)
        velocity = np.zeros(SIZE, np.float32) if before is None else before["velocity"].numpy()
        values = gradient(step)
        if outcome == "again":
            sender.send(gradient(step + 1000))
        if outcome == "not finite":
            with pytest.raises(NonFiniteError):
                sender.send(np.where(np.arange(SIZE) == 3, np.inf, values).astype(np.float32))
            sender.commit()
        else:
            frame = sender.send(values)
        if outcome in ("dropped", "not finite"):
            sender.encoder.discard([KEY])
            sender.commit()
            assert before is None or same(committed(sender), before)
            continue
        sender.commit()
        next_velocity = momentum * velocity + values
        velocities += next_velocity
        received += frame
        # A sum and a difference are rounded, of numbers no larger than these together.
        rounding += 2**-22 * float(sum(np.abs(x).max() for x in (next_velocity, frame, sender.residual())))
    if outcomes:
        received += sender.residual()
    assert np.abs(velocities - received).max() <= rounding


@pytest.mark.parametrize("spec", [DGC, "momentum:0.9+int8", "momentum:0.9+int8:stochastic"])
def test_encoding_again_starts_from_what_is_committed(spec):
    sender = Sender(spec)
    sender.send(gradient(0))
    sender.commit()
    first = sender.send(gradient(1))
    sender.send(gradient(9))
    np.testing.assert_array_equal(sender.send(gradient(1)), first)


def test_a_commit_counts_once():
    sender = Sender(DGC)
    sender.send(gradient(0))
    sender.commit()
    before = committed(sender)
    sender.encoder.commit([KEY, KEY])
    sender.encoder.discard([KEY])
    assert same(committed(sender), before)
    assert before["num_applied"] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("spec", [DGC, "momentum:0.9+int8", "momentum:0.9+fp32"])
def test_values_that_are_not_finite_leave_the_memory_as_it_was(spec, bad):
    sender = Sender(spec)
    sender.send(gradient(0))
    sender.commit()
    before = committed(sender)
    values = gradient(1)
    values[17] = bad
    with pytest.raises(NonFiniteError, match="value 17 of 500"):
        sender.send(values)
    sender.commit()
    assert same(committed(sender), before)


@pytest.mark.parametrize("spec", [DGC, "dgc:0.9:3+topk:0.05+int8", "momentum:0.9+int8", "momentum:0.9+fp32"])
def test_a_saved_memory_goes_on_as_if_nothing_had_happened(spec):
    sender, restored = Sender(spec), Sender(spec)
    for step in range(2):
        sender.send(gradient(step))
        sender.commit()
    restored.encoder.load_state_dict(sender.encoder.state_dict())
    for step in range(2, 5):
        np.testing.assert_array_equal(restored.send(gradient(step)), sender.send(gradient(step)))
        sender.commit()
        restored.commit()
    assert same(committed(sender), committed(restored))


def test_a_residual_that_error_feedback_saved_is_taken_over():
    feedback, correction, nothing = Sender("topk:0.1+int8"), Sender(DGC), Sender("fp32")
    feedback.send(gradient(0))
    feedback.commit()
    state = feedback.encoder.state_dict()
    correction.encoder.load_state_dict(state)
    nothing.encoder.load_state_dict(state)
    np.testing.assert_array_equal(correction.residual(), feedback.residual())
    assert not correction.remembered("velocity").any()
    assert nothing.encoder.state_dict() == {}


class TestWarmUp:
    def test_lowers_the_density_by_applied_frames_of_the_block(self):
        size, sender = 10_000, Sender("dgc:0.9:8+topk:0.001+fp32")
        counts = []
        for step in range(10):
            sender.send(gradient(step + 100, size))  # an attempt that does not count
            counts.append(np.count_nonzero(sender.send(gradient(step, size))))
            sender.commit()
        assert counts == [2500, 2500, 625, 625, 156, 156, 39, 39, 10, 10]

    def test_is_each_block_s_own(self):
        size, sender = 10_000, Sender("dgc:0.9:2+topk:0.1+fp32")
        for step in range(3):
            sender.send(gradient(step, size), key=1)
            sender.commit(1)
        assert np.count_nonzero(sender.send(gradient(3, size), key=1)) == 1000
        assert np.count_nonzero(sender.send(gradient(3, size), key=2)) == 2500

    @pytest.mark.parametrize("codec", ["topk:{}+int8", "randk:{}:unscaled+fp16", "topk:{}+int8+zstd"])
    @pytest.mark.parametrize(
        ("density", "densities"),
        [
            ("0.001", [0.25, 0.0625, 0.015625, 0.00390625, 0.001]),
            ("0.0625", [0.25, 0.0625]),
            ("0.3", [0.3]),
        ],
    )
    def test_goes_through_powers_of_a_quarter(self, codec, density, densities):
        encoder = parse_encoder(f"dgc:0.9:100+{codec.format(density)}")
        expected = [codec.format(share) for share in densities]
        assert [codec.spec for codec in encoder.memory.codecs(encoder.codec)] == expected

    def test_ends_where_no_block_would_be_sent_denser(self):
        encoder = parse_encoder("dgc:0.9:100+topk:1e-300+int8")
        assert len(encoder.memory.codecs(encoder.codec)) < 20


def test_on_a_quadratic_it_gets_as_far_as_momentum_without_compression():
    """Sum of a_i x_i^2 / 2 with noisy gradients, of which one element of a hundred is sent in each step."""
    size, rate, num_steps = 1000, 1e-3, 5000
    curvature = np.linspace(0.5, 2.0, size)

    def loss_after_training(spec, server_momentum):
        sender, x, velocity = Sender(spec), np.full(size, 3.0), np.zeros(size)
        generator = np.random.default_rng(0)
        for _ in range(num_steps):
            noise = 0.01 * generator.standard_normal(size)
            velocity = server_momentum * velocity + sender.send((curvature * x + noise).astype(np.float32))
            sender.commit()
            x -= rate * velocity
        return float(np.sum(curvature * x * x) / 2)

    uncompressed = loss_after_training("fp32", 0.9)
    corrected = loss_after_training("dgc:0.9+topk:0.01+fp32", 0.0)
    momentum_on_both_sides = loss_after_training("dgc:0.9+topk:0.01+fp32", 0.9)
    assert corrected < uncompressed
    assert momentum_on_both_sides > 1e6
