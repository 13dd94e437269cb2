"""The background exchange with the store: tells what this gateway let through, hears what the others did."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog

from citadel_llm.gateway.limits.key_limits import KeyLimits, monotonic
from citadel_llm.gateway.limits.metrics import LimitMetrics
from citadel_llm.gateway.limits.minute import COLD_SECONDS
from citadel_llm.gateway.limits.store import LimitStore, LimitStoreError
from citadel_llm.gateway.limits.windows import Step, Window, wall_clock

_log = structlog.get_logger("citadel.gateway.limits")

# Between two exchanges, at least and, while keys are in use, at most.
_LEAST_SECONDS = 0.005
_MOST_SECONDS = 0.25
# Between two attempts while the store is away.
_RETRY_SECONDS = 1.0
# Keys in one round trip: what is sent stays small enough not to hold up the event loop.
_KEYS_AT_ONCE = 200
# Each gateway adds one to the counter of each such span of Unix time: so they know how many they are.
_PRESENCE_SECONDS = 15
_COUNT_SECONDS = 1.0


class Exchange:
    """Keeps the windows of all keys in step with the store.

    While the store is away each gateway limits by itself, with its share of every limit: the limit divided by
    the gateways that were seen last.

    Args:
        store: The store.
        metrics: Told whether it is there.
        woken: Set when the store should be asked at once.
    """

    def __init__(self, store: LimitStore, metrics: LimitMetrics, woken: asyncio.Event) -> None:
        self._store = store
        self._metrics = metrics
        self._woken = woken
        # None before the first attempt.
        self._up: bool | None = None
        self._gateways = 1
        self._present_in = -1
        self._count_again_at = 0.0
        metrics.gateways.set(1)

    def apply(self, limits: KeyLimits) -> None:
        """Have the limits of a key counted as all are now."""
        for window in limits.windows.values():
            if self._up is False:
                window.count_alone(self._gateways)
            else:
                window.count_together()
        self._woken.set()

    async def run(self, keys: Callable[[], list[KeyLimits]]) -> None:
        """Exchange until cancelled.

        Args:
            keys: Gives those that have limits.
        """
        while True:
            self._woken.clear()
            try:
                if not self._up:
                    # First a question without consequences: one that hangs may take what it was told later.
                    await self._store.check()
                await self._exchange(self._due(keys()))
            except LimitStoreError as error:
                self._is_away(str(error), keys())
            except OSError as error:
                self._is_away(f"its password cannot be read: {error.strerror}", keys())
            except (
                Exception
            ) as error:  # whatever it was, requests must go on and the next attempt may succeed
                self._is_away(f"an answer that cannot be understood ({type(error).__name__})", keys())
            else:
                self._is_there(keys())
            if not self._up:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            await asyncio.sleep(_LEAST_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), _MOST_SECONDS)

    async def end(self, keys: Callable[[], list[KeyLimits]]) -> None:
        """Tell what was not told yet, and close the store."""
        if self._up:
            with suppress(LimitStoreError, OSError):
                await self._exchange(self._due(keys()))
        await self._store.close()

    def _due(self, keys: Iterable[KeyLimits]) -> list[KeyLimits]:
        """The keys that are in use, or have something to tell."""
        edge = monotonic() - COLD_SECONDS
        return [
            each
            for each in keys
            if each.used_at > edge or each.holds or any(w.pending for w in each.windows.values())
        ]

    async def _exchange(self, keys: list[KeyLimits]) -> None:
        await self._count_gateways()
        for first in range(0, len(keys), _KEYS_AT_ONCE):
            windows = [w for each in keys[first : first + _KEYS_AT_ONCE] for w in each.windows.values()]
            wall = wall_clock()
            asked = [(window, window.ask(wall)) for window in windows]
            values = await self._store.exchange([step for _, steps in asked for step in steps])
            self._metrics.exchanges.inc()
            _hand_out(asked, values, wall)

    async def _count_gateways(self) -> None:
        """Be counted once in each span of time; read how many were counted in this one and the one before."""
        wall = wall_clock()
        if wall < self._count_again_at:
            return
        span = int(wall // _PRESENCE_SECONDS)
        keep = 3 * _PRESENCE_SECONDS
        present = Step(f"gateways:{span}", int(span != self._present_in), keep)
        counts = await self._store.exchange([Step(f"gateways:{span - 1}", 0, keep), present])
        self._present_in = span
        self._count_again_at = wall + _COUNT_SECONDS
        self._gateways = max(1, *counts)
        self._metrics.gateways.set(self._gateways)

    def _is_away(self, reason: str, keys: Iterable[KeyLimits]) -> None:
        if self._up is not False:
            _log.error(
                "the limits' store cannot be used: each gateway limits by itself, with its share",
                reason=reason,
                gateways=self._gateways,
            )
            self._metrics.store_up.set(0)
            for limits in keys:
                for window in limits.windows.values():
                    window.count_alone(self._gateways)
        self._up = False

    def _is_there(self, keys: Iterable[KeyLimits]) -> None:
        if not self._up:
            _log.info("limits are counted together with the other gateways", gateways=self._gateways)
            self._metrics.store_up.set(1)
            self._up = True
            for limits in keys:
                for window in limits.windows.values():
                    window.count_together()
            self._woken.set()


def _hand_out(asked: list[tuple[Window, list[Step]]], values: list[int], wall: float) -> None:
    now = monotonic()
    begin = 0
    for window, steps in asked:
        end = begin + len(steps)
        window.hear(now, wall, values[begin:end])
        begin = end
