"""The signals that ask a process to end in order."""

import signal


def ending_signals() -> tuple[signal.Signals, ...]:
    """SIGTERM, and SIGHUP, which comes when the terminal is closed; without SIGHUP where it is ignored already (`nohup`)."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return (signal.SIGTERM,)
    return (signal.SIGTERM, signal.SIGHUP)
