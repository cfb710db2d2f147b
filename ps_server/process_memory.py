"""How much memory this process has. A reading never fails: without a free file descriptor there is only an old one."""

import resource
import sys

import psutil


class ProcessMemory:
    """Readings of this process's resident set, in bytes."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._newest = 0

    def now(self) -> int:
        """At this moment; where the system does not say, the newest that is known."""
        try:
            self._newest = self._process.memory_info().rss
        except (OSError, psutil.Error):
            pass
        return self._newest

    def peak(self) -> int:
        """At its highest."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
