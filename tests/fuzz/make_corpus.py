"""Writes the seeds of fuzz_frames.py anew: small frames of every codec, and the edges of what a reader is told.

    python tests/fuzz/make_corpus.py                    # after a change of codecs

What the fuzzer found (`found-*`) stays, unless it is replaced like this, which leaves one small input for each way
through the reader:

    mkdir -p build/least
    python tests/fuzz/fuzz_frames.py -merge=1 build/least tests/fuzz/corpus build/fuzz
    python tests/fuzz/make_corpus.py --found build/least
"""

import argparse
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from fuzz_frames import MISALIGNED, SEALED, SIZE_OF_HEADER, SIZES
from valid_frames import encode_frame

from pushpull.compression.spec import example_specs

CORPUS = Path(__file__).parent / "corpus"
MOST_BYTES = 2048
"""A seed is small: the fuzzer takes its time for every byte."""
_FOUND = "found-"
_BITMAP_SPEC = "topk:0.4+int8"


def seeds() -> dict[str, bytes]:
    """Inputs by file name."""
    found = _edges()
    for spec in [*example_specs(), _BITMAP_SPEC]:
        for size in (33, 257):
            found[f"{spec}-{size}"] = bytes([SIZES.index(size)]) + encode_frame(spec, size, "normal").contents
    return {re.sub(r"[^a-z0-9.+-]", "-", name): seed for name, seed in found.items() if len(seed) <= MOST_BYTES}


def _edges() -> dict[str, bytes]:
    sparse = encode_frame("topk:0.01+int8", 5000, "heavy").contents
    return {
        "empty": b"",
        "no-elements": bytes([SIZES.index(0)]) + encode_frame("fp16", 0, "zeros").contents,
        "one-element": bytes([SIZES.index(1)]) + encode_frame("int8", 1, "normal").contents,
        "many-gaps": bytes([SIZE_OF_HEADER]) + sparse,
        "sealed": bytes([SIZE_OF_HEADER | SEALED]) + sparse,
        "misaligned": bytes([SIZE_OF_HEADER | MISALIGNED]) + sparse,
        "subnormal": bytes([SIZES.index(256)]) + encode_frame("int8", 256, "subnormal").contents,
        "rows-of-signs": bytes([SIZES.index(256)]) + encode_frame("sign", 256, "rows").contents,
        "rows-of-vectors": bytes([SIZES.index(256)]) + encode_frame("vq:2x16", 256, "rows").contents,
        "huge": bytes([SIZES.index(256)]) + encode_frame("fp16", 256, "huge").contents,
    }


def write_seeds(corpus: Path) -> None:
    """Replace the seeds, and leave what was found."""
    _remove(corpus, lambda name: not name.startswith(_FOUND))
    for name, seed in seeds().items():
        (corpus / name).write_bytes(seed)


def take_over(found: Path, corpus: Path) -> None:
    """Replace what was found by the inputs of a folder that are not among the seeds."""
    inputs = {path.read_bytes() for path in found.iterdir()}
    _remove(corpus, lambda name: name.startswith(_FOUND))
    for data in inputs - {path.read_bytes() for path in corpus.iterdir()}:
        if len(data) <= MOST_BYTES:
            (corpus / (_FOUND + hashlib.sha256(data).hexdigest()[:8])).write_bytes(data)


def _remove(corpus: Path, is_old: Callable[[str], bool]) -> None:
    for path in corpus.iterdir():
        if is_old(path.name):
            path.unlink()


def main() -> None:
    """The command of this file."""
    parser = argparse.ArgumentParser(description="Writes the seeds of the fuzzer anew.")
    parser.add_argument("--found", type=Path, metavar="FOLDER", help="what the fuzzer found, to replace what it had")
    options = parser.parse_args()
    write_seeds(CORPUS)
    if options.found is not None:
        take_over(options.found, CORPUS)
    print(f"{len(list(CORPUS.iterdir()))} inputs in {CORPUS}")


if __name__ == "__main__":
    main()
