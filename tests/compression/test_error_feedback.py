"""Encoders remember what frames left out, and only of steps that were applied."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushpull.compression.encoder import Memoryless
from pushpull.compression.encoder_spec import parse_encoder
from pushpull.compression.error_feedback import ErrorFeedback
from pushpull.compression.spec import example_specs, parse_codec
from pushpull.protos.errors import CodecError, NonFiniteError

from .sender import KEY, SIZE, Sender, gradient

ADMITTING = [spec for spec in example_specs() if parse_codec(spec).contract.admits_error_feedback]
OTHERS = [spec for spec in example_specs() if spec not in ADMITTING]


@pytest.mark.parametrize("spec", OTHERS)
def test_error_feedback_refuses_a_codec_that_does_not_contract(spec):
    with pytest.raises(CodecError, match="does not contract"):
        ErrorFeedback(parse_codec(spec))
    assert type(parse_encoder(spec).build()) is Memoryless


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("spec", ADMITTING)
@given(outcomes=st.lists(st.sampled_from(["applied", "dropped", "again", "not finite"]), max_size=25))
def test_over_applied_steps_gradients_are_what_was_received_and_the_residual(spec, outcomes):
    sender = Sender(f"ef+{spec}")
    sent, received, rounding = np.zeros(SIZE), np.zeros(SIZE), 0.0
    for step, outcome in enumerate(outcomes):
        values = gradient(step)
        if outcome == "again":
            sender.send(gradient(step + 1000))
        if outcome == "not finite":
            with pytest.raises(NonFiniteError):
                sender.send(np.where(np.arange(SIZE) == 3, np.nan, values).astype(np.float32))
            sender.encoder.commit([KEY])
            continue
        frame = sender.send(values)
        if outcome == "dropped":
            sender.encoder.discard([KEY])
            sender.encoder.commit([KEY])
        else:
            sender.encoder.commit([KEY])
            sent += values
            received += frame
            # A sum and a difference are rounded, of numbers no larger than these together.
            rounding += 2**-22 * float(np.abs(values).max() + np.abs(frame).max() + np.abs(sender.residual()).max())
    if outcomes:
        received += sender.residual()
    assert np.abs(sent - received).max() <= rounding


def test_without_commit_encoding_again_starts_from_the_same_residual():
    sender = Sender("topk:0.1+int8")
    sender.send(gradient(0))
    sender.encoder.commit([KEY])
    first = sender.send(gradient(1))
    np.testing.assert_array_equal(sender.send(gradient(1)), first)


def test_a_commit_counts_once():
    sender = Sender("topk:0.1+int8")
    sender.send(gradient(0))
    sender.encoder.commit([KEY])
    before = sender.residual()
    sender.encoder.commit([KEY, KEY])
    sender.encoder.discard([KEY])
    np.testing.assert_array_equal(sender.residual(), before)


def test_blocks_have_residuals_of_their_own():
    sender = Sender("topk:0.1+int8")
    sender.send(gradient(0), key=1)
    sender.send(gradient(1, 64), key=2)
    sender.encoder.commit([2])
    assert not sender.residual(1).any()
    assert sender.residual(2).any()
    assert sender.residual(2).size == 64


def test_commit_and_discard_of_unknown_blocks_do_nothing():
    sender = Sender("int8")
    sender.encoder.commit([1, 2])
    sender.encoder.discard([3])
    assert sender.encoder.state_dict() == {}
    assert sender.encoder.residual_norm() == 0


def test_the_norm_is_that_of_all_committed_residuals():
    sender = Sender("topk:0.1+fp16")
    for key in range(3):
        sender.send(gradient(key), key=key)
    assert sender.encoder.residual_norm() == 0
    sender.encoder.commit(range(3))
    everything = torch.from_numpy(np.concatenate([sender.residual(key) for key in range(3)])).to(torch.float64)
    assert sender.encoder.residual_norm() == pytest.approx(float(everything.norm()), rel=1e-12)


def test_a_saved_residual_goes_on_as_if_nothing_had_happened():
    sender, restored = (Sender("topk:0.1+fp16") for _ in range(2))
    sender.send(gradient(0))
    sender.encoder.commit([KEY])
    state = sender.encoder.state_dict()
    assert state[KEY]["residual"].dtype == torch.float32
    restored.encoder.load_state_dict(state)
    np.testing.assert_array_equal(restored.send(gradient(1)), sender.send(gradient(1)))
    sender.encoder.commit([KEY])
    np.testing.assert_array_equal(state[KEY]["residual"].numpy(), restored.residual())


def test_a_residual_of_another_plan_is_refused():
    sender = Sender("int8")
    sender.encoder.load_state_dict({KEY: {"residual": torch.zeros(3)}})
    with pytest.raises(ValueError, match="block 7 has 500 elements, its residual 3"):
        sender.send(gradient(0))


def test_threads_may_encode_different_blocks():
    sender, alone = (Sender("topk:0.05+int8") for _ in range(2))
    with ThreadPoolExecutor(4) as pool:
        for step in range(3):
            together = list(pool.map(lambda key, step=step: sender.send(gradient(step + key), key), range(40)))
            for key, received in enumerate(together):
                np.testing.assert_array_equal(received, alone.send(gradient(step + key), key))
            sender.encoder.commit(range(40))
            alone.encoder.commit(range(40))


def test_blocks_of_one_step_draw_different_numbers():
    sender = Sender("int8:stochastic")
    values = np.full(4096, 0.3, np.float32)
    values[::256] = 1
    errors = [sender.send(values, key, seed=5) - values for key in range(32)]
    correlations = np.corrcoef(errors)[np.triu_indices(32, 1)]
    assert np.abs(correlations).max() < 6 / values.size**0.5


def test_top_one_needs_its_memory_to_converge():
    """Least squares with one coordinate of 50 sent in each step, as published for top-k with memory."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((400, 50)) * np.where(np.arange(50) < 5, 3.0, 1.0)
    targets = features @ rng.standard_normal(50)

    def loss_after_training(sender):
        weights = np.zeros(50)
        for step in range(3000):
            rows = np.random.default_rng(step).integers(0, 400, 4)
            error = features[rows] @ weights - targets[rows]
            weights -= 0.004 * sender.send((features[rows].T @ error / 4).astype(np.float32))
            sender.encoder.commit([KEY])
        return float(np.mean((features @ weights - targets) ** 2))

    dense = loss_after_training(Sender("fp32"))
    with_memory = loss_after_training(Sender("topk:0.02+fp32"))
    without_memory = loss_after_training(Sender("none+topk:0.02+fp32"))
    assert with_memory < dense + 1e-3
    assert without_memory > 10 * with_memory
