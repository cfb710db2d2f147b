"""Which encoder has which block, and that the memories of all of them are kept together."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pushpull.compression.parameter_encoders import parse_parameter_encoders
from pushpull.protos.common_pb2 import CodecOverride, JobSpecification
from pushpull.protos.errors import CodecError, SettingError
from pushpull.worker.gradient_encoder import GradientEncoder, check_overrides, encoders_of
from pushpull.worker.plan import TableEntry, make_plan

ENTRIES = (
    TableEntry("tokens.weight", (50, 40), True, aliases=("lm_head.weight",), group=0),
    TableEntry("layer.weight", (50, 40), True, group=0),
    TableEntry("layer.bias", (50,), True, group=0),
)
PLAN = make_plan(ENTRIES, 2, 1000)
BLOCKS = range(len(PLAN.blocks))


def encoder(push_codec: str, *overrides: tuple[str, str]) -> GradientEncoder:
    return GradientEncoder(PLAN, parse_parameter_encoders(push_codec, overrides))


def frames(encoder: GradientEncoder, step: int) -> list[bytes]:
    return [encode(encoder, block, step) for block in BLOCKS]


def encode(encoder: GradientEncoder, block: int, step: int) -> bytes:
    size = PLAN.blocks[block].num_elements
    values = np.random.default_rng([step, block]).standard_normal(size).astype(np.float32)
    out: NDArray[np.uint8] = np.empty(encoder.bounds[block], np.uint8)
    return out[: encoder.encode(block, values, out, seed=step)].tobytes()


def lengths(encoder: GradientEncoder) -> dict[str, int]:
    """Bytes of the first frame of each parameter."""
    return {entry.name: len(encode(encoder, PLAN.blocks_of_entry[i][0].id, 0)) for i, entry in enumerate(ENTRIES)}


def test_small_and_one_dimensional_tensors_have_the_dense_form() -> None:
    sparse = lengths(encoder("topk:0.01+fp16"))
    dense = lengths(encoder("fp16"))
    assert sparse["layer.bias"] == dense["layer.bias"]
    assert sparse["layer.weight"] < dense["layer.weight"] / 10


def test_an_override_wins_over_the_push_codec_and_over_the_policy_for_small_tensors() -> None:
    plain = lengths(encoder("topk:0.01+fp16"))
    overridden = lengths(encoder("topk:0.01+fp16", ("*.bias", "topk:0.01+int8"), ("lm_head*", "fp32")))
    assert overridden["layer.bias"] < plain["layer.bias"]
    assert overridden["layer.weight"] == plain["layer.weight"]
    assert overridden["tokens.weight"] == lengths(encoder("fp32"))["tokens.weight"]


@pytest.mark.parametrize("push_codec", ["topk:0.05+int8", "dgc:0.9+topk:0.05+int8", "dgc:0.9:3+topk:0.05+int8"])
def test_a_saved_memory_goes_on_as_if_nothing_had_happened(push_codec: str) -> None:
    trained, restored = (encoder(push_codec, ("*.bias", "bf16")) for _ in range(2))
    for step in range(2):
        frames(trained, step)
        trained.commit(BLOCKS)
    state = trained.state_dict()
    assert set(state) == set(BLOCKS)
    restored.load_state_dict(state)
    assert frames(restored, 2) == frames(trained, 2)
    assert restored.residual_norm() == trained.residual_norm() > 0


def test_frames_that_are_discarded_leave_no_trace() -> None:
    encoder_ = encoder("dgc:0.9+topk:0.05+int8")
    first = frames(encoder_, 0)
    encoder_.discard(BLOCKS)
    encoder_.commit(BLOCKS)
    assert frames(encoder_, 0) == first
    encoder_.commit(BLOCKS[:1])
    again = frames(encoder_, 0)
    assert [a == b for a, b in zip(first, again, strict=True)] == [False, *(True for _ in BLOCKS[1:])]


def test_another_job_s_memory_is_taken_over_as_far_as_it_fits() -> None:
    saved = encoder("topk:0.05+int8")
    frames(saved, 0)
    saved.commit(BLOCKS)
    changed = encoder("dgc:0.9+topk:0.05+int8", ("layer.weight", "fp32"))
    changed.load_state_dict(saved.state_dict())
    kept = changed.state_dict()
    for block in PLAN.blocks_of_entry[0]:
        assert torch.equal(kept[block.id]["residual"], saved.state_dict()[block.id]["residual"])
    assert all("residual" not in kept.get(block.id, {}) for block in PLAN.blocks_of_entry[1])


def test_the_job_says_what_is_overridden() -> None:
    job = JobSpecification(push_codec="int8", push_overrides=[CodecOverride(pattern="*.bias", codec="fp32")])
    assert encoders_of(job).of(["a.bias"], (3,)).spec == "fp32"
    assert encoders_of(job).of(["a.weight"], (3,)).spec == "int8"


@pytest.mark.parametrize(
    ("pattern", "nearest"), [("layers.weight", "layer.weight"), ("*.biases", "layer.bias"), ("LM_head*", "lm_head")]
)
def test_a_pattern_that_matches_no_parameter_is_refused_with_the_nearest(pattern: str, nearest: str) -> None:
    encoders = parse_parameter_encoders("int8", [("lm_head*", "fp32"), (pattern, "fp32")])
    with pytest.raises(SettingError, match=rf"matches no parameter of the model; the nearest is '{nearest}") as refusal:
        check_overrides(encoders, ENTRIES)
    assert f"`push_overrides.{pattern}`" in str(refusal.value)


def test_a_codec_that_does_not_exist_names_the_pattern() -> None:
    job = JobSpecification(push_codec="int8", push_overrides=[CodecOverride(pattern="*.bias", codec="int7")])
    with pytest.raises(CodecError, match=r"push_overrides\.\*\.bias"):
        encoders_of(job)
