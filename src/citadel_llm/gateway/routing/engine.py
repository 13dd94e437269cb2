"""One engine as the gateway sees it: whether it answers, what it has in hand, and whether it may get more.

What is asked for each request is one number, `ready_at`: from when on the engine may be given any.
All that goes into it (its state, ejection, a late health check, a stall) is worked out when it changes.
"""

import math
import ssl
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

import structlog

from citadel_llm.config.gateway import Routing
from citadel_llm.gateway.errors import EngineDownError, EngineError

if TYPE_CHECKING:
    from citadel_llm.gateway.routing.queue import AdmissionQueue
    from citadel_llm.gateway.wire.upstream import EngineClient

_log = structlog.get_logger("citadel.gateway.engines")

State = Literal["unknown", "up", "down"]
Condition = Literal["unknown", "up", "down", "ejected", "suspect", "stalled", "asleep"]

REQUEST_LOAD = 256
"""Tokens that a request counts for beside those of its prompt: the answer, whose length nobody knows yet."""

# Not at any time, but still finite: what is set to it is taken before a request is refused.
_LAST_RESORT = 1e18
# How long a probe may take before another one is sent: an answer's first byte ends it sooner.
_PROBE_SECONDS = 30.0
# Health checks in a row that may be late, for a busy engine may be late and is of more use than none.
LATE_LIMIT = 3
# And those after which requests that it was given are better tried elsewhere.
_HANG_LIMIT = 2

PRIME = (1 << 30) - 35
"""The largest prime that fits into one digit of Python's integers: larger ones take twice as long."""

Seed = tuple[int, int]
"""Factor and offset of a hash function modulo `PRIME` (Carter and Wegman, 1979)."""


def seed_of(name: str) -> Seed:
    """What makes rendezvous hashing score this engine differently from all others.

    Args:
        name: The node's and the engine's: the same on every gateway, or each would choose differently.
    """
    digest = blake2b(name.encode(), digest_size=16).digest()
    factor, offset = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    return 1 + factor % (PRIME - 1), offset % PRIME


class Engine:
    """One process that serves one model here; or all that serve it behind one peer, which chooses among them.

    Attributes:
        id: What it is called: `smollm2`, `smollm2.2` (the second replica), `node-2/smollm2` (by a peer).
        model: The real name of its model.
        client: The way to it.
        remote: Whether it is behind a peer.
        state: What its health check says; `unknown` until it was asked for the first time.
        reason: Why it is down; empty when it is not.
        since: When it came into this state, in Unix time.
        outstanding: Requests that this gateway has given it and that have not ended.
        outstanding_tokens: The tokens of their prompts, as estimated.
        last_progress: When it last sent something, in the clock's time. The exchange sets it with each chunk.
        ready_at: From when on it may be given requests, in the clock's time; infinite while it is down.
        limit: Requests that it may have in hand at once.
        load: Tokens that it has to work through, as far as can be guessed.
        weight: Engines that it stands for; more than 1 only behind a peer.
        asleep: Whether, behind its peer, it must be brought up first: it is the last resort.
        hangs: Whether it is there and gives no sign of life. A request of it whose answer has not begun is
            better tried elsewhere.
    """

    __slots__ = (
        "_clock",
        "_doubt",
        "_ejected_until",
        "_elsewhere",
        "_elsewhere_load",
        "_held",
        "_on_change",
        "_probe_began",
        "_routing",
        "_stalled_since",
        "asleep",
        "capacity",
        "client",
        "ejections",
        "hangs",
        "id",
        "last_progress",
        "late",
        "limit",
        "load",
        "model",
        "outstanding",
        "outstanding_tokens",
        "queues",
        "ready_at",
        "reason",
        "remote",
        "seeds",
        "since",
        "state",
        "together",
        "weight",
    )

    def __init__(
        self,
        engine_id: str,
        model: str,
        client: "EngineClient",
        routing: Routing,
        *,
        capacity: int,
        seeds: Sequence[Seed],
        clock: Callable[[], float],
        remote: bool = False,
        on_change: Callable[["Engine"], None] = lambda _: None,
    ) -> None:
        self.id = engine_id
        self.model = model
        self.client = client
        self.remote = remote
        self.state: State = "unknown"
        self.reason = ""
        self.since = time.time()
        self.outstanding = 0
        self.outstanding_tokens = 0
        self.last_progress = 0.0
        self.ready_at = 0.0
        self.capacity = capacity
        self.limit = capacity * len(seeds)
        self.load = 0
        self.weight = len(seeds)
        self.seeds = tuple(seeds)
        self.asleep = False
        self.hangs = False
        self.late = 0
        self.ejections = 0
        self.queues: list[AdmissionQueue] = []
        self.together: list[Engine] = [self]
        self._routing = routing
        self._clock = clock
        self._on_change = on_change
        self._doubt = 0
        self._ejected_until = 0.0
        self._probe_began: float | None = None
        self._stalled_since: float | None = None
        self._elsewhere = 0
        self._elsewhere_load = 0
        self._held = False

    @property
    def name(self) -> str:
        """Its id, for logs and pages."""
        return self.id

    @property
    def condition(self) -> Condition:
        """Its state, with what the health check does not see."""
        if self.state != "up":
            return self.state
        if self._stalled_since is not None:
            return "stalled"
        if self.late:
            return "suspect"
        if self.asleep:
            return "asleep"
        return "ejected" if self._ejected_until > self._clock() else "up"

    @property
    def usable(self) -> bool:
        """Whether it may get a request, if only as the last resort."""
        return self.ready_at < math.inf

    # For the exchange.

    def began(self, tokens: int) -> None:
        """A request of so many prompt tokens was given to it."""
        if not self.outstanding:
            self.last_progress = self._clock()
        self.outstanding += 1
        self.outstanding_tokens += tokens
        self.load += tokens + REQUEST_LOAD
        if self._doubt:
            self._probe_began = self._clock()
            self._settle()

    def ended(self, tokens: int) -> None:
        """Such a request is over, in whatever way; once for each `began`. One that waits gets its place."""
        self.outstanding -= 1
        self.outstanding_tokens -= tokens
        self.load -= tokens + REQUEST_LOAD
        if self._probe_began is not None:
            # Neither succeeded nor failed, or both have dealt with it already: the next one may try.
            self._probe_began = None
            self._settle()
        for queue in self.queues:
            if queue.waiting:
                queue.place_freed()

    def succeeded(self) -> None:
        """An answer came to its end: what was held against the engine is forgotten."""
        if self._doubt:
            self._doubt = 0
            self._ejected_until = 0.0
            self._probe_began = None
            self._settle()

    def failed(self, error: EngineError) -> None:
        """A request failed by its fault. One that cannot be connected to is down, and all behind its peer."""
        if isinstance(error, EngineDownError):
            reason = reason_of(error)
            for each in self.together:
                each.set_state("down", reason)
        else:
            self.eject()

    # For those who watch over it.

    def set_state(self, state: State, reason: str = "") -> None:
        """Take note of what a health check, or a failure to connect, has shown."""
        if state == "up":
            self.late = 0
            if self.state == "down":
                # Whatever it was that failed has been started again since.
                self._doubt, self._ejected_until, self._stalled_since = 0, 0.0, None
                self._probe_began = None
                self.last_progress = self._clock()
        if self.state != state:
            self.since = time.time()
        changed = (self.state, self.reason) != (state, reason)
        if changed:
            # Another reason too: behind a peer that refuses connections one may come that is not trusted.
            _log.info("engine changed state", engine=self.id, model=self.model, state=state, reason=reason)
        self.state, self.reason = state, reason
        self._settle()
        if changed:
            self._on_change(self)

    def hold(self, held: bool) -> None:
        """Give it nothing while it is held: its model is not awake, or is to make room for another."""
        if held != self._held:
            self._held = held
            self._settle()

    def is_late(self, seconds: float) -> None:
        """A health check was not answered in time: it is the last resort for now, then down."""
        self.late += 1
        if self.late >= LATE_LIMIT or self.state != "up":
            self.set_state("down", f"no answer to its health check within {seconds:g} s")
        else:
            self._settle()

    def eject(self) -> None:
        """Give it nothing for a while, each time twice as long, while others can take its requests."""
        now = self._clock()
        if now < self._ejected_until or self._stalled_since is not None:
            # Many requests that break off at once are one failure.
            return
        options = self._routing
        seconds = min(options.ejection_seconds * 2 ** min(self._doubt, 30), options.ejection_max_seconds)
        self._doubt += 1
        self._ejected_until = now + seconds
        self._probe_began = None
        self.ejections += 1
        _log.warning("engine ejected", engine=self.id, model=self.model, seconds=seconds)
        self._settle()

    def sweep(self, now: float) -> None:
        """See whether it stalls, or has shown that it works again; every quarter of a second or so."""
        if self._probe_began is not None and self.last_progress > self._probe_began:
            self.succeeded()
        if self._stalled_since is not None:
            if self.last_progress > self._stalled_since:
                _log.info("engine makes progress again", engine=self.id, model=self.model)
                self._stalled_since = None
                self._settle()
            elif not self.outstanding:
                # There is nothing left to see progress of: one request will show.
                self._stalled_since = None
                self.eject()
                self._settle()
        elif self.outstanding and self.state == "up" and not self.remote:
            silent = now - self.last_progress
            if silent > self._routing.stall_seconds:
                self._stalled_since = now
                self.ejections += 1
                _log.warning("engine makes no progress", engine=self.id, model=self.model, seconds=silent)
                self._settle()

    def told(self, outstanding: int, load: int, seeds: Sequence[Seed]) -> None:
        """Take in what its peer says of it: what it has in hand in all, and which engines it stands for."""
        self._elsewhere = max(0, outstanding - self.outstanding)
        load = max(0, load - (self.load - self._elsewhere_load))
        self.load += load - self._elsewhere_load
        self._elsewhere_load = load
        if seeds:
            self.seeds, self.weight = tuple(seeds), len(seeds)
        self.limit = max(0, self.capacity * self.weight - self._elsewhere)

    def _settle(self) -> None:
        """Work out from when on it may be given requests."""
        stalled = self._stalled_since is not None
        self.hangs = stalled or self.late >= _HANG_LIMIT
        if self.state == "down" or stalled or self._held:
            self.ready_at = math.inf
        elif self.late or self.asleep:
            self.ready_at = _LAST_RESORT
        elif self._probe_began is not None:
            self.ready_at = self._probe_began + _PROBE_SECONDS
        else:
            self.ready_at = self._ejected_until


def reason_of(error: EngineError) -> str:
    """What lies behind an engine's error, in a few words without a path."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message} (ca_file in gateway.peers)"
    text = getattr(cause, "strerror", None)
    return text or type(cause or error).__name__
