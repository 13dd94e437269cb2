"""Look at everything, each check at its own pace, and have done what follows."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from citadel_llm.health_checks.catalogue import HealthCheck
from citadel_llm.health_checks.probes import look
from citadel_llm.health_checks.states import Event, Reading, State, advance

# So that a host's checks do not all begin at once.
_SPREAD_SECONDS = 5.0


class Handler(Protocol):
    """What is told of events."""

    async def handle(self, event: Event, check: HealthCheck, state: State) -> None:
        """Tell of an event, or act on it."""


class Monitor:
    """The checks of a host, with what is known of each.

    Attributes:
        checks: Each after those that it depends on.
        states: What is known of each, by name.
        seconds: How long each one's last look took.
        done: How often something was done about each since this process started.
        changed: Set when there is something new to write down; who does so clears it.
    """

    def __init__(
        self,
        checks: Sequence[HealthCheck],
        handler: Handler,
        known: Mapping[str, State] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.checks = list(checks)
        self.states = {check.name: (known or {}).get(check.name, State()) for check in checks}
        self.seconds: dict[str, float] = {}
        self.done: dict[str, int] = dict.fromkeys(self.states, 0)
        self.changed = asyncio.Event()
        self._handler = handler
        self._clock = clock

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            for check in self.checks:
                group.create_task(self._watch(check), name=check.name)

    async def once(self, check: HealthCheck) -> State:
        """Look at one thing, note what was seen, and have done what follows."""
        began = time.monotonic()
        reading = self.held_back(check)
        if reading is None:
            reading = await look(check.name, check.probe, check.options.timeout_seconds)
            self.seconds[check.name] = time.monotonic() - began
        state, events = advance(check.options, self.states[check.name], reading, self._clock())
        self.states[check.name] = state
        self.changed.set()
        for event in events:
            # Noted before it is done, so that one who is killed meanwhile does not do it once more.
            self.done[check.name] += event == "recover"
            await self._handler.handle(event, check, state)
        return state

    async def _watch(self, check: HealthCheck) -> None:
        await asyncio.sleep(random.uniform(0, min(_SPREAD_SECONDS, check.options.interval_seconds)))  # noqa: S311
        while True:
            await self.once(check)
            await asyncio.sleep(check.options.interval_seconds)

    def held_back(self, check: HealthCheck) -> Reading | None:
        """Why a check is not made: something that it rests on is not well; none when it is."""
        for name in check.options.depends_on:
            state = self.states.get(name)
            if state is not None and not state.stands:
                return Reading("skipped", f"rests on {name}, which is {state.status}")
        return None

    def carried_over(self) -> dict[str, State]:
        """What is known, for a monitor that takes over: readings in a row begin anew."""
        return {name: replace(state, bad=0, good=0) for name, state in self.states.items()}
