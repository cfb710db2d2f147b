"""Workers: training scripts connect to the servers here."""

from .connection import connect
from .large_batch import LAMB, LARS
from .learning_rate import LearningRateScaling
from .worker import Worker

__all__ = ["LAMB", "LARS", "LearningRateScaling", "Worker", "connect"]
