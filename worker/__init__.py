"""Workers: training scripts connect to the servers here."""

from .large_batch import LAMB, LARS
from .worker import Worker, connect

__all__ = ["LAMB", "LARS", "Worker", "connect"]
