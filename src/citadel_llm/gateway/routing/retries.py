"""The retry budget: when everything fails, sending all of it again would make it worse."""

from collections.abc import Callable

# Retries a second that are always allowed, for a gateway with little to do.
_FLOOR = 2.0


class RetryBudget:
    """A token bucket: each request pays in its share, each retry takes one out.

    Args:
        share: What each request pays in (`gateway.routing.retry_share`); 0: nothing is tried again.
        burst: What it holds at most, and at the start: all that one engine had in hand when it died should
            find another.
        clock: Tells the time in seconds.
    """

    def __init__(self, share: float, burst: int, clock: Callable[[], float]) -> None:
        self._share = share
        self._burst = float(burst) if share else 0.0
        self._clock = clock
        self._tokens = self._burst
        self._filled_at = clock()
        self.allowed = 0
        self.refused = 0

    def note_request(self) -> None:
        """A request was begun."""
        self._tokens += self._share

    def may_retry(self) -> bool:
        """Whether one more request may be sent again; takes its token."""
        now = self._clock()
        self._tokens = min(self._tokens + _FLOOR * (now - self._filled_at), self._burst)
        self._filled_at = now
        if self._tokens < 1:
            self.refused += 1
            return False
        self._tokens -= 1
        self.allowed += 1
        return True
