"""What is done to the site, one thing after the other, and when each is over."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.chaos import host
from bench.chaos.host import ENGINES, STATE

# An engine that was killed is up again in half a minute or two, on two cores that the load shares.
_PATIENCE_SECONDS = 300
_LOOK_EVERY_SECONDS = 0.5


class NotOverError(Exception):
    """The site is not as it was before, long after the fault."""


@dataclass(frozen=True)
class Fault:
    """One thing that is taken away, and given back.

    Attributes:
        name: What the table calls it.
        inject: What root does on the host (sh).
        felt: Until when the fault is left as it is; it ends when this is true.
        least: Seconds that it lasts at least.
        undo: What gives it back; empty when the site helps itself.
        gateway_dies: Whether the gateway's connections cannot but break.
    """

    name: str
    inject: str
    felt: Callable[[], Awaitable[bool]] | None = None
    least: float = 0.0
    undo: str = ""
    gateway_dies: bool = False


async def _an_engine_is_out() -> bool:
    states = await host.engine_states()
    return bool(states) and any(state != "up" for state in states.values())


async def _records_wait_in_memory() -> bool:
    return (await host.gateway_metrics()).get("citadel_gateway_usage_held_bytes", 0) > 0


async def _records_wait_in_the_spool() -> bool:
    metrics = await host.gateway_metrics()
    return metrics.get("citadel_gateway_usage_delivery_errors_total", 0) > 0


async def _counts_alone() -> bool:
    return (await host.gateway_metrics()).get("citadel_gateway_limit_store_up") == 0


async def _is_whole() -> bool:
    """Whether all is as before: engines up, limits counted together, nothing waits to be noted."""
    states = await host.engine_states()
    metrics = await host.gateway_metrics()
    return (
        sorted(states) == sorted(ENGINES)
        and set(states.values()) == {"up"}
        and metrics.get("citadel_gateway_limit_store_up") == 1
        and metrics.get("citadel_gateway_usage_held_bytes") == 0
    )


async def _is_noted() -> bool:
    metrics = await host.gateway_metrics()
    return (
        metrics.get("citadel_gateway_usage_undelivered_bytes") == 0
        and metrics.get("citadel_gateway_usage_held_bytes") == 0
    )


async def wait_until(true: Callable[[], Awaitable[bool]], what: str) -> None:
    """Look again and again.

    Raises:
        NotOverError: It did not become true.
    """
    last = time.monotonic() + _PATIENCE_SECONDS
    while not await true():
        if time.monotonic() > last:
            raise NotOverError(f"after {_PATIENCE_SECONDS} s not yet: {what}")
        await asyncio.sleep(_LOOK_EVERY_SECONDS)


async def until_whole() -> None:
    """Wait until the site is as it was."""
    await wait_until(_is_whole, "engines up, limits counted together, records on the disk")


async def until_noted() -> None:
    """Wait until all use stands in the database."""
    await wait_until(_is_noted, "all use in the database")


def _vllm(number: int, send: str) -> str:
    """Send a signal to all processes of an engine's vLLM; its supervisor is another group."""
    unit = f"citadel-engine@{ENGINES[number]}.service"
    return f"""
main=$(systemctl show --property=MainPID --value {unit})
groups=$(ps -o pgid= --ppid "$main" | sort -u)
test -n "$groups"
for group in $groups; do /bin/kill -{send} -- "-$group"; done
"""


_FILL = f"""
free=$(df --output=avail --block-size=1 {STATE} | tail -1)
fallocate --length "$free" {STATE}/filler
dd if=/dev/zero of={STATE}/rest bs=4k 2>/dev/null || true
test "$(df --output=avail --block-size=1 {STATE} | tail -1)" -lt 4096
"""
_FREE = f"rm -f {STATE}/filler {STATE}/rest\n"
_SERVER = """
unit=$(systemctl list-units --all --plain --no-legend '{pattern}' | cut -d' ' -f1)
test -n "$unit"
systemctl {verb} "$unit"
"""


def _server(verb: str, pattern: str) -> str:
    return _SERVER.format(verb=verb, pattern=pattern)


_POSTGRESQL = "postgresql@*-citadel.service"
_VALKEY = "*-server@citadel.service"

FAULTS = [
    Fault("no fault", "true", least=10),
    Fault("`kill -9` of an engine", _vllm(0, "KILL"), felt=_an_engine_is_out),
    Fault(
        "an engine stopped by SIGSTOP, after 20 s SIGCONT",
        _vllm(1, "STOP"),
        felt=_an_engine_is_out,
        least=20,
        undo=_vllm(1, "CONT"),
    ),
    Fault("the disk of spool and state full for 10 s", _FILL, least=10, undo=_FREE),
    Fault(
        "a new gateway (reload) while that disk is full",
        f"{_FILL}systemctl reload citadel-gateway\n",
        felt=_records_wait_in_memory,
        least=5,
        undo=_FREE,
    ),
    Fault(
        "PostgreSQL stopped for 15 s",
        _server("stop", _POSTGRESQL),
        felt=_records_wait_in_the_spool,
        least=15,
        undo=_server("start", _POSTGRESQL),
    ),
    Fault(
        "Valkey stopped for 10 s",
        _server("stop", _VALKEY),
        felt=_counts_alone,
        least=10,
        undo=_server("start", _VALKEY),
    ),
    Fault(
        "`kill -9` of the gateway",
        "kill -9 $(systemctl show --property=MainPID --value citadel-gateway)\n",
        least=5,
        gateway_dies=True,
    ),
    Fault("the gateway reloaded (hand-over)", "systemctl reload citadel-gateway\n", least=5),
    Fault("`citadel restart` of an engine (drain)", f"citadel restart {ENGINES[1]}\n", least=2),
]
