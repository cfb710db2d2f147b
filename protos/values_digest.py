"""Digests of a model's values, by which two processes tell whether they hold the same without sending them."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 8


def block_digest(block: int, values: NDArray[np.float32]) -> int:
    """Of the values of one block, float32 [n]: 64 bits. Those of all blocks of a parameter make its own by exclusive or."""
    little_endian = np.ascontiguousarray(values, dtype="<f4")
    hashed = hashlib.blake2b(little_endian.data, digest_size=DIGEST_BYTES, salt=block.to_bytes(8, "little"))
    return int.from_bytes(hashed.digest(), "little")


def values_checksum(digests: Sequence[int]) -> str:
    """One short text for all parameters, for people to compare; empty if there are none."""
    if not digests:
        return ""
    joined = b"".join(digest.to_bytes(DIGEST_BYTES, "little") for digest in digests)
    return hashlib.blake2b(joined, digest_size=4).hexdigest()


def differing(mine: Iterable[int], theirs: Iterable[int]) -> list[int]:
    """Places at which two lists of digests differ, one for each parameter."""
    return [place for place, (own, other) in enumerate(zip(mine, theirs, strict=True)) if own != other]
