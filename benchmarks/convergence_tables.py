"""What the runs of the convergence benchmark say, as Markdown. Pure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .convergence_logistic import Descent
from .convergence_signs import Walk
from .convergence_training import EXACT, Training


def table(header: Sequence[str], rows: Iterable[Sequence[str]], num_names: int = 1) -> str:
    """A Markdown table; all columns behind the first `num_names` are figures."""
    lines = [header, ["---"] * num_names + ["---:"] * (len(header) - num_names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def logistic_table(descents: Mapping[str, Descent], smallest_loss: float) -> str:
    """One row for each run, by name; losses are above the smallest one there is."""
    num_epochs = len(next(iter(descents.values())).losses)
    return table(
        ["method", "bytes per step", *(f"epoch {epoch + 1}" for epoch in range(num_epochs)), "above the optimum"],
        [
            [name, f"{run.bytes_per_step:.0f}", *map(_figure, run.losses), _figure(run.losses[-1] - smallest_loss)]
            for name, run in descents.items()
        ],
    )


def signs_table(walks: Mapping[tuple[str, str], Walk]) -> str:
    """One row for each walk, by problem and method."""
    return table(
        ["problem", "method", "ends at", "value"],
        [
            [problem, method, ", ".join(f"{coordinate:.3f}" for coordinate in walk.point), f"{walk.value:.3f}"]
            for (problem, method), walk in walks.items()
        ],
        num_names=2,
    )


@dataclass(frozen=True)
class Cost:
    """What a codec costs in one metric: its mean over the seeds, and how it differs from fp32 of the same seeds."""

    mean: float
    difference: float
    spread: float | None
    """Standard deviation of the differences; None for a single seed."""


def cost(runs: Sequence[Training], exact: Mapping[int, Training], metric: str) -> Cost:
    """`exact` are the fp32 runs by seed. Runs that failed must not be here."""
    values = [run.metrics[metric] for run in runs]
    differences = [run.metrics[metric] - exact[run.case.seed].metrics[metric] for run in runs]
    spread = statistics.stdev(differences) if len(differences) > 1 else None
    return Cost(statistics.mean(values), statistics.mean(differences), spread)


def by_codec(trainings: Sequence[Training]) -> dict[str, list[Training]]:
    """The runs of each codec, in order, with the seeds that all codecs have: their means may be compared."""
    runs: dict[str, list[Training]] = {}
    for training in trainings:
        runs.setdefault(training.case.codec, []).append(training)
    seeds = set.intersection(*({run.case.seed for run in own} for own in runs.values()))
    return {codec: [run for run in own if run.case.seed in seeds] for codec, own in runs.items()}


def training_table(trainings: Sequence[Training], metrics: Sequence[str]) -> str:
    """One row for each codec, in order, under it how much fp32 itself varies from seed to seed."""
    runs_of = by_codec(trainings)
    exact = {training.case.seed: training for training in runs_of[EXACT]}
    header = ["push codec", "bytes per step", "smaller"]
    for metric in metrics:
        header += [metric.replace("_", " "), "against fp32"]
    rows = [_row(codec, runs, exact, metrics) for codec, runs in runs_of.items()]
    noise = _noise([training for training in trainings if training.case.codec == EXACT], metrics)
    return "\n".join([table(header, rows), "", noise])


def _row(codec: str, runs: Sequence[Training], exact: Mapping[int, Training], metrics: Sequence[str]) -> list[str]:
    num_bytes = statistics.mean(run.bytes_per_step for run in runs)
    exact_bytes = statistics.mean(run.bytes_per_step for run in exact.values())
    row = [f"`{codec}`", f"{num_bytes:,.0f}", f"{exact_bytes / num_bytes:.1f}x" if num_bytes else "-"]
    if any(run.error for run in runs):
        return [*row, *(["failed", ""] * len(metrics))]
    for metric in metrics:
        costs = cost(runs, exact, metric)
        spread = "" if costs.spread is None else f" ± {costs.spread:.4f}"
        row += [f"{costs.mean:.4f}", "" if codec == EXACT else f"{costs.difference:+.4f}{spread}"]
    return row


def _noise(exact: Sequence[Training], metrics: Sequence[str]) -> str:
    if len(exact) < 2:
        return "fp32 ran with one seed: its noise is not known."
    spreads = [
        f"{statistics.stdev(run.metrics[metric] for run in exact):.4f} ({metric.replace('_', ' ')})"
        for metric in metrics
    ]
    return f"Standard deviation of fp32 over {len(exact)} seeds: {', '.join(spreads)}."


def _figure(value: float) -> str:
    return f"{value:.4f}"
