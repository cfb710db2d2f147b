"""Tells people which data nobody could read."""

import structlog

from .dealing import DataDealer
from .held_lines import Say, at_once

log = structlog.get_logger(__name__)


class LotLog:
    """Remembers how many lots it has said were given up."""

    def __init__(self, say: Say = at_once) -> None:
        self._say = say
        self._num_told = 0

    def observe(self, dealer: DataDealer) -> None:
        """Called after calls and ticks in which lots may have been given up."""
        new = dealer.num_lots_given_up - self._num_told
        self._num_told = dealer.num_lots_given_up
        for lot in dealer.given_up[-new:] if new else ():
            self._say(
                log.error,
                "data given up",
                data_set=lot.data_set,
                epoch=lot.epoch,
                positions=f"{lot.first} to {lot.first + lot.size - 1}",
                could_not_read=lot.read_failures,
                died=lot.deaths,
                samples_given_up=dealer.num_samples_given_up,
            )
