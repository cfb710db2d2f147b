"""Where blocks may be cut, so that workers with unlike layouts address the same blocks. Pure arithmetic.

The cuts of a dimension are the union of the cuts of every layout of the job: tensor parallelism first, FSDP inside its
pieces, each as `torch.chunk` cuts. Pipelines and replicas cut nothing.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .layout import Layout

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes of a hyper-rectangle."""


@dataclass(frozen=True)
class Grid:
    """The layouts that a job's workers may have."""

    layouts: tuple[Layout, ...] = ()
    tensor_splits: tuple[tuple[str, int], ...] = ()
    """(pattern of parameter names, dimension that tensor parallelism cuts); the first match wins."""

    def tensor_dimension(self, names: Sequence[str]) -> int | None:
        """The dimension in which tensor parallelism cuts the parameter with these names, if any."""
        for pattern, dimension in self.tensor_splits:
            if any(fnmatchcase(name, pattern) for name in names):
                return dimension
        return None

    def cells(self, names: Sequence[str], shape: Sequence[int]) -> Iterator[Box]:
        """The pieces of a parameter that no layout divides further, in row-major order; empty ones are left out."""
        split = self.tensor_dimension(names)
        spans = []
        for dimension, size in enumerate(shape):
            cuts = {0, size}
            for layout in self.layouts:
                cuts |= cut_points(size, _degrees(layout, dimension, split))
            spans.append([(a, b - a) for a, b in itertools.pairwise(sorted(cuts))])
        for cell in itertools.product(*spans):
            yield tuple(offset for offset, _ in cell), tuple(size for _, size in cell)


UNCUT = Grid()
"""Of a job whose workers have one rank each."""


def _degrees(layout: Layout, dimension: int, split: int | None) -> list[int]:
    """Ranks that cut this dimension, in the order in which they do."""
    tensor = [layout.tp] if dimension == split else []
    return tensor + ([layout.fsdp] if dimension == 0 else [])


def chunks(size: int, num_parts: int) -> list[tuple[int, int]]:
    """(first, one past last) of each part, as `torch.chunk` cuts: equal ones, the last ones shorter or empty."""
    step = -(-size // num_parts)
    return [(min(i * step, size), min((i + 1) * step, size)) for i in range(num_parts)]


def cut_points(size: int, degrees: Sequence[int]) -> set[int]:
    """Bounds of the pieces when a dimension is cut by each degree in turn, every one inside the pieces of the last."""
    pieces = [(0, size)]
    for degree in degrees:
        pieces = [(first + a, first + b) for first, last in pieces for a, b in chunks(last - first, degree)]
    return {bound for piece in pieces for bound in piece}
