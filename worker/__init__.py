"""Workers: training scripts connect to the servers here."""

from .worker import Worker, connect

__all__ = ["Worker", "connect"]
