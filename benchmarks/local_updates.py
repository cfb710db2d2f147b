"""`python -m pushpull.benchmarks.local_updates`: what pushing once in 20 local steps costs in loss, and saves in bytes.

Trains `examples/char_gpt.py` with real servers, two workers, the same samples, learning rate and push codec in every run.
Prints Markdown; docs/local-updates.md holds its output. A run of 400 steps takes half a minute on two idle cores.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..protos.errors import PushpullError
from .arguments import positive
from .convergence_tables import table
from .convergence_training import CHAR_GPT, launch

PUSH_CODEC = "int8"
LOCAL_STEPS = 20


@dataclass(frozen=True)
class Variant:
    """A way to train."""

    name: str
    arguments: tuple[str, ...] = ()


def outer(name: str, learning_rate: float, momentum: float) -> Variant:
    """Local updates with this optimizer on the servers."""
    return Variant(
        f"{name}: outer rate {learning_rate:g}, momentum {momentum:g}",
        (
            *("--local-steps", str(LOCAL_STEPS)),
            *("--outer-lr", str(learning_rate), "--outer-momentum", str(momentum)),
        ),
    )


EVERY_STEP = Variant("a push every step")
AVERAGING = outer("local SGD", 1.0, 0.0)
GENTLE_DILOCO = outer("DiLoCo", 0.7, 0.5)
"""Momentum for runs of tens of rounds: the published one remembers ten of them."""
PUBLISHED_DILOCO = outer("DiLoCo, as published", 0.7, 0.9)
VARIANTS = (EVERY_STEP, AVERAGING, GENTLE_DILOCO, PUBLISHED_DILOCO)


@dataclass(frozen=True)
class Run:
    """How a run ended; bytes of both workers together."""

    validation_loss: float
    bytes_pushed: int
    bytes_pulled: int
    num_rounds: int


def run(variant: Variant, num_steps: int, seed: int = 0) -> Run:
    """Trains with real servers.

    Raises:
        PushpullError: the run failed.
    """
    arguments = (*CHAR_GPT.arguments, "--validate-every", str(num_steps), *variant.arguments)
    experiment = replace(CHAR_GPT, num_steps=num_steps, arguments=arguments)
    with tempfile.TemporaryDirectory() as folder:
        summary = launch(experiment, experiment.case(PUSH_CODEC, seed), Path(folder) / "history.json")
    if not summary["success"]:
        raise PushpullError(f"{variant.name} failed: {summary['error']}")
    return Run(
        validation_loss=summary["metrics"]["validation_loss"],
        bytes_pushed=summary["bytes_pushed"],
        bytes_pulled=summary["bytes_pulled"],
        num_rounds=summary["rounds"],
    )


def comparison(runs: dict[Variant, list[Run]]) -> str:
    """One row for each variant, the first of which is what the others are compared with; all have the same seeds."""
    reference = statistics.mean(run.validation_loss for run in next(iter(runs.values())))
    rows = []
    for variant, own in runs.items():
        loss = statistics.mean(run.validation_loss for run in own)
        rows.append(
            [
                variant.name,
                str(own[0].num_rounds),
                f"{loss:.4f}",
                f"{loss / reference - 1:+.1%}",
                f"{statistics.mean(run.bytes_pushed for run in own):,.0f}",
                f"{statistics.mean(run.bytes_pulled for run in own):,.0f}",
            ]
        )
    return table(["training", "rounds", "validation loss", "against it", "bytes pushed", "bytes pulled"], rows)


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pushpull.benchmarks.local_updates", description=__doc__)
    parser.add_argument("--steps", type=positive, default=400, help="local steps of each worker")
    parser.add_argument("--seeds", type=positive, default=1, help="runs of each training")
    arguments = parser.parse_args(argv)
    runs: dict[Variant, list[Run]] = {}
    for variant in VARIANTS:
        for seed in range(arguments.seeds):
            runs.setdefault(variant, []).append(run(variant, arguments.steps, seed))
            print(f"{variant.name}, seed {seed}: {runs[variant][-1]}", file=sys.stderr, flush=True)
    print(comparison(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
