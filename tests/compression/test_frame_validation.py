"""Bytes that are not a valid frame are refused with a sentence, whatever they are; the others decode to
finite numbers."""

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard

from pushpull.compression.frame import parse_frame
from pushpull.compression.header import HEADER_BYTES, MAX_ELEMENTS, seal
from pushpull.compression.spec import parse_codec
from pushpull.protos.errors import FrameError, NonFiniteError

SPECS = [
    *("fp32", "fp16", "bf16", "int8", "int4", "int2", "sign:64", "topk:0.02+fp16", "topk:0.5+int8", "topk:0.1+bf16"),
    *("threshold:1+sign", "randk:0.1+fp32", "int2+zstd", "topk:0.5+int4+zstd"),
]
SIZE = 300

INDEX, PARAMETER, NUM_ELEMENTS, NUM_SENT, SEED, CHECKSUM = 6, 7, 8, 12, 16, 20
FLAGS, SELECTION, VALUES = 3, 4, 5


@pytest.fixture(params=SPECS)
def frame(request, encoded):
    values = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    return encoded(parse_codec(request.param), values)


@pytest.mark.parametrize("spec", ["sign", "vq:2x16"])
def test_frames_of_rows_are_checked_like_the_others(spec, encoded):
    """Some rows are zero, and the values have no code for that."""
    values = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    values[64:200] = 0
    rows = encoded(parse_codec(spec), values)
    assert outcome(rows) == "decoded"
    assert {outcome(rows[:length]) for length in range(len(rows))} == {"refused"}
    for bit in range(8 * HEADER_BYTES, 8 * len(rows)):
        outcome(changed(rows, bit // 8, bytes([rows[bit // 8] ^ 1 << bit % 8])))
    assert outcome(changed(rows, NUM_SENT, struct.pack("<I", SIZE + 1))) == "refused"


@pytest.fixture
def sparse_frame(encoded):
    values = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    return encoded(parse_codec("topk:0.02+int8"), values)


def changed(frame, offset, replacement):
    return frame[:offset] + replacement + frame[offset + len(replacement) :]


def outcome(frame, num_elements=SIZE):
    """Decode between two guards: either refused, or finite everywhere and nothing written outside."""
    try:
        parsed = parse_frame(frame, num_elements)
    except (FrameError, NonFiniteError):
        return "refused"
    room = np.full(num_elements + 64, 7, np.float32)
    parsed.decode_into(room[32:-32])
    assert np.isfinite(room).all()
    parsed.add_to(room[32:-32], -1.0)
    assert not room[32:-32].any()
    assert (room[:32] == 7).all()
    assert (room[-32:] == 7).all()
    return "decoded"


def test_truncation_at_every_byte_is_refused(frame):
    assert {outcome(frame[:length]) for length in range(len(frame))} == {"refused"}


def test_bytes_behind_the_frame_are_refused(frame):
    assert outcome(frame + bytes(1)) == "refused"
    assert outcome(frame + bytes(4)) == "refused"


def test_a_flipped_bit_in_the_header_is_refused(frame):
    for bit in range(8 * HEADER_BYTES):
        flipped = frame[bit // 8] ^ 1 << bit % 8
        found = outcome(changed(frame, bit // 8, bytes([flipped])))
        # One element more, larger blocks, all elements drawn, another seed: these may be other frames of the same
        # length; only a checksum can tell.
        assert found == "refused" or bit // 8 in (NUM_SENT, PARAMETER, SELECTION, *range(SEED, SEED + 4)), bit


def test_a_flipped_bit_behind_the_header_is_refused_or_decodes(frame):
    for bit in range(8 * HEADER_BYTES, 8 * len(frame)):
        outcome(changed(frame, bit // 8, bytes([frame[bit // 8] ^ 1 << bit % 8])))


def test_random_damage_is_refused_or_decodes(frame):
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(3000):
        damaged = np.frombuffer(frame, np.uint8).copy()
        for _ in range(rng.integers(1, 5)):
            start = int(rng.integers(0, len(frame)))
            end = start + int(rng.integers(1, 9))
            damaged[start:end] = rng.integers(0, 256, damaged[start:end].size)
        outcomes.add(outcome(damaged.tobytes()[: int(rng.integers(len(frame) - 8, len(frame) + 1))]))
    assert "refused" in outcomes


def test_random_bytes_behind_a_valid_header_are_refused_or_decode(frame):
    rng = np.random.default_rng(2)
    for _ in range(500):
        outcome(frame[:HEADER_BYTES] + rng.bytes(len(frame) - HEADER_BYTES))


@pytest.mark.parametrize(
    ("offset", "replacement", "message"),
    [
        (0, b"XX", "starts with 0x5858"),
        (2, b"\x09", "version 9"),
        (FLAGS, b"\x80", "unknown flags"),
        (FLAGS, b"\x01", "checksum"),
        (SELECTION, b"\x07", "unknown selection 7"),
        (VALUES, b"\x63", "unknown format 99"),
        (PARAMETER, b"\x63", r"blocks of 2\^99|the parameter 99"),
        (NUM_ELEMENTS, struct.pack("<I", SIZE + 1), "holds 301 elements, its block 300"),
        (NUM_SENT, struct.pack("<I", SIZE + 1), "sends 301 of 300"),
        (CHECKSUM, b"\x01", "checksum"),
    ],
)
def test_a_lie_in_the_header_is_named(frame, offset, replacement, message):
    with pytest.raises(FrameError, match=message):
        parse_frame(changed(frame, offset, replacement), SIZE)


@pytest.mark.parametrize(
    ("offset", "replacement", "message"),
    [
        (INDEX, b"\x05", "unknown index 5"),
        (NUM_SENT, struct.pack("<I", 5), "padding"),
        (NUM_SENT, struct.pack("<I", 20), "bytes|beyond"),
        (NUM_SENT, struct.pack("<I", SIZE), "bytes"),
        (SEED, b"\x01", "with a seed"),
        (HEADER_BYTES, b"\x21", "more than 32 bits"),
        (HEADER_BYTES, b"\x20", "inside its index"),
        (HEADER_BYTES + 1, b"\x01", "padding"),
        (HEADER_BYTES + 4, b"\xff" * 4, "beyond the last"),
    ],
)
def test_a_lie_in_the_index_is_named(sparse_frame, offset, replacement, message):
    with pytest.raises(FrameError, match=message):
        parse_frame(changed(sparse_frame, offset, replacement), SIZE)


@pytest.mark.parametrize(
    ("spec", "offset", "replacement", "message"),
    [
        ("fp32", INDEX, b"\x01", "an index or a seed"),
        ("fp32", SEED, b"\x01", "an index or a seed"),
        ("fp32", NUM_SENT, struct.pack("<I", 5), "count of sent elements"),
        ("randk:0.1+fp32", INDEX, b"\x01", "drawn elements with an index"),
        ("randk:0.1+fp32", NUM_SENT, struct.pack("<I", 29), "has 120 bytes of them, not 116"),
    ],
)
def test_what_another_selection_would_have_is_refused(encoded, spec, offset, replacement, message):
    frame = encoded(parse_codec(spec), np.ones(SIZE, np.float32))
    with pytest.raises(FrameError, match=message):
        parse_frame(changed(frame, offset, replacement), SIZE)


@pytest.mark.parametrize(
    ("offset", "replacement", "message"),
    [
        (0, struct.pack("<I", 1 << 30), "claims 1073741824 bytes; with its header there are at most"),
        (0, struct.pack("<I", 2), "claims 2 bytes"),
        (0, struct.pack("<I", 4), "not smaller than what it claims"),
        (0, struct.pack("<I", SIZE), "a stream of another size"),
        (4, struct.pack("<I", 5), "which its lengths contradict"),
        (4, struct.pack("<I", 0xFFFFFFFF), "which its lengths contradict"),
        (8, b"XXXX", "cannot be expanded|another size"),
    ],
)
def test_a_lie_about_a_compressed_body_is_named(encoded, offset, replacement, message):
    frame = encoded(parse_codec("int8+zstd"), np.resize(np.float32([1, 2, 3]), SIZE))
    with pytest.raises(FrameError, match=message):
        parse_frame(changed(frame, HEADER_BYTES + offset, replacement), SIZE)


def test_a_compressed_body_is_smaller_than_what_it_holds():
    """No encoder makes others, and an empty one could carry anything."""
    stream = zstandard.ZstdCompressor().compress(b"") + bytes(800)
    header = struct.pack("<HBBBBBBIIII", 0x5050, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0)
    with pytest.raises(FrameError, match="not smaller"):
        parse_frame(header + struct.pack("<II", 0, len(stream)) + stream + bytes(-len(stream) % 4), 0)


def test_padding_behind_a_compressed_body_must_be_zero(encoded):
    frames = (encoded(parse_codec("int8+zstd"), np.arange(SIZE, dtype=np.float32) % period) for period in range(3, 99))
    frame = next(frame for frame in frames if struct.unpack_from("<I", frame, HEADER_BYTES + 4)[0] % 4)
    with pytest.raises(FrameError, match="padding is not zero"):
        parse_frame(changed(frame, len(frame) - 1, b"\x01"), SIZE)


def test_a_bitmap_with_another_count_or_beyond_the_block_is_refused(encoded):
    values = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    frame = encoded(parse_codec("topk:0.5+int8"), values)
    last = HEADER_BYTES + SIZE // 8 + 1
    with pytest.raises(FrameError, match="bitmap of 151 elements, its header says 150"):
        parse_frame(changed(frame, last, b"\x80"), SIZE)
    with pytest.raises(FrameError, match="beyond the last of 300"):
        parse_frame(changed(changed(frame, last, b"\x80"), NUM_SENT, struct.pack("<I", 151)), SIZE)


@pytest.mark.parametrize(
    ("spec", "offset", "replacement", "error"),
    [
        ("fp32", 0, struct.pack("<f", np.nan), NonFiniteError),
        ("fp32", 4, struct.pack("<f", -np.inf), NonFiniteError),
        ("fp16", 0, b"\x00\x7c", NonFiniteError),
        ("fp16", 0, b"\x01\xfc", NonFiniteError),
        ("fp16", 0, b"\xff\x7b", FrameError),
        ("fp16", 2 * SIZE, b"\x72", FrameError),
        ("fp16", 2 * SIZE, b"\x81", FrameError),
        ("fp16", 2 * SIZE + 2, b"\x01", FrameError),
        ("bf16", 0, b"\x80\x7f", NonFiniteError),
        ("bf16", 0, b"\x80\xff", NonFiniteError),
        ("int8", 5, b"\x80", FrameError),
        ("int8", SIZE, struct.pack("<f", np.inf), NonFiniteError),
        ("int8", SIZE, struct.pack("<f", np.nan), NonFiniteError),
        ("int8", SIZE, struct.pack("<f", -1.0), FrameError),
        ("int8", SIZE, struct.pack("<f", 3e38), FrameError),
    ],
)
def test_values_that_would_not_decode_to_numbers_are_refused(encoded, spec, offset, replacement, error):
    frame = encoded(parse_codec(spec), np.ones(SIZE, np.float32))
    with pytest.raises(error):
        parse_frame(changed(frame, HEADER_BYTES + offset, replacement), SIZE)


def test_a_checksum_finds_every_flipped_bit(frame):
    sealed = np.frombuffer(frame, np.uint8).copy()
    seal(sealed)
    assert outcome(sealed.tobytes()) == "decoded"
    for bit in range(8 * sealed.size):
        sealed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            parse_frame(sealed.data, SIZE)
        sealed[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("spec", SPECS)
def test_a_short_frame_that_claims_to_be_huge_allocates_nothing(spec, encoded):
    frame = encoded(parse_codec(spec), np.ones(SIZE, np.float32))
    huge = changed(frame, NUM_ELEMENTS, struct.pack("<II", MAX_ELEMENTS, MAX_ELEMENTS))
    outcome(frame)
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            parse_frame(huge, MAX_ELEMENTS)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_decoding_checks_the_array_it_is_given(frame):
    parsed = parse_frame(frame, SIZE)
    for wrong in (np.empty(SIZE - 1, np.float32), np.empty(SIZE, np.float64), np.empty(2 * SIZE, np.float32)[::2]):
        with pytest.raises(ValueError, match=r"out (has|must)"):
            parsed.decode_into(wrong)
        with pytest.raises(ValueError, match=r"accumulator (has|must)"):
            parsed.add_to(wrong)
    fixed = np.zeros(SIZE, np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="may not be written"):
        parsed.add_to(fixed)


def test_a_frame_keeps_its_bytes_alive(encoded, decoded):
    values = np.linspace(0, 1, SIZE, dtype=np.float32)
    parsed = parse_frame(encoded(parse_codec("fp32"), values), SIZE)
    out = np.empty_like(values)
    parsed.decode_into(out)
    np.testing.assert_array_equal(out, values)
