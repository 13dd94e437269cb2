"""A request that was let through: what it may say to its client, and what it owes at its end."""

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from citadel_llm.gateway.limits.key_limits import KeyLimits
    from citadel_llm.gateway.limits.windows import Bucket

# A module's name of its own, so that a test can give it another clock.
monotonic = time.monotonic


class Grant:
    """A request that was let through. `settle` is to be called once at its end; again, it does nothing.

    Args:
        limits: The key's.
        began: When it was let through, by the monotonic clock.
        tokens: The estimate that was counted.
        buckets: Of the windows in which they were.
    """

    __slots__ = ("_at_once", "_began", "_buckets", "_limits", "_open", "_tokens", "_windows")

    def __init__(
        self,
        limits: "KeyLimits",
        began: float,
        tokens: int,
        buckets: "list[Bucket]",
    ) -> None:
        self._limits = limits
        self._began = began
        self._tokens = tokens
        self._buckets = buckets
        # Held here, for the key's limits may be others at its end.
        self._windows = limits.of_tokens
        self._at_once = limits.at_once
        self._open = True

    def header_lines(self) -> bytes:
        """Lines for the answer's head, `x-ratelimit-limit-requests: 60` and so on, as things are now."""
        return self._limits.header_lines()

    def settle(self, tokens: int) -> None:
        """The request is over and used so many tokens: count these, not the estimate, and free its place."""
        if not self._open:
            return
        self._open = False
        now = monotonic()
        if self._at_once is not None:
            self._at_once.end(now - self._began)
        more = tokens - self._tokens
        if not more:
            return
        buckets = iter(self._buckets)
        for window in self._windows:
            if now >= window.stale_at:
                window.advance(now)
            if more > 0:
                window.take(now, more)
            else:
                window.give_back(next(buckets), -more)
        self._limits.used_at = now


class FreeGrant(Grant):
    """Of a key that has no limits: nothing to say, nothing to owe."""

    __slots__ = ()

    def __init__(self) -> None:
        """Hold nothing."""

    def header_lines(self) -> bytes:
        """None."""
        return b""

    def settle(self, tokens: int) -> None:
        """Count nothing."""


FREE = FreeGrant()
