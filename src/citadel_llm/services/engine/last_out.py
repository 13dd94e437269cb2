"""Engines go after the gateways of their host when both are told to, as at its shutdown.

A gateway that drains has requests in hand, and in its queues, that its engines are to answer yet. systemd
could order the two only by having the start of the gateway wait for every model to load.
"""

import asyncio
import contextlib

import structlog

from citadel_llm.config import Settings
from citadel_llm.services.service_manager import gateway_services
from citadel_llm.services.systemd import Systemd, SystemdError, UnitState

_log = structlog.get_logger("citadel.engine")
# Beyond the gateway's own drain: for its spool, and for what it closes.
_MARGIN_SECONDS = 15.0


def longest_wait(settings: Settings) -> float:
    """How long the gateways may take, in seconds."""
    return settings.gateway.drain_timeout_seconds + _MARGIN_SECONDS


async def after_the_gateways(settings: Settings) -> None:
    """Return when no gateway of this host is on its way down: at once, unless one is."""
    units = [service.unit for service in gateway_services(settings)]
    try:
        async with Systemd() as systemd:
            if not _any_leaves(await systemd.states(units)):
                return
            _log.info("waiting for the gateway to finish")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(longest_wait(settings)):
                    async for _ in systemd.changes(units):
                        if not _any_leaves(await systemd.states(units)):
                            return
    except SystemdError as error:
        _log.warning("systemd does not tell whether the gateway is done", error=str(error))


def _any_leaves(states: list[UnitState]) -> bool:
    """Whether one is being stopped or is about to be; one that is only being reloaded is soon done."""
    return any(
        state.active_state == "deactivating" or (state.job and state.active_state in {"active", "reloading"})
        for state in states
    )
