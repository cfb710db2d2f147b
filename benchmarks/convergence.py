"""`python -m pushpull.benchmarks.convergence`: what each codec costs in accuracy, and what error feedback is for.

Prints Markdown; docs/convergence.md holds its output. `logistic` and `signs` take seconds, the others
train with real servers and take half a minute a run: `--results` keeps finished runs, so that an interrupted
benchmark goes on where it stopped.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..deploy.json_values import strict_json
from .arguments import positive
from .convergence_logistic import Descent, descend, synthetic_problem
from .convergence_signs import NarrowValley, RareLargeGradients, Walk, walk
from .convergence_tables import logistic_table, signs_table, training_table
from .convergence_training import CHAR_GPT, CHAR_GPT_SGD, DIGITS, EXACT, Experiment, Results, Training

LOGISTIC_METHODS = {
    "full SGD": "fp32",
    "top-1, memory": "topk:0.005+fp32",
    "random-1, memory": "randk:0.005:unscaled+fp32",
    "top-1, no memory": "none+topk:0.005+fp32",
}
"""One of 200 coordinates is sent in a step."""

SIGN_METHODS = {
    "sign, error feedback": ("sign", False),
    "sign, no memory": ("none+sign", False),
    "signSGD: fixed length, no memory": ("none+sign", True),
}
"""Push codec, and whether only the signs of what arrives count."""

NUM_NOISE_SEEDS = 3
"""Runs of fp32 at least: what their results differ by is no codec's doing."""


@dataclass(frozen=True)
class Options:
    """What to run."""

    codecs: tuple[str, ...]
    """Push codecs of the trainings; if empty, members of every family."""
    num_seeds: int
    results: Path
    plots: Path | None


def logistic(options: Options) -> tuple[str, object]:
    """Markdown and an object for `--json`."""
    problem = synthetic_problem()
    descents: dict[str, Descent] = {name: descend(problem, spec) for name, spec in LOGISTIC_METHODS.items()}
    smallest = problem.smallest_loss()
    measured = {name: asdict(descent) for name, descent in descents.items()}
    return logistic_table(descents, smallest), {"smallest_loss": smallest, "methods": measured}


def signs(options: Options) -> tuple[str, object]:
    """Markdown and an object for `--json`."""
    walks: dict[tuple[str, str], Walk] = {
        (problem.name, method): walk(problem, spec, fixed_length=fixed_length)
        for problem in (RareLargeGradients(), NarrowValley())
        for method, (spec, fixed_length) in SIGN_METHODS.items()
    }
    return signs_table(walks), [
        {"problem": problem, "method": method, **asdict(end)} for (problem, method), end in walks.items()
    ]


def training(experiment: Experiment) -> Callable[[Options], tuple[str, object]]:
    """A part that trains with real servers."""
    return lambda options: _trainings(experiment, options)


PARTS: dict[str, Callable[[Options], tuple[str, object]]] = {
    "logistic": logistic,
    "signs": signs,
    **{experiment.name: training(experiment) for experiment in (DIGITS, CHAR_GPT, CHAR_GPT_SGD)},
}


def _trainings(experiment: Experiment, options: Options) -> tuple[str, object]:
    cases = [
        experiment.case(codec, seed)
        for codec in dict.fromkeys((EXACT, *(options.codecs or experiment.encoders)))
        for seed in range(max(options.num_seeds, NUM_NOISE_SEEDS) if codec == EXACT else options.num_seeds)
    ]
    trainings: list[Training] = []
    for run in Results(options.results).of(experiment, cases):
        case, end = run.case, run.error or run.metrics
        print(f"{case.experiment} {case.codec} seed {case.seed}: {end}", file=sys.stderr, flush=True)
        trainings.append(run)
    if options.plots is not None:
        from .convergence_plots import plot_training

        options.plots.mkdir(parents=True, exist_ok=True)
        plot_training(experiment, trainings, options.plots / f"convergence_{experiment.name}.svg")
    return training_table(trainings, experiment.metrics), [asdict(run) for run in trainings]


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pushpull.benchmarks.convergence", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", default=list(PARTS), help=f"of {', '.join(PARTS)}; or all")
    parser.add_argument("--codecs", default="", help="push codecs, separated by commas; else every family")
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each training; fp32 has 3 at least")
    parser.add_argument("--results", type=Path, help="file that keeps the runs; without it they are forgotten")
    parser.add_argument("--plots", type=Path, help="folder for plots; needs matplotlib")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of Markdown")
    arguments = parser.parse_args(argv)
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        results = arguments.results or Path(folder) / "results.jsonl"
        options = Options(tuple(filter(None, arguments.codecs.split(","))), arguments.seeds, results, arguments.plots)
        measured: dict[str, object] = {}
        for part in arguments.parts:
            text, measured[part] = PARTS[part](options)
            if not arguments.json:
                print(f"## {part}\n\n{text}\n")
    if arguments.json:
        print(strict_json(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
