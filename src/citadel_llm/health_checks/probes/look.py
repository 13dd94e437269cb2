"""Look once, whatever comes of it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from citadel_llm.health_checks.states import Reading

Probe = Callable[[], Awaitable[Reading]]

_log = structlog.get_logger("health")


async def look(name: str, probe: Probe, within: float) -> Reading:
    """What a probe sees, within so many seconds.

    No answer in time is a failure. What this account may not look at is unknown, and so is what a probe that
    breaks would have seen.
    """
    try:
        async with asyncio.timeout(within):
            return await probe()
    except TimeoutError:
        return Reading("failed", f"no answer within {within:g} s")
    except PermissionError as error:
        return Reading("unknown", f"not permitted to look at {error.filename or 'it'}")
    except Exception as error:
        _log.exception("the check itself broke", check=name)
        return Reading("unknown", f"the check itself broke: {error!r}")
