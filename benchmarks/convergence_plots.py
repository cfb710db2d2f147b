"""The plots of the convergence benchmark. Needs matplotlib."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..compression.encoder_spec import parse_encoder
from .convergence_tables import by_codec
from .convergence_training import EXACT, Experiment, Training

_SMOOTHED_STEPS = 20
_POINTS = 30
_WORST = 2.0
"""Times the final loss of fp32: what is worse is an arrow head at that height."""
_STYLES = ("-", "--", ":", "-.", (0, (1, 3)))
_COLOURS = [mpl.colormaps["tab20"](number) for number in (*range(0, 20, 2), *range(1, 20, 2))]

_Colour = tuple[float, float, float, float]
_Style = str | tuple[int, tuple[int, int]]


@dataclass(frozen=True)
class _Look:
    """One colour for a family, one line style for a member."""

    colour: _Colour
    style: _Style


def plot_training(experiment: Experiment, trainings: Sequence[Training], path: Path) -> None:
    """Training loss along the bytes pushed, and the final held-out loss over the bytes of a step; the file's name
    says the format."""
    runs_of = {
        codec: runs for codec, runs in by_codec(trainings).items() if all(training.error is None for training in runs)
    }
    untrained = max(runs[0].losses[0] for runs in runs_of.values())
    figure = Figure(figsize=(12, 5), layout="constrained")
    curves, ends = figure.subplots(1, 2)
    worst = _WORST * statistics.mean(run.metrics[experiment.held_out_loss] for run in runs_of[EXACT])
    for codec, look in _looks(list(runs_of)).items():
        _curve(curves, runs_of[codec][0], look)
        _end(ends, runs_of[codec], experiment.held_out_loss, worst, look)
    curves.set(xlabel="bytes pushed by a worker", ylabel=f"training loss, mean of {_SMOOTHED_STEPS} steps")
    ends.set(xlabel="bytes pushed by a worker in a step", ylabel=f"final {experiment.held_out_loss.replace('_', ' ')}")
    for axes in (curves, ends):
        axes.set(xscale="log", yscale="log")
        axes.yaxis.set_major_formatter(FuncFormatter(_plain))
        axes.yaxis.set_minor_formatter(FuncFormatter(_plain))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    curves.set_ylim(top=untrained * 1.1)
    figure.legend(*curves.get_legend_handles_labels(), loc="outside right center", fontsize=7)
    figure.suptitle(f"{experiment.name}, {experiment.num_steps} steps")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": experiment.name}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _looks(specs: Sequence[str]) -> Mapping[str, _Look]:
    families: dict[str, list[str]] = {}
    for spec in specs:
        families.setdefault(parse_encoder(spec).codec.spec.split("+")[0].split(":")[0], []).append(spec)
    return {
        spec: _Look(_COLOURS[number % len(_COLOURS)], _STYLES[place % len(_STYLES)])
        for number, members in enumerate(families.values())
        for place, spec in enumerate(members)
    }


def _curve(axes: Axes, training: Training, look: _Look) -> None:
    """The running mean of the losses, at steps that are evenly spaced on the logarithmic axis."""
    losses = np.convolve(training.losses, np.ones(_SMOOTHED_STEPS) / _SMOOTHED_STEPS, mode="valid")
    steps = np.unique(np.geomspace(_SMOOTHED_STEPS, len(training.losses), _POINTS).astype(int))
    axes.plot(
        steps * training.bytes_per_step,
        losses[steps - _SMOOTHED_STEPS],
        linewidth=1.2,
        color=look.colour,
        linestyle=look.style,
        label=training.case.codec,
    )


def _end(axes: Axes, runs: Sequence[Training], metric: str, worst: float, look: _Look) -> None:
    """Mean and range over the seeds, labelled."""
    values = [min(run.metrics[metric], worst) for run in runs]
    num_bytes, mean = statistics.mean(run.bytes_per_step for run in runs), statistics.mean(values)
    ranges = [[mean - min(values)], [max(values) - mean]]
    marker = "^" if min(values) == worst else "o"
    axes.errorbar(num_bytes, mean, ranges, fmt=marker, markersize=4, linewidth=1, color=look.colour)
    axes.annotate(runs[0].case.codec, (num_bytes, mean), (3, 3), textcoords="offset points", fontsize=6)


def _plain(value: float, _: object) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "1235" else ""
