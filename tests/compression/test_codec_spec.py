"""Specifications of codecs: what parses, what it means, and what the error says."""

import pytest

from pushpull.compression.codec import DenseCodec
from pushpull.compression.int8 import Int8
from pushpull.compression.spec import DECODERS, FAMILIES, SELECTIONS, example_specs, parse_codec
from pushpull.compression.topk import TopK
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
    ],
)
def test_other_spellings_have_one_canonical_form(spec, canonical):
    codec = parse_codec(spec)
    assert codec.spec == canonical
    assert parse_codec(canonical) == codec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("int9", "unknown part 'int9'; did you mean 'int8'"),
        ("FP16", "did you mean 'fp16'"),
        ("top:0.01+fp16", "did you mean 'topk'"),
        ("", "unknown part ''; known are fp32, fp16, bf16, int8, topk"),
        ("gzip", "unknown part 'gzip'"),
        ("fp16:3", "fp16 takes no argument, got '3'"),
        ("int8:random", "int8 takes no argument but 'stochastic', got 'random'"),
        ("topk:0.01", "topk needs a value format, e.g. 'topk:0.01+fp16'"),
        ("topk+fp16", "topk takes one argument, the share"),
        ("topk:1:2+fp16", "topk takes one argument, the share"),
        ("topk:many+fp16", "not 'many'"),
        ("topk:0+fp16", "above 0 and at most 1, not 0"),
        ("topk:1.5+fp16", "above 0 and at most 1, not 1.5"),
        ("topk:-0.1+fp16", "above 0 and at most 1"),
        ("topk:nan+fp16", "above 0 and at most 1"),
        ("fp16+int8", "expected a value format"),
        ("fp16+topk:0.1", "expected a value format"),
        ("topk:0.1+topk:0.1", "expected a value format"),
        ("topk:0.1+fp16+int8", "expected a value format"),
        ("fp16+", "unknown part ''"),
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
    assert len(DECODERS) + len(SELECTIONS) - 1 == len(FAMILIES)


@pytest.mark.parametrize(
    ("spec", "num_elements", "num_bytes"),
    [
        ("fp32", 1000, 24 + 4000),
        ("bf16", 1000, 24 + 2000),
        ("bf16", 3, 24 + 8),
        ("fp16", 1000, 24 + 2000 + 4),
        ("int8", 1000, 24 + 1000 + 4 * 4),
        ("int8", 0, 24),
    ],
)
def test_dense_frames_have_a_known_size(spec, num_elements, num_bytes):
    assert parse_codec(spec).frame_bound(num_elements) == num_bytes


@pytest.mark.parametrize(("num_elements", "num_sent"), [(0, 0), (1, 1), (49, 1), (250, 3), (100_000, 1000)])
def test_topk_sends_its_share_and_at_least_one(num_elements, num_sent):
    assert parse_codec("topk:0.01+fp16").contract.num_sent(num_elements) == num_sent


def test_a_codec_is_unbiased_or_contracts():
    assert parse_codec("int8:stochastic").contract.delta(100) is None
    assert parse_codec("int8:stochastic").contract.omega(100) == pytest.approx(256 / 127**2, rel=1e-3)
    assert parse_codec("int8").contract.omega(100) is None
    assert parse_codec("topk:0.1+int8").contract.delta(1000) == pytest.approx(0.1 * (1 - 256 / 254**2), rel=1e-3)
    assert parse_codec("fp32").contract.delta(100) == 1


def test_small_tensors_use_the_value_codec_of_a_sparse_one():
    assert parse_codec("topk:0.01+int8").dense() == Int8()
    assert parse_codec("int8").dense() == Int8()
    assert isinstance(parse_codec("topk:0.01+int8"), TopK)
    assert isinstance(parse_codec("topk:0.01+int8").dense(), DenseCodec)
