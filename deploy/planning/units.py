"""Sizes and rates as people write them: 24GiB, 10Gbit/s, 64GB/s. Pure."""

import re

_PREFIXES = {
    "": 1,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?)\s*([kKMGT]i?)?B?")
_RATE = re.compile(r"([0-9]+(?:\.[0-9]*)?)\s*([kKMGT]i?)?(bit|B)/s")


def size_bytes(text: object) -> int:
    """Bytes of a size such as 24GiB, 500MB or a plain number.

    Raises:
        ValueError: says what a size looks like.
    """
    match = _SIZE.fullmatch(str(text).strip())
    if match is None:
        raise ValueError("it should be a size, for example 24GiB or 500MB")
    return round(float(match[1]) * _PREFIXES[match[2] or ""])


def rate_bytes_per_second(text: object) -> float:
    """Bytes per second of a rate such as 10Gbit/s or 64GB/s.

    Raises:
        ValueError: says what a rate looks like.
    """
    match = _RATE.fullmatch(str(text).strip())
    if match is None:
        raise ValueError("it should be a rate, for example 10Gbit/s or 64GB/s")
    return float(match[1]) * _PREFIXES[match[2] or ""] / (8 if match[3] == "bit" else 1)


def in_rate(bytes_per_second: float) -> str:
    """For example 10 Gbit/s."""
    bits = 8 * bytes_per_second
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if bits < 1000:
            return f"{bits:.3g} {unit}"
        bits /= 1000
    return f"{bits:.3g} Gbit/s"


def in_seconds(seconds: float) -> str:
    """For example 12 ms."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
