"""The picture of `pushpull bench codec`: error against bits, one mark per codec. Needs matplotlib."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..protos.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, object]
Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, bottom, right, top in points."""

SUFFIXES = (".svg", ".png", ".pdf")
PANELS = {
    "gaussian": "Gaussian numbers",
    "heavy_tailed": "Heavy-tailed numbers (Student's t, 2 degrees of freedom)",
    "real": "Gradients of a small language model",
}
"""The data of a panel by the name that ends its columns."""

_POINTS_PER_INCH = 72
_PANEL_INCHES = (11.0, 6.5)
_FONT_POINTS = 7.5
_CHARACTER_POINTS = 0.56 * _FONT_POINTS
_LINE_POINTS = 1.2 * _FONT_POINTS
_MARK_POINTS = 4.0


@dataclass(frozen=True, slots=True)
class Mark:
    """One codec in one panel."""

    label: str
    bits: float
    error: float


class PlotFile:
    """A place for a plot, checked before anything is measured."""

    def __init__(self, path: Path) -> None:
        """Raises SettingError if no plot could be written there."""
        if path.suffix.lower() not in SUFFIXES:
            raise SettingError(f"--plot {path}: the name must end in one of {', '.join(SUFFIXES)}.")
        if not path.parent.is_dir():
            raise SettingError(f"--plot {path}: there is no folder {path.parent}.")
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise SettingError(
                "--plot needs matplotlib, which is not installed: pip install 'pushpull[bench]'."
            ) from None
        self._path = path

    def draw(self, rows: list[Row]) -> None:
        """A panel for each kind of data. `rows` are those of `--json`."""
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        width, height = _PANEL_INCHES
        figure = Figure((width, height * len(PANELS)), dpi=_POINTS_PER_INCH)
        figure.subplots_adjust(left=0.08, right=0.98, bottom=0.04, top=0.97, hspace=0.2)
        for axes, (name, title) in zip(figure.subplots(len(PANELS)), PANELS.items(), strict=True):
            axes.set(title=title, xlabel="bits per element", ylabel="relative error ||D - x|| / ||x||")
            _draw_panel(axes, [_mark(row, name) for row in rows])
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "pushpull"}):  # text stays text, names stay the same
            figure.savefig(self._path, dpi=2 * _POINTS_PER_INCH)


def _mark(row: Row, name: str) -> Mark:
    return Mark(str(row["codec"]), float(row[f"bits_per_element_{name}"]), float(row[f"error_{name}"]))  # type: ignore[arg-type]


def _draw_panel(axes: "Axes", marks: list[Mark]) -> None:
    """Codecs without error stand on the lower edge, as a logarithm has no place for them."""
    errors = [mark.error for mark in marks if mark.error > 0] or [1.0]
    bits = [mark.bits for mark in marks]
    floor = min(errors) / 3
    axes.set(xlim=(min(bits) / 4, max(bits) * 4), ylim=(floor / 1.5, max(errors) * 2), yscale="log")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.grid(which="major", alpha=0.3)
    shown = [mark if mark.error > 0 else Mark(f"{mark.label} (no error)", mark.bits, floor) for mark in marks]
    for mark, original in zip(shown, marks, strict=True):
        axes.plot(mark.bits, mark.error, "o" if original.error > 0 else "v", color="tab:blue", markersize=_MARK_POINTS)
    points = [(float(x), float(y)) for x, y in axes.transData.transform([(mark.bits, mark.error) for mark in shown])]
    for mark, (across, up) in zip(shown, place_labels([mark.label for mark in shown], points), strict=True):
        axes.annotate(
            mark.label,
            (mark.bits, mark.error),
            (across, up),
            textcoords="offset points",
            fontsize=_FONT_POINTS,
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "alpha": 0.5},
        )


def place_labels(labels: list[str], points: list[Point]) -> list[Point]:
    """For each label an offset (of the middle of its left edge) from its point, so that few labels overlap.

    Points and offsets are in typographic points. Greedy, from the top: the nearest free place of some.
    """
    taken = [_box(x - _MARK_POINTS / 2, y, _MARK_POINTS) for x, y in points]
    offsets: dict[int, Point] = {}
    for number in sorted(range(len(points)), key=lambda number: -points[number][1]):
        x, y = points[number]
        width = len(labels[number]) * _CHARACTER_POINTS
        candidates = list(_candidates(width))
        free = (offset for offset in candidates if not _hits(_box(x + offset[0], y + offset[1], width), taken))
        offsets[number] = next(free, candidates[0])
        taken.append(_box(x + offsets[number][0], y + offsets[number][1], width))
    return [offsets[number] for number in range(len(points))]


def _candidates(width: float) -> Iterator[Point]:
    for step in range(12):
        for up in (step * _LINE_POINTS / 2, -step * _LINE_POINTS / 2):
            away = _MARK_POINTS + 1.5 * step
            yield away, up
            yield -away - width, up


def _box(left: float, middle: float, width: float) -> Box:
    return left, middle - _LINE_POINTS / 2, left + width, middle + _LINE_POINTS / 2


def _hits(box: Box, taken: list[Box]) -> bool:
    left, bottom, right, top = box
    return any(left < other[2] and other[0] < right and bottom < other[3] and other[1] < top for other in taken)
