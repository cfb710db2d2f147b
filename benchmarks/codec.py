"""`pushpull bench codec`: what every codec costs on the wire, in time and in accuracy, on this machine.

Bits per element and relative errors are those of single frames without error feedback: of Gaussian numbers, of heavy-tailed
ones (Student's t, two degrees of freedom) and of the gradients of a small language model. Rates are in elements per second on
one thread, from memory, and as a share of the rate at which this machine copied the same blocks in the same rounds, both
counted in bytes moved; `codec_rates.py` says how. On a shared machine trust the shares.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ..compression.codec import Codec
from ..compression.spec import example_specs, parse_codec
from ..deploy.json_values import strict_json
from .arguments import positive
from .codec_data import Floats, gaussian, heavy_tailed, real_gradients
from .codec_errors import Cost, cost_of
from .codec_plot import PlotFile
from .codec_rates import (
    COPY_BYTES_PER_ELEMENT,
    ENCODE,
    ENCODE_PLAIN,
    NUM_BLOCKS,
    OPERATIONS,
    Extent,
    Round,
    bytes_moved,
    measure_rates,
)

Row = dict[str, object]

TABLE_COLUMNS = 200
"""Width of the table where the output is not a terminal."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    codecs: list[Codec]
    extent: Extent


def measure(options: Options) -> Row:
    """Runs everything; the object that `--json` prints."""
    extent = options.extent
    data = {
        "gaussian": gaussian(1, extent.num_elements),
        "heavy_tailed": heavy_tailed(extent.num_elements),
        "real": real_gradients(),
    }
    rounds = measure_rates(options.codecs, extent)
    copies = [each.copy_elements_per_second for of_one_codec in rounds for each in of_one_codec]
    return {
        "copy_bytes_per_second": COPY_BYTES_PER_ELEMENT * statistics.median(copies),
        "elements": extent.num_elements,
        "blocks": extent.num_blocks,
        "repetitions": extent.repetitions,
        "codecs": [_row(codec, data, mine) for codec, mine in zip(options.codecs, rounds, strict=True)],
    }


def _row(codec: Codec, data: dict[str, list[Floats]], rounds: list[Round]) -> Row:
    costs = {name: cost_of(codec, blocks) for name, blocks in data.items()}
    gaussian_cost = costs["gaussian"]
    return {
        "codec": codec.spec,
        "bits_per_element": gaussian_cost.bits_per_element,
        "bits_per_kept_element": gaussian_cost.bits_per_kept_element,
        "error_feedback": ENCODE in rounds[0].elements_per_second,
        **_rates(gaussian_cost, rounds),
        **{f"error_{name}": cost.relative_error for name, cost in costs.items()},
        **{f"bits_per_element_{name}": cost.bits_per_element for name, cost in costs.items()},
    }


def _rates(cost: Cost, rounds: list[Round]) -> Row:
    """Medians. `encode` is with error feedback where the codec is used with it, else plain."""
    row: Row = {}
    for operation in OPERATIONS:
        measured = operation if operation in rounds[0].elements_per_second else ENCODE_PLAIN
        rates = [each.elements_per_second[measured] for each in rounds]
        to_copy = bytes_moved(measured, cost) / COPY_BYTES_PER_ELEMENT
        shares = [rate * to_copy / each.copy_elements_per_second for rate, each in zip(rates, rounds, strict=True)]
        row[f"{operation}_elements_per_second"] = statistics.median(rates)
        row[f"{operation}_share_of_copy"] = statistics.median(shares)
    return row


def _print(result: Row, console: Console) -> None:
    if not console.is_terminal:
        console.width = TABLE_COLUMNS
    table = Table(
        title=f"{result['blocks']} blocks of {result['elements']:,} elements, one thread; "
        f"a copy moves {_giga(result['copy_bytes_per_second'])} GB/s",
        caption="Rates in G elements/s (share of the copy, in bytes moved). EF: with error feedback. "
        "Errors: ||D - x|| / ||x|| of one frame.",
    )
    table.add_column("codec", no_wrap=True)
    headings = ("bits", "bits/kept", "encode, EF", "encode", "check", "decode", "decode + add", "sum")
    for heading in (*headings, "error: Gaussian", "heavy-tailed", "real"):
        table.add_column(heading, justify="right")
    for row in result["codecs"]:  # type: ignore[attr-defined]
        rates = [_rate(row, operation) for operation in OPERATIONS]
        kept = row["bits_per_kept_element"]
        table.add_row(
            row["codec"],
            f"{row['bits_per_element']:.3f}",
            "" if kept is None else f"{kept:.1f}",
            *(rates if row["error_feedback"] else ["", *rates[1:]]),
            *(f"{row[f'error_{name}']:.2e}" for name in ("gaussian", "heavy_tailed", "real")),
        )
    console.print(table)


def _rate(row: Row, operation: str) -> str:
    return f"{_giga(row[f'{operation}_elements_per_second'])} ({row[f'{operation}_share_of_copy']:.2f})"


def _giga(rate: object) -> str:
    return f"{float(rate) / 1e9:.3g}"  # type: ignore[arg-type]


def main(argv: Sequence[str]) -> int:
    """Entry point of `pushpull bench codec`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="pushpull bench codec", description=__doc__)
    parser.add_argument("--codecs", default=",".join(example_specs()), help="specifications, separated by commas")
    parser.add_argument("--elements", type=positive, default=1 << 20, help="elements of a block")
    parser.add_argument("--blocks", type=positive, default=NUM_BLOCKS, help="different blocks; 1 stays in the caches")
    parser.add_argument("--repetitions", type=positive, default=5, help="alternating rounds; medians are reported")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw error against bits (.svg, .png, .pdf)")
    arguments = parser.parse_args(argv)
    extent = Extent(num_elements=arguments.elements, num_blocks=arguments.blocks, repetitions=arguments.repetitions)
    options = Options([parse_codec(spec.strip()) for spec in arguments.codecs.split(",")], extent)
    plot = None if arguments.plot is None else PlotFile(arguments.plot)
    torch.set_num_threads(1)
    with Console(stderr=True).status(f"Measuring {len(options.codecs)} codecs ..."):
        result = measure(options)
    _print(result, Console(stderr=arguments.json))
    if plot is not None:
        plot.draw(result["codecs"])  # type: ignore[arg-type]
    if arguments.json:
        print(strict_json(result))
    return 0
