"""systemd over D-Bus: how units are, what changes, and starting and stopping them.

    async with Systemd() as systemd:
        await systemd.restart("citadel-gateway.service")
        async for state in systemd.changes(["citadel-gateway.service"]):
            ...

The interface is org.freedesktop.systemd1(5). Who may do what is polkit's to say (/etc/polkit-1/rules.d).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from dbus_fast import unpack_variants

from citadel_llm.services.systemd_bus import (
    MANAGER,
    PATH,
    PROPERTIES,
    Connection,
    JobFailedError,
    NoSuchUnitError,
    NotPermittedError,
    SystemdError,
)

__all__ = ["JobFailedError", "NoSuchUnitError", "NotPermittedError", "Systemd", "SystemdError", "UnitState"]

_RECONNECT_SECONDS = 1.0
# systemd's number for "not known": its highest.
_NOT_SET = 2**64 - 1


@dataclass(frozen=True)
class UnitState:
    """How a unit is, in systemd's own words.

    Attributes:
        unit: Its name, as it was asked for.
        load_state: loaded, not-found, masked, bad-setting, error.
        active_state: active, reloading, inactive, failed, activating, deactivating.
        sub_state: The same, finer, by the unit's type.
        result: Of a service's last run: success, exit-code, signal, watchdog, oom-kill, …
        status_text: What the service says of itself (sd_notify's STATUS=).
        main_pid: Its main process; none when it has none.
        active_enter: When it last became active, in seconds of CLOCK_MONOTONIC; none when it never did.
        memory_bytes: What it uses; none where systemd does not count it.
        restarts: How often systemd restarted it by itself since it was last started by hand.
        job: Whether something is yet to be done with it.
        cpu_seconds: CPU time of this run; none where systemd does not count it.
    """

    unit: str
    load_state: str = "loaded"
    active_state: str = "inactive"
    sub_state: str = ""
    result: str = "success"
    status_text: str = ""
    main_pid: int | None = None
    active_enter: float | None = None
    memory_bytes: int | None = None
    restarts: int = 0
    job: bool = False
    cpu_seconds: float | None = None


class Systemd:
    """The systemd of this host, over the system bus. One connection, made when needed and again when lost."""

    def __init__(self) -> None:
        self._bus: Connection | None = None
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            SystemdError: There is no system bus (in a container or a chroot), or no systemd on it.
        """
        await self._connection()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bus:
            await self._bus.close()

    async def states(self, units: Sequence[str]) -> list[UnitState]:
        """How these units are, in the same order; `load_state` is "not-found" for those that there are not.

        Raises:
            SystemdError: systemd cannot be asked.
        """
        bus = await self._connection()
        return list(await asyncio.gather(*(_state(bus, unit) for unit in units)))

    async def start(self, unit: str) -> None:
        """Start a unit, and wait until it is up.

        Raises:
            JobFailedError: It did not come up.
            NotPermittedError: This account may not do that.
            SystemdError: There is no such unit, or systemd cannot be asked.
        """
        await self._job("start", unit)

    async def stop(self, unit: str) -> None:
        """Stop a unit, and wait until it is down. Raises as `start`."""
        await self._job("stop", unit)

    async def restart(self, unit: str) -> None:
        """Restart a unit, or start it, and wait until it is up. Raises as `start`."""
        await self._job("restart", unit)

    async def reload(self, unit: str) -> None:
        """Have a unit that runs read its settings again, and wait until it did. Raises as `start`."""
        await self._job("reload", unit)

    async def reset_failed(self, unit: str) -> None:
        """Forget a unit's failures and how often it was started. Raises as `start`."""
        bus = await self._connection()
        # One that systemd has not loaded has not failed.
        with contextlib.suppress(NoSuchUnitError):
            await bus.manager("ResetFailedUnit", unit, doing=f"reset-failed {unit}")

    async def changes(self, units: Sequence[str]) -> AsyncIterator[UnitState]:
        """How these units are now, then how one is each time that anything but its use of resources changes.

        It goes on for ever, over a lost connection, too.

        Raises:
            SystemdError: systemd cannot be asked, at the beginning.
        """
        known: dict[str, UnitState] = {}
        while True:
            try:
                bus = await self._connection()
                async with bus.watching(units) as watch:
                    while bus.alive:
                        for unit in [unit for unit in units if unit in watch.moved]:
                            watch.moved.discard(unit)
                            state = await _state(bus, unit)
                            if unit not in known or _lasting(known[unit]) != _lasting(state):
                                known[unit] = state
                                yield state
                        await watch.wait()
            except SystemdError:
                if len(known) < len(set(units)):
                    raise
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def shutting_down(self) -> bool:
        """Whether the host is on its way down.

        Raises:
            SystemdError: systemd cannot be asked.
        """
        bus = await self._connection()
        asked = [MANAGER, "SystemState"]
        (state,) = await bus.call(PATH, PROPERTIES, "Get", "ss", asked, "systemd cannot be asked")
        return bool(unpack_variants(state) == "stopping")

    async def _job(self, verb: str, unit: str) -> None:
        bus = await self._connection()
        result = await bus.job(f"{verb.capitalize()}Unit", unit, f"{verb} {unit}")
        # Skipped: a condition of the unit's own did not hold, which systemctl takes for done, too.
        if result not in {"done", "skipped"}:
            raise JobFailedError(f"{verb} {unit}", result)

    async def _connection(self) -> Connection:
        async with self._connecting:
            if self._bus is None or not self._bus.alive:
                self._bus = await Connection.open()
            return self._bus


def read_state(unit: str, properties: Mapping[str, Any]) -> UnitState:
    """A unit's state from its D-Bus properties; those of a service are absent where it is none."""
    entered = properties.get("ActiveEnterTimestampMonotonic", 0)
    cpu = _known(properties.get("CPUUsageNSec"))
    return UnitState(
        unit=unit,
        load_state=properties["LoadState"],
        active_state=properties["ActiveState"],
        sub_state=properties["SubState"],
        result=properties.get("Result", "success"),
        status_text=properties.get("StatusText", ""),
        main_pid=properties.get("MainPID") or None,
        active_enter=entered / 1e6 if entered else None,
        memory_bytes=_known(properties.get("MemoryCurrent")),
        restarts=properties.get("NRestarts", 0),
        job=properties["Job"][0] != 0,
        cpu_seconds=None if cpu is None else cpu / 1e9,
    )


async def _state(bus: Connection, unit: str) -> UnitState:
    return read_state(unit, await bus.properties(unit))


def _known(number: int | None) -> int | None:
    return None if number == _NOT_SET else number


def _lasting(state: UnitState) -> UnitState:
    return replace(state, memory_bytes=None, cpu_seconds=None)
