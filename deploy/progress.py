"""Progress for people: a live display on a terminal, plain lines elsewhere. Both write to standard error."""

import sys
import threading
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..protos.registrar_pb2 import JobStatus
from .figures import Figures, figures_of
from .log_settings import LogFormat
from .relayed_lines import launcher_line, relayed_line

PLAIN_SECONDS = 2.0


class Display(Protocol):
    """Where the launcher's words, the children's lines and the job's figures go. Any thread may write."""

    def write_line(self, line: str) -> None:
        """Shows one line for good."""

    def relay(self, name: str, line: str) -> None:
        """Shows one line that a child wrote."""

    def show(self, status: JobStatus) -> None:
        """Shows the newest figures."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainDisplay:
    """A line about every two seconds while something changes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._pace = Pace()
        self._next_seconds = 0.0
        self._shown_step = -1

    def write_line(self, line: str) -> None:
        with self._lock:
            try:
                print(line, file=self._stream, flush=True)
            except (OSError, ValueError):
                pass  # nobody reads any more; the run goes on

    def relay(self, name: str, line: str) -> None:
        self.write_line(relayed_line(LogFormat.TEXT, name, line))

    def show(self, status: JobStatus) -> None:
        figures, now = figures_of(status), time.monotonic()
        rate = self._pace.samples_per_second(figures.num_samples, now)
        if now < self._next_seconds or figures.step == self._shown_step:
            return
        self._next_seconds, self._shown_step = now + PLAIN_SECONDS, figures.step
        self.write_line(progress_line(figures, rate))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class JsonDisplay(PlainDisplay):
    """The same, and one JSON object a line. What children wrote as one stays as it is."""

    def write_line(self, line: str) -> None:
        super().write_line(launcher_line(line))

    def relay(self, name: str, line: str) -> None:
        super().write_line(relayed_line(LogFormat.JSON, name, line))


class LiveDisplay:
    """A table that is redrawn below the lines."""

    def __init__(self, console: Console) -> None:
        self._pace = Pace()
        self._live = Live(Text("starting ..."), console=console, refresh_per_second=4, transient=True)

    def write_line(self, line: str) -> None:
        self._live.console.print(Text.from_ansi(line), soft_wrap=True)

    def relay(self, name: str, line: str) -> None:
        self.write_line(relayed_line(LogFormat.TEXT, name, line))

    def show(self, status: JobStatus) -> None:
        figures = figures_of(status)
        rate = self._pace.samples_per_second(figures.num_samples, time.monotonic())
        table = Table(box=None)
        for heading in ("worker", "state", "steps", "samples", "loss"):
            table.add_column(heading, justify="left" if heading == "state" else "right")
        for worker in status.workers:
            loss = worker.report.metrics.get("loss")
            table.add_row(
                str(worker.worker_id),
                worker.state,
                grouped(worker.report.num_steps),
                grouped(worker.report.num_samples),
                "" if loss is None else f"{loss:.4f}",
            )
        self._live.update(Group(Text(progress_line(figures, rate), style="bold"), table))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


class Pace:
    """Samples per second over the last few seconds."""

    _WINDOW_SECONDS = 5.0

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []

    def samples_per_second(self, num_samples: float, now_seconds: float) -> float:
        """Rate since the oldest observation of the window; 0 until there are two."""
        self._seen.append((now_seconds, num_samples))
        while len(self._seen) > 2 and now_seconds - self._seen[1][0] >= self._WINDOW_SECONDS:
            self._seen.pop(0)
        seconds = now_seconds - self._seen[0][0]
        return max(0.0, num_samples - self._seen[0][1]) / seconds if seconds > 0 else 0.0


def display_for_terminal(stream: TextIO | None = None, log_format: LogFormat = LogFormat.TEXT) -> Display:
    """The live display if `stream` (standard error) is a terminal, else plain lines; lines of JSON if asked for."""
    stream = stream or sys.stderr
    if log_format is LogFormat.JSON:
        return JsonDisplay(stream)
    console = Console(file=stream)
    return LiveDisplay(console) if console.is_terminal and not console.is_dumb_terminal else PlainDisplay(stream)


def progress_line(figures: Figures, samples_per_second: float) -> str:
    """Steps, loss, speed, traffic, staleness and failures in one line."""
    loss = "" if figures.last_loss is None else f"  loss {figures.last_loss:.4f}"
    ratio = figures.push_compression_ratio
    smaller = "" if ratio is None else f" ({ratio:.1f}x smaller than fp32)"
    return (
        f"step {grouped(figures.step)}{loss}  {grouped(samples_per_second)} samples/s"
        f"  pushed {in_bytes(figures.bytes_pushed)}{smaller}  pulled {in_bytes(figures.bytes_pulled)}"
        f"  staleness {figures.staleness.mean:.1f} (max {figures.staleness.max:.0f})"
        f"  workers {figures.num_active}  failures {figures.failures}"
    )


def grouped(number: float) -> str:
    """Whole number with thin groups: 12 345."""
    return f"{number:,.0f}".replace(",", " ")


def in_bytes(number: float) -> str:
    """For example 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
