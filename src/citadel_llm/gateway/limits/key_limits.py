"""All limits of one key: whether a request may pass, and if not, why and for how long."""

import time
from collections.abc import Callable, Mapping
from math import ceil
from typing import NoReturn

from citadel_llm.gateway.errors import (
    GatewayError,
    LargerThanLimitError,
    QuotaSpentError,
    RateLimitedError,
    TokensLimitedError,
)
from citadel_llm.gateway.limits.at_once import AtOnceWindow
from citadel_llm.gateway.limits.budget import BudgetWindow
from citadel_llm.gateway.limits.grant import FREE, Grant
from citadel_llm.gateway.limits.headers import fields, lines, template
from citadel_llm.gateway.limits.minute import MinuteWindow
from citadel_llm.gateway.limits.windows import (
    CONCURRENT_REQUESTS,
    KINDS,
    REQUESTS_PER_MINUTE,
    TOKENS_PER_MINUTE,
    Kind,
    Window,
)

# A module's name of its own, so that a test can give it another clock.
monotonic = time.monotonic

# When a gateway is merely ahead of the store, the store's answer is there after this at the latest.
_STORE_ANSWERS_SECONDS = 0.1


class Refused(Exception):  # noqa: N818 - it carries the error that the client gets
    """A request may not pass.

    Attributes:
        kind: The limit's kind.
        error: For the client.
    """

    def __init__(self, kind: Kind, error: GatewayError) -> None:
        super().__init__(kind.name)
        self.kind = kind
        self.error = error


class KeyLimits:
    """What one key may ask for, and has asked for.

    Args:
        key_id: The key's id.
        wake: Called when the store should be asked soon.
    """

    __slots__ = (
        "_headers",
        "_of_requests",
        "_wake",
        "at_once",
        "key_id",
        "of_tokens",
        "used_at",
        "windows",
    )

    def __init__(self, key_id: str, wake: Callable[[], None]) -> None:
        self.key_id = key_id
        self.windows: dict[Kind, Window] = {}
        self.used_at = monotonic()
        self._wake = wake
        self._of_requests: tuple[Window, ...] = ()
        self.of_tokens: tuple[Window, ...] = ()
        self.at_once: AtOnceWindow | None = None
        self._headers: tuple[tuple[bytes, MinuteWindow], ...] = ()

    def set(self, limits: Mapping[str, int | None]) -> bool:
        """Take over the limits of the names in `KINDS`; whether any is another than before.

        What was used of a limit that stays stays used.
        """
        wanted = {kind: limit for kind in KINDS if (limit := limits[kind.name]) is not None}
        if wanted == {kind: window.limit for kind, window in self.windows.items()}:
            return False
        windows: dict[Kind, Window] = {}
        for kind, limit in wanted.items():
            windows[kind] = self.windows.get(kind) or _window(kind, self.key_id, limit, self._wake)
            windows[kind].limit = limit
        self.windows = windows
        self._of_requests = tuple(w for kind, w in windows.items() if kind.unit == "requests")
        self.of_tokens = tuple(w for kind, w in windows.items() if kind.unit == "tokens")
        at_once = windows.get(CONCURRENT_REQUESTS)
        self.at_once = at_once if isinstance(at_once, AtOnceWindow) else None
        minutes = (windows.get(REQUESTS_PER_MINUTE), windows.get(TOKENS_PER_MINUTE))
        self._headers = tuple((template(w), w) for w in minutes if isinstance(w, MinuteWindow))
        return True

    def admit(self, tokens: int) -> Grant:
        """Let a request through that will use so many tokens, by estimate.

        Raises:
            Refused: A limit forbids it. Nothing was counted.
        """
        if not self.windows:
            return FREE
        self.used_at = now = monotonic()
        of_tokens = self.of_tokens
        for window in self._of_requests:
            if not window.fits(now, 1):
                self._refuse(now, tokens)
        for window in of_tokens:
            if not window.fits(now, tokens):
                self._refuse(now, tokens)
        for window in self._of_requests:
            window.take(now, 1)
        buckets = [window.take(now, tokens) for window in of_tokens]
        return Grant(self, now, tokens, buckets)

    def header_lines(self) -> bytes:
        """OpenAI's headers for the limits of a minute, ready to write."""
        if not self._headers:
            return b""
        now, text = monotonic(), b""
        for template_of, window in self._headers:
            text += lines(template_of, window, now)
        return text

    @property
    def holds(self) -> bool:
        """Whether requests are under way, as far as they are counted."""
        return self.at_once is not None and self.at_once.own > 0

    @property
    def budgets(self) -> tuple[BudgetWindow, ...]:
        """The limits of a day and a month."""
        return tuple(w for w in self.of_tokens if isinstance(w, BudgetWindow))

    def _refuse(self, now: float, tokens: int) -> NoReturn:
        """Tell of the limit that is in the way for longest: with it gone, the request would pass."""
        for window in self.of_tokens:
            if tokens > window.limit:
                raise Refused(window.kind, _too_large(window, tokens))
        amounts = [(w, 1) for w in self._of_requests] + [(w, tokens) for w in self.of_tokens]
        waits = [(w.wait(now, n), w) for w, n in amounts if not w.fits(now, n)]
        seconds, window = max(waits, key=lambda pair: pair[0])
        if seconds <= 0:  # ahead of the store, and not over any limit
            self._wake()
            seconds = _STORE_ANSWERS_SECONDS
        raise Refused(window.kind, _refusal(window, seconds, self._fields(now, seconds)))

    def _fields(self, now: float, seconds: float) -> dict[str, str]:
        headers: dict[str, str] = {"retry-after-ms": str(ceil(seconds * 1000))}
        for _, window in self._headers:
            headers |= fields(window, now)
        return headers


def _window(kind: Kind, key_id: str, limit: int, wake: Callable[[], None]) -> Window:
    if kind is CONCURRENT_REQUESTS:
        return AtOnceWindow(kind, key_id, limit, wake)
    return (BudgetWindow if kind.budget else MinuteWindow)(kind, key_id, limit, wake)


def _too_large(window: Window, tokens: int) -> GatewayError:
    return LargerThanLimitError(
        f"The request is larger than this API key may ever send: about {tokens} tokens, with a limit of "
        f"{window.limit} {window.kind.words}. Send less at once, or ask for a higher limit."
    )


def _refusal(window: Window, seconds: float, headers: dict[str, str]) -> RateLimitedError:
    limit = f"{window.limit} {window.kind.words}"
    if window.kind.budget:
        return QuotaSpentError(
            f"The budget of this API key is spent, or what is left is too little: {limit}. "
            f"The next one begins in {ceil(seconds)} seconds.",
            retry_after=seconds,
            headers=headers,
        )
    kind = TokensLimitedError if window.kind.unit == "tokens" else RateLimitedError
    return kind(
        f"Rate limit of this API key reached: {limit}. Try again in {ceil(seconds)} s.",
        retry_after=seconds,
        headers=headers,
    )
