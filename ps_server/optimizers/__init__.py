"""The optimizers that servers run, on lists of blocks."""

from .base import BlockOptimizer, GroupValues
from .layerwise import LayerwiseOptimizer
from .table import OPTIMIZERS, check_optimizer, optimizer_for

__all__ = ["OPTIMIZERS", "BlockOptimizer", "GroupValues", "LayerwiseOptimizer", "check_optimizer", "optimizer_for"]
