"""Specifications of codecs: what parses, what it means, and what the error says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull.compression.codec import DenseCodec
from pushpull.compression.selections.topk import TopK
from pushpull.compression.spec import FAMILIES, ValueFamily, example_specs, parse_codec
from pushpull.compression.values.integers import Integers
from pushpull.protos.errors import CodecError


@pytest.mark.parametrize("spec", example_specs())
def test_examples_of_the_table_are_canonical(spec):
    assert parse_codec(spec).spec == spec


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("topk:0.010+int8", "topk:0.01+int8"),
        ("topk:1e-2+int8", "topk:0.01+int8"),
        ("topk:1+bf16", "topk:1+bf16"),
        ("topk:1.0+bf16", "topk:1+bf16"),
        ("topk:0.00001+fp32", "topk:1e-05+fp32"),
        ("topk:0.3+int8:stochastic", "topk:0.3+int8:stochastic"),
        ("topk:.5+fp32", "topk:0.5+fp32"),
        ("topk:5.E-1+fp32", "topk:0.5+fp32"),
        ("threshold:1e16+fp16", "threshold:1e16+fp16"),
        ("threshold:1e+20+fp16", "threshold:1e20+fp16"),
        ("threshold:2.E+20+int8+zstd", "threshold:2e20+int8+zstd"),
        ("int8:256", "int8"),
        ("int4:stochastic:256", "int4:stochastic"),
        ("threshold:1e-3+int4:32+zstd", "threshold:0.001+int4:32+zstd"),
    ],
)
def test_other_spellings_have_one_canonical_form(spec, canonical):
    codec = parse_codec(spec)
    assert codec.spec == canonical
    assert parse_codec(canonical) == codec


@given(st.floats(0, float(np.finfo(np.float32).max), width=32, exclude_min=True))
def test_every_threshold_that_float32_has_is_written_as_it_is_read(threshold):
    codec = parse_codec(f"threshold:{threshold!r}+fp16")
    assert codec.threshold == threshold
    assert parse_codec(codec.spec) == codec


@given(st.floats(0, 1, exclude_min=True), st.sampled_from(["topk:{}+fp16", "randk:{}:unscaled+fp16", "randk:{}+fp32"]))
def test_every_density_is_written_as_it_is_read(density, form):
    codec = parse_codec(form.format(repr(density)))
    assert codec.density == density
    assert parse_codec(codec.spec) == codec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("int9", "unknown part 'int9'; did you mean 'int8'"),
        ("FP16", "did you mean 'fp16'"),
        ("top:0.01+fp16", "did you mean 'topk'"),
        ("", "a part is empty; known are fp32, fp16, bf16, int8, int4, int2, sign"),
        ("gzip", "unknown part 'gzip'"),
        ("fp32:3", "fp32 takes no argument, got '3'"),
        ("fp16:3", "fp16 takes no argument but 'stochastic', got '3'"),
        ("int8:random", "int8 takes 'stochastic' and the elements that share a scale"),
        ("int8:100", "a power of two from 32 to 32768, got '100'"),
        ("int8:64:stochastic", "got '64:stochastic'"),
        ("topk:0.01", "topk needs a value format behind it, e.g. 'topk:0.01+fp16'"),
        ("topk+fp16", "topk takes one argument, the share"),
        ("topk:1:2+fp16", "topk takes one argument, the share"),
        ("topk:many+fp16", "not 'many'"),
        ("topk:0+fp16", "above 0 and at most 1, not 0"),
        ("topk:1.5+fp16", "above 0 and at most 1, not 1.5"),
        ("topk:-0.1+fp16", "above 0 and at most 1"),
        ("topk:nan+fp16", "takes the share of elements to send, not 'nan'"),
        ("topk:\u0660.\u0665+fp16", "takes the share of elements to send, not '\u0660.\u0665'"),
        ("topk:0_1+fp16", "not '0_1'"),
        ("topk: 0.1+fp16", "not ' 0.1'"),
        ("topk:0.1 +fp16", "not '0.1 '"),
        ("topk:0.1\n+fp16", r"not '0.1\n'"),
        ("topk:0x1p-2+fp16", "not '0x1p-2'"),
        ("topk:.+fp16", "not '.'"),
        ("topk:1e+fp16", "not '1e'"),
        ("topk:0.1+int2:stochastic", "squared error is below 1"),
        ("topk:0.1+int2:stochastic", "use its nearest rounding, or another value format, e.g. int8"),
        ("topk:0.1+vq:4x16", "that of vq:4x16 is 1: use another value format, e.g. int8"),
        ("vq:04x256", "not '04x256'"),
        ("vq:4x016", "not '4x016'"),
        ("vq:\u0664x16", "not '\u0664x16'"),
        ("randk:0.1+fp16", "randk:0.1:unscaled+fp16, which works with error feedback"),
        ("randk:0.1:twice+fp16", "randk takes the share of elements to send and may be unscaled"),
        ("randk:0.1:unscaled+int2:stochastic", "squared error is below 1"),
        ("threshold:0+fp16", "from a number above 0"),
        ("threshold:1e-60+fp16", "from a number above 0"),
        ("threshold:1e39+fp16", "that float32 can hold, not 1e39"),
        ("threshold:1e400+fp16", "not '1e400'"),
        ("threshold:inf+fp16", "not 'inf'"),
        ("threshold+fp16", "threshold takes one argument"),
        ("zstd", "expected a value format"),
        ("zstd+fp16", "expected a value format"),
        ("fp16+zstd:3", "zstd takes no argument, got '3'"),
        ("fp16+zstd+zstd", "zstd is the last stage and stands once"),
        ("fp16+int8", "'fp16' is complete, one value format is enough: leave out int8"),
        ("fp16+topk:0.1", "topk stands first and once, in front of the values, e.g. 'topk:0.01+fp16'"),
        ("topk:0.1+fp16+randk:0.1", "randk stands first and once, in front of the values"),
        ("topk:0.1+topk:0.1", "topk needs a value format behind it"),
        ("topk:0.1+fp16+int8", "'topk:0.1+fp16' is complete, one value format is enough: leave out int8"),
        ("fp16+", "a part is empty"),
        ("+fp16", "a part is empty"),
        (":3", "unknown part ''"),
    ],
)
def test_a_wrong_specification_names_itself_and_the_wrong_part(spec, message):
    with pytest.raises(CodecError) as refused:
        parse_codec(spec)
    assert f"codec {spec!r}" in str(refused.value)
    assert message in str(refused.value)


def test_every_number_in_a_header_has_one_reader():
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    numbers = [family.value_id for family in FAMILIES if isinstance(family, ValueFamily)]
    assert len(set(numbers)) == len(numbers)
    for family in FAMILIES:
        for example in family.examples if isinstance(family, ValueFamily) else ():
            codec = parse_codec(example).dense()
            assert codec.value_id == family.value_id
            assert family.read(codec.parameter).section_bytes(1000) == codec.section_bytes(1000)


@pytest.mark.parametrize(
    ("spec", "num_elements", "num_bytes"),
    [
        ("fp32", 1000, 24 + 4000),
        ("bf16", 1000, 24 + 2000),
        ("bf16", 3, 24 + 8),
        ("fp16", 1000, 24 + 2000 + 4),
        ("int8", 1000, 24 + 1000 + 4 * 4),
        ("int8", 0, 24),
        ("int8:64", 1000, 24 + 1000 + 4 * 16),
        ("int4", 1000, 24 + 500 + 4 * 4),
        ("int4", 255, 24 + 128 + 4),
        ("int2", 1000, 24 + 252 + 4 * 4),
        ("sign", 1000, 24 + 128 + 4 * 4 + 128),  # with a bitmap, needed where elements are zero
        ("sign:1024", 1024, 24 + 128 + 4 + 128),
        ("randk:0.01+fp32", 1000, 24 + 40),
        ("int4+zstd", 1000, 24 + 500 + 4 * 4),
    ],
)
def test_dense_frames_have_a_known_size(spec, num_elements, num_bytes):
    assert parse_codec(spec).frame_bound(num_elements) == num_bytes


@pytest.mark.parametrize(("num_elements", "num_sent"), [(0, 0), (1, 1), (49, 1), (250, 3), (100_000, 1000)])
def test_topk_sends_its_share_and_at_least_one(num_elements, num_sent):
    assert parse_codec("topk:0.01+fp16").contract.band(num_elements) == (num_sent, num_sent)


def test_a_codec_is_unbiased_or_contracts():
    assert parse_codec("int8:stochastic").contract.delta(100) is None
    assert parse_codec("int8:stochastic").contract.omega(100) == pytest.approx(255 / 127**2 / 4, rel=1e-2)
    assert parse_codec("int2:stochastic").contract.omega(100) == pytest.approx(7.5, rel=1e-3)
    assert parse_codec("int8").contract.omega(100) is None
    assert parse_codec("topk:0.1+int8").contract.delta(1000) == pytest.approx(0.1 * (1 - 255 / 254**2), rel=1e-3)
    assert parse_codec("fp32").contract.delta(100) == 1
    assert parse_codec("randk:0.1+fp32").contract.omega(100) == pytest.approx(9)
    assert parse_codec("randk:0.1:unscaled+fp32").contract.delta(100) == pytest.approx(0.1)
    assert parse_codec("threshold:1+fp32").contract.delta(100) == 0


@pytest.mark.parametrize(
    ("spec", "admitted"),
    [
        ("int8", True),
        ("sign", True),
        ("topk:0.1+int4:stochastic", True),
        ("threshold:1+fp16", True),
        ("randk:0.1:unscaled+fp32", True),
        ("randk:0.1+fp32", False),
        ("int8:stochastic", False),
        ("sign:stochastic", False),
    ],
)
def test_error_feedback_is_for_codecs_whose_residual_stays_bounded(spec, admitted):
    assert parse_codec(spec).contract.admits_error_feedback is admitted


@pytest.mark.parametrize(
    ("spec", "denser"),
    [
        ("topk:0.01+int8", "topk:0.25+int8"),
        ("randk:0.01:unscaled+fp16", "randk:0.25:unscaled+fp16"),
        ("topk:0.01+int8+zstd", "topk:0.25+int8+zstd"),
    ],
)
def test_the_density_of_a_contracting_selection_can_be_changed(spec, denser):
    assert parse_codec(spec).with_density(0.25) == parse_codec(denser)


@pytest.mark.parametrize("spec", ["int8", "int4+zstd", "threshold:2+fp16", "randk:0.01+fp32"])
def test_other_codecs_have_no_density_to_change(spec):
    assert parse_codec(spec).with_density(0.25) is None


def test_small_tensors_use_the_value_codec_of_a_sparse_one():
    assert parse_codec("topk:0.01+int8").dense() == Integers(8)
    assert parse_codec("int8").dense() == Integers(8)
    assert isinstance(parse_codec("topk:0.01+int8"), TopK)
    assert isinstance(parse_codec("topk:0.01+int8").dense(), DenseCodec)
