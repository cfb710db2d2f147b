"""Specifications of encoders: a memory in front of a codec, and which parameter has which."""

import numpy as np
import pytest

from pushpull.compression.encoder_spec import MEMORIES, parse_encoder, parse_pull_codec
from pushpull.compression.parameter_encoders import parse_parameter_encoders
from pushpull.compression.spec import example_specs, parse_codec
from pushpull.protos.errors import CodecError

from .sender import Sender, gradient


def every_encoder() -> list[str]:
    """Each codec with its default memory, and each memory with each codec that it goes with."""
    return [*example_specs(), *(family.example for family in MEMORIES), *(f"none+{spec}" for spec in example_specs())]


class TestMemoryByDefault:
    @pytest.mark.parametrize(
        ("spec", "memory"),
        [
            ("fp32", "none"),
            ("int8:stochastic", "none"),
            ("fp16", "ef"),
            ("bf16", "ef"),
            ("int8", "ef"),
            ("topk:0.01+fp16", "ef"),
            ("topk:0.01+fp32", "ef"),
            ("topk:0.01+int8:stochastic", "ef"),
        ],
    )
    def test_is_error_feedback_for_codecs_that_lose_something_and_contract(self, spec: str, memory: str) -> None:
        assert parse_encoder(spec).memory.spec == memory

    @pytest.mark.parametrize("spec", example_specs())
    def test_is_not_written(self, spec: str) -> None:
        assert parse_encoder(spec).spec == spec
        assert parse_encoder(f"{parse_encoder(spec).memory.spec}+{spec}") == parse_encoder(spec)


class TestSpecification:
    @pytest.mark.parametrize("spec", every_encoder())
    def test_is_canonical(self, spec: str) -> None:
        encoder = parse_encoder(spec)
        for member in (encoder, encoder.dense()):
            assert parse_encoder(member.spec) == member
            assert hash(parse_encoder(member.spec)) == hash(member)

    @pytest.mark.parametrize(
        ("written", "canonical"),
        [
            ("ef+topk:0.010+int8", "topk:0.01+int8"),
            ("none+fp32", "fp32"),
            ("none+int8", "none+int8"),
            ("dgc:.90:0+topk:0.01+int8", "dgc:0.9+topk:0.01+int8"),
            ("dgc:0:100+topk:0.01+int8", "dgc:0:100+topk:0.01+int8"),
            ("dgc:0.9:007+topk:0.01+int8", "dgc:0.9:7+topk:0.01+int8"),
            ("dgc:-0.0+topk:0.01+int8", "dgc:0+topk:0.01+int8"),
            ("momentum:-0+int8", "momentum:0+int8"),
            ("dgc:0.9+topk:0.999999+fp16", "dgc:0.9+topk:0.999999+fp16"),
            ("dgc:0.9+threshold:1e+20+fp16", "dgc:0.9+threshold:1e20+fp16"),
            ("dgc:0.9:9+randk:0.01:unscaled+fp16", "dgc:0.9:9+randk:0.01:unscaled+fp16"),
        ],
    )
    def test_is_read_in_other_spellings(self, written: str, canonical: str) -> None:
        assert parse_encoder(written).spec == canonical

    @pytest.mark.parametrize(
        ("spec", "reason"),
        [
            ("ef+int8:stochastic", "does not contract: around it error feedback would grow without bound"),
            ("ef+randk:0.01+fp16:stochastic", "does not contract"),
            ("dgc:0.9+randk:0.01+fp16:stochastic", "does not contract"),
            ("dgc:0.9+int8", r"sends every element: .* momentum:0.9\+int8"),
            ("dgc:0.9+topk:1+fp16", "sends every element"),
            ("dgc:0.9:100+threshold:2+fp16", r"has none, so leave out the number of steps: dgc:0.9\+threshold"),
            ("dgc+topk:0.01+fp16", "takes the momentum"),
            ("dgc:0.9:1:2+topk:0.01+fp16", "takes the momentum"),
            ("dgc:1+topk:0.01+fp16", "less than 1, not 1"),
            ("dgc:nan+topk:0.01+fp16", "takes the momentum, not 'nan'"),
            ("dgc:0.9:-1+topk:0.01+fp16", "steps for the warm-up, of at most 9 digits, not '-1'"),
            ("dgc:0.9:1e3+topk:0.01+fp16", "whole number of steps for the warm-up, of at most 9 digits, not '1e3'"),
            ("dgc:0.9:\u0663+topk:0.01+fp16", "whole number of steps for the warm-up"),
            (f"dgc:0.9:{'9' * 5000}+topk:0.01+fp16", "whole number of steps for the warm-up, of at most 9 digits"),
            ("dgc:0_9+topk:0.01+fp16", "takes the momentum, not '0_9'"),
            ("momentum:0.9+topk:0.1+fp16", r"topk:0.1\+fp16 leaves some out: write dgc:0.9\+topk:0.1\+fp16"),
            ("momentum:0.9+threshold:2+fp16+zstd", r"write dgc:0.9\+threshold:2\+fp16\+zstd"),
            ("momentum:0.9+randk:0.1:unscaled+fp16", r"write dgc:0.9\+randk:0.1:unscaled\+fp16"),
            ("momentum:0.9+randk:0.1+fp32", r"randk:0.1\+fp32 leaves some out: write dgc:0.9\+topk:0.01\+fp16"),
            ("momentum+int8", "takes one argument"),
            ("ef:1+int8", "ef takes no argument"),
            ("none:1+int8", "none takes no argument"),
            ("ef", r"needs a codec behind it, e.g. ef\+"),
            ("ef+none+int8", "one memory, not two"),
            ("dcg:0.9+topk:0.01+fp16", "'dcg'; did you mean 'dgc'"),
            ("dgc:0.9+topk:0.01+int7", "'int7'; did you mean 'int8'"),
            ("topk:0.01+ef", "unknown part 'ef'"),
            ("", "a part is empty"),
            ("dgc:0.9+", "dgc needs a codec behind it"),
        ],
    )
    def test_that_cannot_work_is_refused_with_the_reason(self, spec: str, reason: str) -> None:
        with pytest.raises(CodecError, match=reason):
            parse_encoder(spec)

    @pytest.mark.parametrize("memory", ["ef", "none", "dgc:0.9", "momentum:0.9"])
    def test_of_a_pull_codec_has_no_memory(self, memory: str) -> None:
        assert parse_pull_codec("topk:0.01+int8") == parse_codec("topk:0.01+int8")
        with pytest.raises(CodecError) as refused:
            parse_pull_codec(f"{memory}+topk:0.01+int8")
        remedy = "parameters are pulled without a memory; write 'topk:0.01+int8'"
        assert str(refused.value) == f"codec '{memory}+topk:0.01+int8': {memory} is a memory, and {remedy}"
        with pytest.raises(CodecError, match=r"is a memory, .* write a codec, e\.g\. 'bf16'"):
            parse_pull_codec(memory)
        with pytest.raises(CodecError, match="codec 'int7': unknown part 'int7'"):
            parse_pull_codec(f"{memory}+int7")


class TestFrameBound:
    @pytest.mark.parametrize("spec", every_encoder())
    @pytest.mark.parametrize("size", [1, 33, 500])
    def test_holds_over_all_steps(self, spec: str, size: int) -> None:
        sender = Sender(spec)
        for step in range(3):
            sender.send(gradient(step, size), seed=step)
            sender.commit()

    def test_is_that_of_the_warm_up(self) -> None:
        densest = parse_codec("topk:0.25+fp16").frame_bound(10_000)
        assert parse_encoder("dgc:0.9:100+topk:0.001+fp16").frame_bound(10_000) == densest
        assert parse_encoder("dgc:0.9+topk:0.001+fp16").frame_bound(10_000) < densest / 20


class TestParameters:
    OVERRIDES = (("*.bias", "fp32"), ("embed*", "topk:0.01+int8"), ("lm_head.weight", "none+bf16"))

    @pytest.mark.parametrize(
        ("names", "shape", "spec"),
        [
            (["layer.weight"], (100, 100), "topk:0.01+fp16"),
            (["layer.weight"], (10, 10), "fp16"),
            (["norm.weight"], (100_000,), "fp16"),
            (["norm.scale"], (), "fp16"),
            (["layer.bias"], (100_000,), "fp32"),
            (["embed.weight"], (10, 10), "topk:0.01+int8"),
            (["embed.bias"], (10,), "fp32"),
            (["lm_head.weight"], (100, 100), "none+bf16"),
            (["tokens.weight", "lm_head.weight"], (100, 100), "none+bf16"),
            (["Layer.Bias"], (10,), "fp16"),
        ],
    )
    def test_have_the_first_override_that_matches_or_the_push_codec(
        self, names: list[str], shape: tuple[int, ...], spec: str
    ) -> None:
        encoders = parse_parameter_encoders("topk:0.01+fp16", self.OVERRIDES)
        assert encoders.of(names, shape).spec == spec
        assert encoders.of(names, shape) in encoders.all

    def test_all_have_the_momentum_of_the_push_codec(self) -> None:
        overrides = [("a", "fp32"), ("b", "topk:0.1+int8"), ("c", "threshold:2+fp16"), ("d", "dgc:0.9+topk:0.1+int8")]
        encoders = parse_parameter_encoders("dgc:0.9:50+topk:0.01+fp16", overrides)
        of = {name: encoders.of([name], (100, 100)).spec for name in "abcde"}
        assert of == {
            "a": "momentum:0.9+fp32",
            "b": "dgc:0.9:50+topk:0.1+int8",
            "c": "dgc:0.9+threshold:2+fp16",
            "d": "dgc:0.9+topk:0.1+int8",
            "e": "dgc:0.9:50+topk:0.01+fp16",
        }
        assert encoders.of(["norm"], (100,)).spec == "momentum:0.9+fp16"
        beside_dense = parse_parameter_encoders("momentum:0.9+int8", [("a", "topk:0.1+fp16"), ("b", "fp32")])
        assert [spec.spec for _, spec in beside_dense.overrides] == ["dgc:0.9+topk:0.1+fp16", "momentum:0.9+fp32"]

    @pytest.mark.parametrize(
        ("push_codec", "override", "momenta", "remedies"),
        [
            ("dgc:0.9+topk:0.01+fp16", "ef+int8", ("0", "0.9"), "leave out the memory, 'int8', "),
            ("dgc:0.9+topk:0.01+fp16", "none+fp32", ("0", "0.9"), "leave out the memory, 'fp32', "),
            ("dgc:0.9+topk:0.01+fp16", "dgc:0.5+topk:0.1+int8", ("0.5", "0.9"), "give the push codec momentum 0.5"),
            ("momentum:0.9+int8", "momentum:0.8+int8", ("0.8", "0.9"), "give the push codec momentum 0.8"),
            ("fp32", "dgc:0.9+topk:0.1+fp16", ("0.9", "0"), "leave out the memory, 'topk:0.1+fp16', "),
            ("none+int8", "dgc:0.9+topk:0.1+fp16", ("0.9", "0"), "give the push codec momentum 0.9"),
        ],
    )
    def test_with_different_momenta_are_refused(
        self, push_codec: str, override: str, momenta: tuple[str, str], remedies: str
    ) -> None:
        with pytest.raises(CodecError) as refused:
            parse_parameter_encoders(push_codec, [("*.bias", override)])
        message = str(refused.value)
        assert message.startswith(
            f"`push_overrides.*.bias`: {parse_encoder(override).spec} has momentum {momenta[0]} on"
        )
        assert f"the push codec {push_codec} has {momenta[1]}, but all parameters train with the same" in message
        assert remedies in message

    @pytest.mark.parametrize("override", ["none+int8", "ef+int8", "momentum:0+int8", "dgc:0:10+topk:0.1+fp16"])
    def test_without_momentum_may_have_any_memory(self, override: str) -> None:
        encoders = parse_parameter_encoders("topk:0.01+fp16", [("a", override)])
        assert encoders.of(["a"], (100, 100)) == parse_encoder(override)

    def test_that_cannot_have_the_momentum_of_the_push_codec_are_refused(self) -> None:
        with pytest.raises(CodecError, match=r"`push_overrides\.a`: .* randk:0\.1\+fp32 does not contract"):
            parse_parameter_encoders("dgc:0.9+topk:0.01+fp16", [("a", "randk:0.1+fp32")])

    def test_that_no_pattern_names_are_found(self) -> None:
        encoders = parse_parameter_encoders("fp32", self.OVERRIDES)
        assert encoders.unmatched(["layer.bias", "lm_head.weight"]) == ["embed*"]

    def test_with_a_codec_that_does_not_exist_name_the_pattern(self) -> None:
        with pytest.raises(CodecError, match=r"`push_overrides\.\*\.bias`: codec 'int7'"):
            parse_parameter_encoders("fp32", [("*.bias", "int7")])
        with pytest.raises(CodecError, match="`push_codec`: codec 'int7'"):
            parse_parameter_encoders("int7", [])


@pytest.mark.parametrize("spec", [family.example for family in MEMORIES])
def test_warming_up_leaves_nothing_behind(spec: str) -> None:
    encoder = parse_encoder(spec)
    encoder.warm_up()
    assert encoder.build().state_dict() == {}
    values = np.zeros(0, np.float32)
    assert Sender(spec).send(values).size == 0
