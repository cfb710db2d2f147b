"""Compiles every kernel ahead: `python -m pushpull.deploy.precompile`, for images and shared installations.

The kernels are kept beside the sources if that folder may be written, and found there by users who may only read it. They
are for the processor that the variables NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name, or else for this machine's; on any other
they are compiled again when a job starts.
"""

import time

from ..compression.encoder_spec import MEMORIES, parse_encoder
from ..compression.kernels import CACHE_FOLDER
from ..compression.spec import example_specs
from ..ps_server import message_parts
from ..ps_server.optimizers import slots


def compile_all() -> None:
    """Compiles what any codec, any memory, 8-bit optimizer state and a server's doors need, or finds it compiled."""
    for spec in (*example_specs(), *(family.example for family in MEMORIES)):
        parse_encoder(spec).warm_up()
    slots.warm_up()
    message_parts.warm_up()


def main() -> None:
    """Entry point."""
    started = time.monotonic()
    compile_all()
    print(f"Every kernel is compiled, in {time.monotonic() - started:.1f} s; those of codecs are in {CACHE_FOLDER}.")


if __name__ == "__main__":
    main()
