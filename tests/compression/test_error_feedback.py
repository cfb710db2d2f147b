"""Encoders remember what frames left out, and only of steps that were applied."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushpull.compression.codec import Contract
from pushpull.compression.error_feedback import ErrorFeedback, Memoryless, encoder_for
from pushpull.compression.frame import parse_frame
from pushpull.compression.int8 import Int8
from pushpull.compression.spec import parse_codec
from pushpull.protos.errors import CodecError, NonFiniteError

KEY = 7
SIZE = 500


def gradient(step, size=SIZE):
    return np.random.default_rng(step).standard_normal(size).astype(np.float32)


def send(encoder, values, key=KEY, seed=0):
    """Encode a block; returns what its receiver decodes."""
    out = np.empty(encoder.codec.frame_bound(values.size), np.uint8)
    num_bytes = encoder.encode(key, values, out, seed)
    received = np.empty_like(values)
    parse_frame(out[:num_bytes].tobytes(), values.size).decode_into(received)
    return received


def residual(encoder, key=KEY):
    return encoder.state_dict()[key].numpy()


@dataclass(frozen=True)
class Expanding(Int8):
    """Unbiased with a large variance, as rand-k scaled by n/k is."""

    @property
    def contract(self):
        return Contract(unbiased=True, deterministic=False, squared_error=99.0)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("fp32", Memoryless),
        ("int8:stochastic", Memoryless),
        ("fp16", ErrorFeedback),
        ("bf16", ErrorFeedback),
        ("int8", ErrorFeedback),
        ("topk:0.01+fp16", ErrorFeedback),
        ("topk:0.01+fp32", ErrorFeedback),
    ],
)
def test_error_feedback_is_for_codecs_that_lose_something_and_contract(spec, kind):
    assert type(encoder_for(parse_codec(spec))) is kind


def test_error_feedback_refuses_a_codec_that_does_not_contract():
    with pytest.raises(CodecError, match="does not contract"):
        ErrorFeedback(Expanding())
    assert type(encoder_for(Expanding())) is Memoryless


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(outcomes=st.lists(st.sampled_from(["applied", "dropped", "again", "not finite"]), max_size=25))
def test_over_applied_steps_gradients_are_what_was_received_and_the_residual(codec, outcomes):
    encoder = ErrorFeedback(codec) if codec.contract.delta(1) is not None else encoder_for(codec)
    sent, received = np.zeros(SIZE), np.zeros(SIZE)
    for step, outcome in enumerate(outcomes):
        values = gradient(step)
        if outcome == "again":
            send(encoder, gradient(step + 1000))
        if outcome == "not finite":
            with pytest.raises(NonFiniteError):
                send(encoder, np.where(np.arange(SIZE) == 3, np.nan, values).astype(np.float32))
            encoder.commit([KEY])
            continue
        frame = send(encoder, values)
        if outcome == "dropped":
            encoder.discard([KEY])
            encoder.commit([KEY])
        else:
            encoder.commit([KEY])
            sent += values
            received += frame
    if isinstance(encoder, ErrorFeedback) and outcomes:
        received += residual(encoder)
    tolerance = 1e-5 * (1 + len(outcomes)) if isinstance(encoder, ErrorFeedback) else np.inf
    assert np.abs(sent - received).max() < tolerance


def test_without_commit_encoding_again_starts_from_the_same_residual():
    encoder = ErrorFeedback(parse_codec("topk:0.1+int8"))
    send(encoder, gradient(0))
    encoder.commit([KEY])
    first = send(encoder, gradient(1))
    np.testing.assert_array_equal(send(encoder, gradient(1)), first)


def test_a_commit_counts_once():
    encoder = ErrorFeedback(parse_codec("topk:0.1+int8"))
    send(encoder, gradient(0))
    encoder.commit([KEY])
    before = residual(encoder)
    encoder.commit([KEY, KEY])
    encoder.discard([KEY])
    np.testing.assert_array_equal(residual(encoder), before)


def test_blocks_have_residuals_of_their_own():
    encoder = ErrorFeedback(parse_codec("topk:0.1+int8"))
    send(encoder, gradient(0), key=1)
    send(encoder, gradient(1, 64), key=2)
    encoder.commit([2])
    assert not residual(encoder, 1).any()
    assert residual(encoder, 2).any()
    assert residual(encoder, 2).size == 64


def test_commit_and_discard_of_unknown_blocks_do_nothing():
    encoder = ErrorFeedback(parse_codec("int8"))
    encoder.commit([1, 2])
    encoder.discard([3])
    assert encoder.state_dict() == {}
    assert encoder.residual_norm() == 0


def test_the_norm_is_that_of_all_committed_residuals():
    encoder = ErrorFeedback(parse_codec("topk:0.1+fp16"))
    for key in range(3):
        send(encoder, gradient(key), key=key)
    assert encoder.residual_norm() == 0
    encoder.commit(range(3))
    everything = torch.cat(list(encoder.state_dict().values())).to(torch.float64)
    assert encoder.residual_norm() == pytest.approx(float(everything.norm()), rel=1e-12)


def test_a_saved_residual_goes_on_as_if_nothing_had_happened():
    encoder, restored = (ErrorFeedback(parse_codec("topk:0.1+fp16")) for _ in range(2))
    send(encoder, gradient(0))
    encoder.commit([KEY])
    state = encoder.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    restored.load_state_dict(state)
    np.testing.assert_array_equal(send(restored, gradient(1)), send(encoder, gradient(1)))
    encoder.commit([KEY])
    np.testing.assert_array_equal(state[KEY].numpy(), residual(restored))


def test_a_residual_of_another_plan_is_refused():
    encoder = ErrorFeedback(parse_codec("int8"))
    encoder.load_state_dict({KEY: torch.zeros(3)})
    with pytest.raises(ValueError, match="block 7 has 500 elements, its residual 3"):
        send(encoder, gradient(0))


def test_threads_may_encode_different_blocks():
    encoder, alone = (ErrorFeedback(parse_codec("topk:0.05+int8")) for _ in range(2))
    with ThreadPoolExecutor(4) as pool:
        for step in range(3):
            together = list(pool.map(lambda key, step=step: send(encoder, gradient(step + key), key), range(40)))
            for key, received in enumerate(together):
                np.testing.assert_array_equal(received, send(alone, gradient(step + key), key))
            encoder.commit(range(40))
            alone.commit(range(40))


def test_blocks_of_one_step_draw_different_numbers():
    encoder = encoder_for(parse_codec("int8:stochastic"))
    values = np.full(4096, 0.3, np.float32)
    values[::256] = 1
    errors = [send(encoder, values, key, seed=5) - values for key in range(32)]
    correlations = np.corrcoef(errors)[np.triu_indices(32, 1)]
    assert np.abs(correlations).max() < 6 / values.size**0.5


def test_top_one_needs_its_memory_to_converge():
    """Least squares with one coordinate of 50 sent in each step, as published for top-k with memory."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((400, 50)) * np.where(np.arange(50) < 5, 3.0, 1.0)
    targets = features @ rng.standard_normal(50)

    def loss_after_training(encoder, is_applied):
        weights = np.zeros(50)
        for step in range(3000):
            rows = np.random.default_rng(step).integers(0, 400, 4)
            error = features[rows] @ weights - targets[rows]
            weights -= 0.004 * send(encoder, (features[rows].T @ error / 4).astype(np.float32)) * is_applied
            encoder.commit([KEY])
        return float(np.mean((features @ weights - targets) ** 2))

    dense = loss_after_training(encoder_for(parse_codec("fp32")), 1.0)
    with_memory = loss_after_training(encoder_for(parse_codec("topk:0.02+fp32")), 1.0)
    without_memory = loss_after_training(Memoryless(parse_codec("topk:0.02+fp32")), 1.0)
    assert with_memory < dense + 1e-3
    assert without_memory > 10 * with_memory
