"""Workers: training scripts connect to the servers here."""

from .connection import connect
from .worker import Worker

__all__ = ["Worker", "connect"]
