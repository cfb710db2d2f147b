"""How many lots of data to ask for at once, and how soon to ask again without any. Pure."""

FEWEST_LOTS = 4
MOST_LOTS = 32
SHORTEST_DELAY_SECONDS = 0.005
LONGEST_DELAY_SECONDS = 0.05
LARGEST_SHARE = 0.05
"""Of the time, that asking may take; below a quarter of it fewer lots are asked for again."""


class AskingPace:
    """Few lots, so that a worker that is slow or leaves holds little; more where an answer is long on its way.

    Without this a worker behind a long link would wait for a round trip in every fourth step.
    """

    def __init__(self) -> None:
        self.num_lots = FEWEST_LOTS
        """To ask for next time."""
        self._answered_at: float | None = None

    def answered(self, asked_at: float, answered_at: float) -> None:
        """Lots have come; in seconds of any clock."""
        if self._answered_at is not None:
            share = (answered_at - asked_at) / max(answered_at - self._answered_at, 1e-9)
            if share > LARGEST_SHARE:
                self.num_lots = min(2 * self.num_lots, MOST_LOTS)
            elif share < LARGEST_SHARE / 4:
                self.num_lots = max(self.num_lots // 2, FEWEST_LOTS)
        self._answered_at = answered_at

    def interrupted(self) -> None:
        """None came: the time until the next answer says nothing."""
        self._answered_at = None


class Polling:
    """How long to wait before asking again while there is nothing: short at first, because lots often come back soon."""

    def __init__(self) -> None:
        self.first = True
        """Nothing was waited for yet."""
        self._delay_seconds = SHORTEST_DELAY_SECONDS

    def restart(self, first: bool = True) -> None:
        """Something has happened."""
        self.first, self._delay_seconds = first, SHORTEST_DELAY_SECONDS

    def next_delay_seconds(self) -> float:
        delay = self._delay_seconds
        self.first, self._delay_seconds = False, min(2 * delay, LONGEST_DELAY_SECONDS)
        return delay
