"""`pushpull bench exchange`: push + AdamW on the servers + pull, beside gloo all-reduce with and without AdamW.

Two workers and two shards against two ranks, all on this machine, one thread per process. Repetitions alternate, so that a
machine whose speed drifts treats all alike; medians are reported, and ratios within one run are what to trust.
"""

import argparse
import secrets
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Listener
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..compression.encoder_spec import parse_pull_codec
from ..compression.parameter_encoders import parse_parameter_encoders
from ..deploy.json_values import strict_json
from ..protos.errors import SettingError
from .arguments import positive
from .measured_processes import Entrance, peers
from .shapes import elements, transformer

CODEC_PAIRS = ("fp32/fp32", "fp16/fp16", "bf16/bf16", "int8/bf16", "int8/int8", "topk:0.01+int8/bf16")
NUM_PEERS = 2


@dataclass(frozen=True)
class Options:
    """What to measure."""

    num_elements: int
    repetitions: int
    steps: int
    codecs: tuple[str, ...]


def measure(options: Options) -> dict[str, object]:
    """Runs everything; the object that `--json` prints."""
    key = secrets.token_bytes(16)
    gloo_times: list[float] = []
    gloo_adamw_times: list[float] = []
    codecs: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder, Listener(("127.0.0.1", 0), authkey=key) as control:
        host, port = control.address
        common = ["--elements", str(options.num_elements), "--control", f"{host}:{port}", "--key", key.hex()]
        entrance = Entrance(control)
        gloo = {
            f"gloo rank {rank}": [
                sys.executable,
                str(Path(__file__).parent / "scripts" / "gloo_rank.py"),
                *common,
                *("--rank", str(rank), "--store", f"{folder}/store"),
            ]
            for rank in range(NUM_PEERS)
        }
        with peers(gloo, entrance, NUM_PEERS) as ranks:
            ranks.seconds((True, 1))
            for pair in options.codecs:
                with peers({f"pushpull launch ({pair})": _launch(pair, common)}, entrance, NUM_PEERS) as workers:
                    workers.seconds(2)
                    times, alone, followed = [], [], []
                    for _ in range(options.repetitions):
                        alone.append(ranks.seconds((False, options.steps)))
                        followed.append(ranks.seconds((True, options.steps)))
                        times.append(workers.seconds(options.steps))
                    workers.end(0)
                gloo_times += alone
                gloo_adamw_times += followed
                ratios = [reference / mine for reference, mine in zip(followed, times, strict=True)]
                codecs.append(
                    {
                        "codec": pair,
                        "elements_per_second": _rate(options, times),
                        "share_of_gloo_adamw": statistics.median(ratios),
                    }
                )
            ranks.end((False, 0))
    return {
        "elements": _num_elements(options),
        "repetitions": options.repetitions,
        "gloo_elements_per_second": _rate(options, gloo_times),
        "gloo_adamw_elements_per_second": _rate(options, gloo_adamw_times),
        "codecs": codecs,
    }


def _rate(options: Options, seconds: Sequence[float]) -> float:
    return _num_elements(options) * options.steps / statistics.median(seconds)


def _num_elements(options: Options) -> int:
    """That are exchanged: a transformer of about as many as were asked for, and never a tiny one."""
    return sum(elements(shape) for _, shape in transformer(options.num_elements))


def _launch(pair: str, common: Sequence[str]) -> list[str]:
    push, pull = pair.split("/")
    return [
        *(sys.executable, "-m", "pushpull.deploy.cli", "launch"),
        *("--servers", "2", "--workers", str(NUM_PEERS)),
        *("--set", f"push_codec={push}", "--set", f"pull_codec={pull}"),
        str(Path(__file__).parent / "scripts" / "exchange_worker.py"),
        *common,
    ]


def _print(result: dict[str, object], console: Console) -> None:
    table = Table(title=f"Exchange of {result['elements']:,} parameters, 2 workers, 2 shards, this machine")
    table.add_column("push/pull codec")
    table.add_column("G elements/s", justify="right")
    table.add_column("of gloo + AdamW", justify="right")
    for name in ("gloo", "gloo_adamw"):
        table.add_row(name.replace("_", " + "), f"{result[f'{name}_elements_per_second'] / 1e9:.3f}", "")  # type: ignore[operator]
    for row in result["codecs"]:  # type: ignore[attr-defined]
        table.add_row(row["codec"], f"{row['elements_per_second'] / 1e9:.3f}", f"{row['share_of_gloo_adamw']:.2f}")
    console.print(table)


def _pair(text: str) -> str:
    push, slash, pull = text.partition("/")
    if not slash:
        raise SettingError(f"--codecs: {text!r} is no pair; write PUSH/PULL, for example int8/bf16.")
    parse_parameter_encoders(push)
    parse_pull_codec(pull)
    return text


def main(argv: Sequence[str]) -> int:
    """Entry point of `pushpull bench exchange`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="pushpull bench exchange", description=__doc__)
    parser.add_argument("--elements", type=positive, default=25_000_000, help="parameters of the model")
    parser.add_argument("--repetitions", type=positive, default=5, help="alternating repetitions; medians are reported")
    parser.add_argument("--steps", type=positive, default=3, help="steps in a repetition")
    parser.add_argument("--codecs", default=",".join(CODEC_PAIRS), help="push/pull pairs, separated by commas")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args(argv)
    pairs = tuple(_pair(text.strip()) for text in arguments.codecs.split(","))
    options = Options(arguments.elements, arguments.repetitions, arguments.steps, pairs)
    result = measure(options)
    _print(result, Console(stderr=arguments.json))
    if arguments.json:
        print(strict_json(result))
    return 0
