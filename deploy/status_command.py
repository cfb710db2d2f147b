"""`pushpull status`: one page, a live table, or one JSON object."""

import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live

from ..protos.errors import ServerUnreachableError
from .json_values import plain, strict_json
from .status import JobWatch
from .status_figures import Looks
from .status_page import Room, status_page

INTERVAL_SECONDS = 1.0
BETWEEN_LOOKS_SECONDS = 1.3
"""For the rates of a single page: workers report every second."""
OTHER_ROWS = 14
"""Lines of a live page beside the workers'."""


def show_json(watch: JobWatch) -> None:
    """Prints what is known now; raises ServerUnreachableError."""
    print(strict_json(plain(watch.look().status)))


def show_page(watch: JobWatch, console: Console) -> None:
    """Prints one page, with rates of about a second; raises ServerUnreachableError."""
    looks = Looks()
    looks.add(watch.look())
    if looks.newest.status.workers:
        time.sleep(BETWEEN_LOOKS_SECONDS)
        looks.add(watch.look())
    console.print(status_page(looks, Room(columns=console.width)), highlight=False)


def show_live(watch: JobWatch, console: Console) -> None:
    """Redraws the page every second until Ctrl-C, also while no server answers.

    Raises:
        ServerUnreachableError: none answered in the first place.
    """
    looks = Looks()
    looks.add(watch.look())
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                trouble = (
                    "" if looks.newest.seconds > time.monotonic() - 2 * INTERVAL_SECONDS else _silence(watch, looks)
                )
                live.update(_page(looks, console, trouble), refresh=True)
                time.sleep(INTERVAL_SECONDS)
                _look_again(watch, looks)
    except KeyboardInterrupt:
        return


def _page(looks: Looks, console: Console, trouble: str) -> RenderableType:
    rows = console.height - OTHER_ROWS - len(looks.newest.status.shards)
    return status_page(looks, Room(max(3, rows), console.width), trouble)


def _look_again(watch: JobWatch, looks: Looks) -> None:
    try:
        looks.add(watch.look(timeout_seconds=INTERVAL_SECONDS))
    except ServerUnreachableError:
        pass  # the page says how old it is


def _silence(watch: JobWatch, looks: Looks, clock: Callable[[], float] = time.monotonic) -> str:
    seconds = clock() - looks.newest.seconds
    return f"No answer from {watch.address}: everything below is {seconds:.0f} s old. Still asking; Ctrl-C ends this."
