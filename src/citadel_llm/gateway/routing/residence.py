"""Models on demand as the gateway sees them: what the host's manager says of each, and what it is told back.

What they say to each other is `citadel_llm.residency.messages`. Requests for a model that is not awake wait
in its queue; that they do is what the manager brings it up for.
"""

import asyncio
import contextlib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from citadel_llm.residency.messages import (
    GATEWAYS,
    LONGEST_LINE,
    Asked,
    Notice,
    Report,
    State,
    Told,
    line,
    read_notice,
)

if TYPE_CHECKING:
    from citadel_llm.gateway.routing.served import ServedModel

_log = structlog.get_logger("citadel.gateway.residency")

_REPORT_SECONDS = 1.0
# How soon the manager hears of somebody who waits.
_LOOK_SECONDS = 0.05
_RETRY_SECONDS = 0.5
# For so long a manager that is being restarted, and an engine that should be up by its word, are waited for.
_GRACE_SECONDS = 15.0
_PATH = re.compile(r"(?<![\w/])/[^\s:,;)]+")


class Residence:
    """Where a model on demand is.

    Args:
        wait_seconds: How long a request may wait for it.
        clock: Tells the time in seconds.
        sleeps: Whether its engine may run and yet not be awake.

    Attributes:
        state: What the manager said last; None: nothing yet.
        open: Whether requests may be given to its engine.
        reason: Why it did not come up.
        asked: Requests for it so far.
        loads: How often it was brought up.
    """

    def __init__(self, wait_seconds: float, clock: Callable[[], float], *, sleeps: bool = False) -> None:
        self.state: State | None = None
        self.open = False
        self.reason = ""
        self.asked = 0
        self.loads = 0
        self.wait_seconds = wait_seconds
        self._sleeps = sleeps
        self._clock = clock
        self._ready_at = math.inf
        self._opened_at = -math.inf
        self._lost_at: float | None = clock()
        self._returning_until = -math.inf

    def told(self, told: Told) -> None:
        """Take in what the manager says."""
        now = self._clock()
        if told.open and not self.open:
            self._opened_at = now
            # One that was closed and is open again had not gone, and one that was awake all along is not new.
            self.loads += self.state in {"cold", "asleep", "waking", "failed"}
        self.state, self.open, self.reason = told.state, told.open, told.reason
        self._ready_at = now + (told.ready_in or 0.0)
        self._lost_at = None

    def lost(self) -> None:
        """The manager cannot be heard."""
        if self._lost_at is None:
            self._lost_at = self._clock()

    @property
    def held(self) -> bool:
        """Whether an engine that runs may be given nothing."""
        return self._sleeps if self.state is None else not self.open

    @property
    def asleep(self) -> bool:
        """Whether it comes when it is asked for."""
        return not self.open and self.comes(self._clock())

    def comes(self, now: float) -> bool:
        """Whether waiting for it makes sense."""
        if self._lost_at is not None and now - self._lost_at > _GRACE_SECONDS:
            return False
        if self.open:
            return now - self._opened_at < _GRACE_SECONDS
        return self.state != "failed"

    def too_long(self, now: float) -> float | None:
        """Seconds until it is ready, if a request may not wait so long: it is expected back then."""
        seconds = self._ready_at - now
        if self.open or self.state is None or seconds <= self.wait_seconds:
            return None
        self._returning_until = self._ready_at + self.wait_seconds
        return seconds

    def longest_wait(self, now: float, turn: float) -> float:
        """How long one may have waited by now.

        Args:
            now: The clock's time.
            turn: How long one may wait for its turn with a model that is awake.
        """
        if not self.open:
            return self.wait_seconds
        # Those that were gathered while it was brought up have their turn to wait for from then on.
        return turn if now - self._opened_at > turn else self.wait_seconds + turn

    def failure(self, name: str) -> tuple[str, float]:
        """What to tell a client that does not get the model, and after how many seconds it may try again."""
        seconds = self._ready_at - self._clock()
        again = max(1.0, seconds) if math.isfinite(seconds) else _GRACE_SECONDS
        if self._lost_at is not None:
            why = "is not loaded, and what loads it cannot be reached"
        elif self.state == "failed":
            # Clients are told no path of this host.
            why = f"could not be loaded: {_PATH.sub('…', self.reason)}"
        else:
            why = "is not loaded, and others are before it"
        return f"The model '{name}' {why}; try again later.", again

    def report(self, in_hand: int, waiting: int) -> Asked:
        """What the manager is told."""
        if self._clock() < self._returning_until:
            waiting = max(waiting, 1)
        return Asked(in_hand, waiting, self.asked)


class ManagerLink:
    """The gateway's connection to the manager of its host's models on demand.

    Args:
        models: Those models, by name.
        run_dir: The folder of the sockets.
        on_change: Called for each model of which something else is known.
    """

    def __init__(
        self,
        models: Mapping[str, "ServedModel"],
        run_dir: Path,
        on_change: Callable[["ServedModel"], None],
    ) -> None:
        self._models = models
        self._path = run_dir / GATEWAYS
        self._on_change = on_change
        self._seen = -1
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Speak to the manager for ever, whenever it is there."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path, limit=LONGEST_LINE)
            except OSError:
                pass
            else:
                _log.info("the manager is there")
                await self._speak(reader, writer)
                _log.warning("the manager is gone")
            for model in self._models.values():
                assert model.residence is not None  # noqa: S101 - that is what makes it one of these
                model.residence.lost()
                self._on_change(model)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._seen = -1
        reporting = asyncio.create_task(self._keep_reporting(writer))
        try:
            while text := await reader.readline():
                self._take(read_notice(text))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            _log.warning("the manager cannot be understood", error=repr(error))
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
            writer.close()

    def _take(self, notice: Notice) -> None:
        for name, told in notice.models.items():
            model = self._models.get(name)
            if model is not None and model.residence is not None:
                model.residence.told(told)
                self._on_change(model)
        self._seen = notice.number
        self._news.set()

    async def _keep_reporting(self, writer: asyncio.StreamWriter) -> None:
        """Report once a second; at once for a notice, for who begins to wait, and when all is out of hand."""
        loop = asyncio.get_running_loop()
        pressing: object = None
        reported = -math.inf
        with contextlib.suppress(OSError):
            while True:
                models = {name: _asked(model) for name, model in self._models.items()}
                now = loop.time()
                turns = [(each.waiting > 0, each.in_hand > 0) for each in models.values()]
                state = self._seen, turns
                if self._seen >= 0 and (state != pressing or now - reported >= _REPORT_SECONDS):
                    pressing, reported = state, now
                    writer.write(line(Report(self._seen, models)))
                    await writer.drain()
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._news.wait()


def _asked(model: "ServedModel") -> Asked:
    assert model.residence is not None  # noqa: S101 - see ManagerLink.run
    in_hand = sum(engine.outstanding for engine in model.engines if not engine.remote)
    return model.residence.report(in_hand, model.waiting)
