"""Workers: training scripts connect to the servers here."""

from .connection import connect
from .learning_rate import LearningRateScaling
from .worker import Worker

__all__ = ["LearningRateScaling", "Worker", "connect"]
