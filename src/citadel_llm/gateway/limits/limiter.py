"""The gateway's limiter: decides in memory, without waiting; what takes time happens in the background."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry

from citadel_llm.config.gateway import Limits
from citadel_llm.gateway.limits.budget import BudgetWindow, period_of
from citadel_llm.gateway.limits.exchange import Exchange
from citadel_llm.gateway.limits.grant import FREE, Grant
from citadel_llm.gateway.limits.key_limits import KeyLimits, Refused, monotonic
from citadel_llm.gateway.limits.metrics import LimitMetrics
from citadel_llm.gateway.limits.store import LimitStore
from citadel_llm.gateway.limits.windows import (
    KINDS,
    MINUTE,
    TOKENS_PER_DAY,
    TOKENS_PER_MONTH,
    Kind,
    wall_clock,
)
from citadel_llm.store import KeyRecord

_log = structlog.get_logger("citadel.gateway.limits")

Spent = Callable[[], Awaitable[Mapping[str, tuple[int, int]]]]

# A key that was idle for longer is forgotten, unless a budget of its is kept here alone.
_IDLE_SECONDS = 2 * MINUTE
_SWEEP_SECONDS = 30.0
_READ_SPENT_SECONDS = 60.0
_RETRY_SPENT_SECONDS = 5.0


class Limiter:
    """Holds every key to its limits.

    Args:
        settings: The limits of keys that have none of their own, and the store, if there is one.
        registry: Where the metrics are shown.
        spent: Reads from the usage database what keys have spent today and this month, in tokens, by key id:
            so budgets outlive a restart, and gateways without a store know roughly of each other.
    """

    def __init__(self, settings: Limits, registry: CollectorRegistry, spent: Spent | None = None) -> None:
        self._settings = settings
        self._spent = spent
        self._metrics = LimitMetrics(registry, shared=settings.store is not None)
        # By key id; with each the record that its limits were taken from.
        self._keys: dict[str, tuple[KeyRecord, KeyLimits]] = {}
        self._read = _Read({}, {}, {})
        self._woken = asyncio.Event()
        self._exchange: Exchange | None = None
        if settings.store is not None:
            store = LimitStore(settings.store, settings.store_password)
            self._exchange = Exchange(store, self._metrics, self._woken)

    def admit(self, key: KeyRecord, tokens: int) -> Grant:
        """Let a request through that will use so many tokens, by estimate; the grant's `settle` corrects it.

        Raises:
            RateLimitedError: A limit forbids it now; the error says which, and when to try again.
            LargerThanLimitError: A limit forbids it for ever.
        """
        known = self._keys.get(key.id)
        if known is None or known[0] is not key:
            known = self._take_over(key, known)
        limits = known[1]
        if not limits.windows:
            return FREE
        try:
            return limits.admit(tokens)
        except Refused as refused:
            self._metrics.refusals[refused.kind].inc()
            raise refused.error from None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do in the background what takes time, while the context lasts."""
        work = [self._sweep()]
        if self._spent is not None:
            work.append(self._read_spent(self._spent))
        if self._exchange is not None:
            work.append(self._exchange.run(self._shared))
        tasks = [asyncio.create_task(each) for each in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._exchange is not None:
                await self._exchange.end(self._shared)

    def _shared(self) -> list[KeyLimits]:
        return [limits for _, limits in self._keys.values() if limits.windows]

    def _take_over(
        self, key: KeyRecord, known: tuple[KeyRecord, KeyLimits] | None
    ) -> tuple[KeyRecord, KeyLimits]:
        """The key is new here, or its record was read again: its limits may be others now."""
        limits = known[1] if known else KeyLimits(key.id, self._woken.set)
        if limits.set({kind.name: self._limit_of(key, kind.name) for kind in KINDS}):
            if self._exchange is not None:
                self._exchange.apply(limits)
            else:
                for window in limits.windows.values():
                    window.count_alone(1)
            self._tell_spent(limits)
        self._keys[key.id] = known = (key, limits)
        return known

    def _limit_of(self, key: KeyRecord, name: str) -> int | None:
        own: int | None = getattr(key, name)
        default: int | None = getattr(self._settings, name)
        return default if own is None else own

    async def _sweep(self) -> None:
        """Forget keys that are idle: revoked ones, too."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.forget_idle()

    def forget_idle(self) -> None:
        """Forget the keys that have not been used for a while and owe nothing."""
        edge = monotonic() - _IDLE_SECONDS
        for key_id, (_, limits) in list(self._keys.items()):
            if limits.used_at < edge and not limits.holds and not self._only_here(limits):
                del self._keys[key_id]
        self._metrics.keys.set(len(self._keys))

    def _only_here(self, limits: KeyLimits) -> bool:
        """Whether what the key has spent is known to nobody else."""
        for window in limits.budgets:
            window.advance(monotonic())
            if window.own and (self._exchange is None or window.pending):
                return True
        return False

    async def _read_spent(self, spent: Spent) -> None:
        failed = False
        while True:
            # What comes after this is not, or not surely, in what the database says.
            wall = wall_clock()
            periods = {kind: period_of(kind, wall)[0] for kind in (TOKENS_PER_DAY, TOKENS_PER_MONTH)}
            own = {window: window.own for _, limits in self._keys.values() for window in limits.budgets}
            try:
                self._read = _Read(await spent(), periods, own)
            except Exception as error:  # whatever it was, the next reading may succeed
                if not failed:
                    _log.error("what keys have spent cannot be read", reason=type(error).__name__)
                failed = True
            else:
                failed = False
                for _, limits in self._keys.values():
                    self._tell_spent(limits)
            await asyncio.sleep(_RETRY_SPENT_SECONDS if failed else _READ_SPENT_SECONDS)

    def _tell_spent(self, limits: KeyLimits) -> None:
        read = self._read
        today, this_month = read.spent.get(limits.key_id, (0, 0))
        for window in limits.budgets:
            spent = today if window.kind is TOKENS_PER_DAY else this_month
            window.known(read.periods.get(window.kind, 0), spent, read.own.get(window, 0))


class _Read(NamedTuple):
    """What the usage database said, and what this gateway had counted when it was asked."""

    spent: Mapping[str, tuple[int, int]]
    periods: Mapping[Kind, int]
    own: Mapping[BudgetWindow, int]
