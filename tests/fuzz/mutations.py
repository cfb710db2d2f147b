"""Kinds of damage to frames: each changes a draft in place, with no source of chance but its `rng`."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import zstandard
from draft import (
    BITMAP,
    COMPRESSED_FLAG,
    FIELDS,
    GAPS,
    HEADER_BYTES,
    RUN,
    WORDS,
    Draft,
    another_number,
    below,
    between,
    damage_bytes,
    overwrite,
    pick,
)

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LENGTHS_BYTES = 8
_MOST_INNER_BYTES = 1 << 16
_BOMBS = tuple((1 << log2, zstandard.compress(bytes(1 << log2), 1)) for log2 in (10, 16, 20, 27))
"""Zeros that expand to a kilobyte, and to many times any block of the pool: their size, and they."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """A kind of damage; drawn in proportion to `weight`."""

    name: str
    apply: Callable[[Random, Draft], None]
    weight: int


def _leave(rng: Random, draft: Draft) -> None:
    """No damage: these frames must be accepted."""


def _truncate(rng: Random, draft: Draft) -> None:
    length = len(draft.contents)
    cut = pick(rng, (below(rng, length), below(rng, HEADER_BYTES + 1), max(0, length - 1 - below(rng, 16))))
    del draft.contents[cut:]


def _extend(rng: Random, draft: Draft) -> None:
    piece = pick(rng, (bytes(1 + below(rng, 16)), rng.randbytes(1 + below(rng, 64)), draft.pool.draw(rng).contents))
    place = pick(rng, (len(draft.contents), len(draft.contents), 0, between(rng, HEADER_BYTES, len(draft.contents))))
    draft.contents[place:place] = piece


def _flip_bits(rng: Random, draft: Draft) -> None:
    for _ in range(1 + below(rng, 4)):
        bit = below(rng, 8 * len(draft.contents))
        draft.contents[bit // 8] ^= 1 << bit % 8


def _flip_header_bit(rng: Random, draft: Draft) -> None:
    bit = below(rng, 8 * HEADER_BYTES)
    draft.contents[bit // 8] ^= 1 << bit % 8


def _overwrite(rng: Random, draft: Draft) -> None:
    for _ in range(1 + below(rng, 3)):
        damage_bytes(rng, draft.contents, 0, len(draft.contents))


def _random_body(rng: Random, draft: Draft) -> None:
    draft.contents[HEADER_BYTES:] = rng.randbytes(len(draft.contents) - HEADER_BYTES)


def _move_words(rng: Random, draft: Draft) -> None:
    """Take a few words of the body out, and put them back elsewhere, twice, or not at all."""
    start = between(rng, HEADER_BYTES, len(draft.contents)) & ~3
    piece = bytes(draft.contents[start : start + 4 * (1 + below(rng, 8))])
    del draft.contents[start : start + len(piece)]
    for _ in range(pick(rng, (0, 1, 1, 1, 2))):
        place = between(rng, HEADER_BYTES, len(draft.contents) + 1) & ~3
        draft.contents[place:place] = piece


def _lie(field: str, rng: Random, draft: Draft) -> None:
    draft.set_field(field, another_number(rng, draft.field(field)))


def _lie_to_reader_too(rng: Random, draft: Draft) -> None:
    """The reader expects as many elements as the header claims: only the sections can give the lie away."""
    _lie("num_elements", rng, draft)
    draft.num_elements = draft.field("num_elements")
    if rng.random() < 0.3:
        draft.set_field("num_sent", draft.num_elements)


def _lie_to_reader_alone(rng: Random, draft: Draft) -> None:
    draft.num_elements = another_number(rng, draft.num_elements) & 0xFFFFFFFF


def _lie_and_resize(rng: Random, draft: Draft) -> None:
    """Other counts, and a body that is longer or shorter by a few words."""
    _lie(pick(rng, ("num_sent", "num_elements", "parameter")), rng, draft)
    draft.num_elements = draft.field("num_elements")
    words = 1 + below(rng, 8)
    if rng.random() < 0.5:
        draft.contents.extend(bytes(4 * words))
    else:
        del draft.contents[max(HEADER_BYTES, len(draft.contents) - 4 * words) :]


def _damage_index(rng: Random, draft: Draft) -> None:
    """Where there is no index, here and below, the header claims one."""
    if not draft.field("index"):
        return _swap_header_fields(rng, draft)
    for _ in range(1 + below(rng, 2)):
        damage_bytes(rng, draft.contents, HEADER_BYTES, draft.index_end())


def _damage_widths(rng: Random, draft: Draft) -> None:
    if draft.field("index") != GAPS or len(draft.contents) <= HEADER_BYTES:
        return _damage_index(rng, draft)
    runs = -(-draft.field("num_sent") // RUN)
    place = min(HEADER_BYTES + below(rng, runs), len(draft.contents) - 1)
    width = draft.contents[place]
    draft.contents[place] = pick(rng, ((width + 1) % 256, max(0, width - 1), 32, 33, 0, below(rng, 256)))


def _damage_gaps(rng: Random, draft: Draft) -> None:
    """Other gaps, most of them larger: positions beyond the block."""
    if draft.field("index") != GAPS:
        return _damage_index(rng, draft)
    start = HEADER_BYTES + (-(-draft.field("num_sent") // RUN) + 3 & ~3)
    overwrite(draft.contents, between(rng, start, start + 64) & ~3, struct.pack("<I", pick(rng, WORDS)))


def _move_bitmap_bit(rng: Random, draft: Draft) -> None:
    """Another element; if the count follows, perhaps one more or one less."""
    if draft.field("index") != BITMAP or draft.index_end() <= HEADER_BYTES:
        return _damage_index(rng, draft)
    changes = 0
    for _ in range(2):
        bit = between(rng, 8 * HEADER_BYTES, 8 * draft.index_end())
        draft.contents[bit // 8] ^= 1 << bit % 8
        changes += 1 if draft.contents[bit // 8] >> bit % 8 & 1 else -1
    if rng.random() < 0.5:
        draft.set_field("num_sent", max(0, draft.field("num_sent") + changes))


def _damage_values(rng: Random, draft: Draft) -> None:
    for _ in range(1 + below(rng, 3)):
        damage_bytes(rng, draft.contents, draft.index_end(), len(draft.contents))


def _damage_ends(rng: Random, draft: Draft) -> None:
    """Scales, exponents, codebooks and padding stand at the ends of sections."""
    words = (len(draft.contents) - HEADER_BYTES) // 4
    near = below(rng, min(words, 1 + len(draft.contents) // 128))
    word = near if rng.random() < 0.25 else words - 1 - near
    overwrite(draft.contents, HEADER_BYTES + 4 * max(0, word), struct.pack("<I", pick(rng, WORDS)))


def _splice(rng: Random, draft: Draft) -> None:
    """The front of one frame before the back of another."""
    other = draft.pool.draw(rng).contents
    place = pick(rng, (HEADER_BYTES, draft.index_end(), between(rng, 1, len(draft.contents))))
    back = pick(rng, (HEADER_BYTES, place, max(0, len(other) - (len(draft.contents) - place))))
    draft.contents[place:] = other[back:]


def _swap_header_fields(rng: Random, draft: Draft) -> None:
    """Some fields say what those of another frame say."""
    other = draft.pool.draw(rng).contents
    for _ in range(1 + below(rng, 3)):
        offset, layout = FIELDS[pick(rng, ("flags", "selection", "values", "index", "parameter", "num_sent", "seed"))]
        size = struct.calcsize(layout)
        draft.contents[offset : offset + size] = other[offset : offset + size]


def _damage_inside_compression(rng: Random, draft: Draft) -> None:
    """Damage what a compressed frame holds, and compress it again; other frames are compressed in the same way."""
    inner = _inner(draft)
    if rng.random() < 0.2:
        del inner[below(rng, len(inner)) :]
    elif rng.random() < 0.2:
        inner += rng.randbytes(1 + below(rng, 64))
    else:
        damage_bytes(rng, inner, 0, len(inner))
    _set_compressed(draft, len(inner), zstandard.compress(bytes(inner), 1))


def _bomb(rng: Random, draft: Draft) -> None:
    """A compressed frame that grows, or claims to grow, far beyond its block."""
    inner = bytes(_inner(draft))
    size, packed = pick(rng, _BOMBS)
    claim = pick(rng, (size, len(inner), another_number(rng, len(inner)) & 0xFFFFFFFF))
    if rng.random() < 0.5:
        return _set_compressed(draft, claim, packed)
    # Descriptor of a single segment whose content size, which follows, takes eight bytes.
    content_size = pick(rng, (claim, claim, 2**40, 2**64 - 1))
    header = _ZSTD_MAGIC + struct.pack("<BQ", 0b1110_0000, content_size)
    _set_compressed(draft, claim, header + packed[below(rng, 16) :])


def _lie_about_compression(rng: Random, draft: Draft) -> None:
    """Lengths of compressed sections, or the stream's own descriptor and content size."""
    inner = _inner(draft)
    _set_compressed(draft, len(inner), zstandard.compress(bytes(inner), 1))
    kind = below(rng, 4)
    if kind < 2:
        place = HEADER_BYTES + 4 * kind
        (length,) = struct.unpack_from("<I", draft.contents, place)
        overwrite(draft.contents, place, struct.pack("<I", another_number(rng, length) & 0xFFFFFFFF))
    else:
        start = HEADER_BYTES + _LENGTHS_BYTES
        damage_bytes(rng, draft.contents, start, min(len(draft.contents), start + 10))


def _inner(draft: Draft) -> bytearray:
    """The sections of a frame, expanded if they are compressed; nothing, if they are too damaged for that."""
    if not draft.field("flags") & COMPRESSED_FLAG:
        return draft.contents[HEADER_BYTES:]
    packed = bytes(draft.contents[HEADER_BYTES + _LENGTHS_BYTES :])
    try:
        if zstandard.frame_content_size(packed) > _MOST_INNER_BYTES:
            return bytearray()
        return bytearray(zstandard.decompress(packed, max_output_size=_MOST_INNER_BYTES))
    except zstandard.ZstdError:
        return bytearray()


def _set_compressed(draft: Draft, num_bytes: int, packed: bytes) -> None:
    """A body that says it expands to `num_bytes`, laid out as compression/entropy.py documents."""
    draft.set_field("flags", draft.field("flags") | COMPRESSED_FLAG)
    draft.contents[HEADER_BYTES:] = struct.pack("<II", num_bytes, len(packed)) + packed
    draft.contents.extend(bytes(-len(packed) % 4))


MUTATIONS = (
    Mutation("nothing", _leave, 2),
    Mutation("truncate", _truncate, 8),
    Mutation("extend", _extend, 6),
    Mutation("flip bits", _flip_bits, 4),
    Mutation("flip a header bit", _flip_header_bit, 6),
    Mutation("overwrite", _overwrite, 5),
    Mutation("random body", _random_body, 3),
    Mutation("move words", _move_words, 3),
    *(Mutation(f"lie: {field}", partial(_lie, field), 2) for field in FIELDS if not field.startswith("num_")),
    Mutation("lie: num_elements", partial(_lie, "num_elements"), 4),
    Mutation("lie: num_sent", partial(_lie, "num_sent"), 8),
    Mutation("lie to the reader too", _lie_to_reader_too, 8),
    Mutation("lie to the reader alone", _lie_to_reader_alone, 2),
    Mutation("lie and resize", _lie_and_resize, 8),
    Mutation("damage the index", _damage_index, 6),
    Mutation("damage widths", _damage_widths, 6),
    Mutation("damage gaps", _damage_gaps, 6),
    Mutation("move a bit of a bitmap", _move_bitmap_bit, 4),
    Mutation("damage values", _damage_values, 2),
    Mutation("damage ends of sections", _damage_ends, 4),
    Mutation("splice two frames", _splice, 8),
    Mutation("swap header fields", _swap_header_fields, 8),
    Mutation("damage inside compression", _damage_inside_compression, 4),
    Mutation("bomb", _bomb, 3),
    Mutation("lie about compression", _lie_about_compression, 4),
)
