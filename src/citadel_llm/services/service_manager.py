"""The services of a host as systemd has them: which there are, how they are, and how they are moved."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from citadel_llm.config import Settings
from citadel_llm.services.systemd import NotPermittedError, Systemd, SystemdError, UnitState

TARGET = "citadel.target"
GATEWAY = "citadel-gateway.service"
HEALTH = "citadel-health.service"
MANAGER = "citadel-manager.service"

State = Literal["running", "starting", "stopping", "stopped", "failed", "missing"]
Verb = Literal["start", "stop", "restart", "reload"]

_STATES: dict[str, State] = {
    "active": "running",
    "reloading": "running",
    "activating": "starting",
    "deactivating": "stopping",
    "failed": "failed",
    "inactive": "stopped",
}


@dataclass(frozen=True)
class Service:
    """A service of this host: what people call it, its unit, and whether it runs only when wanted."""

    name: str
    unit: str
    on_demand: bool = False


@dataclass(frozen=True)
class ServiceStatus:
    """How a service is.

    Attributes:
        name: What people call it.
        unit: Its systemd unit.
        state: running, starting, stopping, stopped, failed, or missing (no such unit is installed).
        says: The service's own line about itself, or systemd's reason for a failure.
        pid: Its main process; none when it does not run.
        seconds: How long it has been running; none when it does not.
        memory_bytes: What it uses; none where systemd does not count it.
        restarts: How often systemd had to restart it since it was last started by hand.
        pending: Whether systemd has something yet to do with it.
        on_demand: Whether it runs only when wanted.
        cpu_seconds: CPU time since it was started; none where systemd does not count it.
    """

    name: str
    unit: str
    state: State
    says: str = ""
    pid: int | None = None
    seconds: float | None = None
    memory_bytes: int | None = None
    restarts: int = 0
    pending: bool = False
    on_demand: bool = False
    cpu_seconds: float | None = None

    @property
    def content(self) -> bool:
        """Whether it is as it should be: it runs, or nobody wanted it yet."""
        return self.state == "running" or (self.on_demand and self.state == "stopped")

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self)


def services_of(settings: Settings) -> list[Service]:
    """The services that the settings ask for: gateway, engines, who lets these take turns, health checks."""
    engines = [Service(engine.id, engine.unit, engine.model.on_demand) for engine in settings.engines]
    manager = [Service("manager", MANAGER)] if settings.models_on_demand else []
    return [*gateway_services(settings), *manager, *engines, Service("health", HEALTH)]


def find_services(settings: Settings, name: str) -> list[Service]:
    """The services of this name: `gateway` for its workers, a model's or alias's engines, one, or a unit."""
    if name == "gateway":
        return gateway_services(settings)
    model = settings.model(name)
    engines = model.engine_ids if model else ()
    return [each for each in services_of(settings) if name in (each.name, each.unit) or each.name in engines]


class OnDemandError(SystemdError):
    """An engine on demand is to come up that only its manager can make room for."""


def read_statuses(services: Sequence[Service]) -> list[ServiceStatus]:
    """Ask systemd how the services are.

    Raises:
        SystemdError: systemd cannot be asked.
    """

    async def ask() -> list[ServiceStatus]:
        async with Systemd() as systemd:
            return await statuses_of(systemd, services)

    return asyncio.run(ask())


async def statuses_of(systemd: Systemd, services: Sequence[Service]) -> list[ServiceStatus]:
    """How the services are, in the same order.

    Raises:
        SystemdError: systemd cannot be asked.
    """
    states = await systemd.states([service.unit for service in services])
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    return [status_of(service, state, now) for service, state in zip(services, states, strict=True)]


def plan(verb: Verb, before: Sequence[ServiceStatus], *, whole: bool) -> list[tuple[Verb, str]]:
    """What systemd is to do to which unit.

    A gateway that runs is not restarted but reloaded: a successor takes over from it, without a gap.

    Args:
        verb: What is to be done with the services.
        before: How they are now.
        whole: Whether they are all that there are.

    Raises:
        OnDemandError: One is to come up that only its manager can make room for.
    """
    if whole and verb != "reload":
        return [(verb, TARGET)]
    for one in before:
        if one.on_demand and one.state in {"stopped", "failed"} and verb in {"start", "restart"}:
            raise OnDemandError(
                f"{one.name} runs on demand: citadel models load {one.name}, which makes room for it first"
            )
    gateways = {one.unit for one in before if one.state == "running" and _is_gateway(one.unit)}
    reloaded = gateways if verb in {"reload", "restart"} else set()
    # systemd reloads the gateway's further workers with the first, after it.
    along = reloaded - {GATEWAY} if GATEWAY in reloaded else set()
    return [("reload" if one.unit in reloaded else verb, one.unit) for one in before if one.unit not in along]


async def carry_out(
    verb: Verb,
    services: Sequence[Service],
    *,
    whole: bool,
    show: Callable[[list[ServiceStatus]], None],
    interval: float = 0.5,
) -> tuple[list[ServiceStatus], list[str]]:
    """Start, stop, restart or reload services, and wait until nothing moves any more.

    Args:
        verb: What is to be done with them.
        services: With which.
        whole: Whether they are all that there are.
        show: Told how they are, again and again meanwhile.
        interval: Between two looks, in seconds.

    Returns:
        How they are at the end, and what went wrong.

    Raises:
        NotPermittedError: This account may not do that.
        SystemdError: systemd cannot be asked.
    """
    async with Systemd() as systemd:
        before = await statuses_of(systemd, services)
        if verb == "reload" and whole:
            before = [one for one in before if one.state == "running"]
            services = [service for service in services if service.unit in {one.unit for one in before}]
        planned = plan(verb, before, whole=whole)
        if verb in {"start", "restart"}:
            # Who starts by hand has looked at the cause; systemd would refuse after too many failures.
            for failed in (one for one in before if one.state == "failed"):
                await systemd.reset_failed(failed.unit)
        jobs = [asyncio.ensure_future(_do(systemd, *each)) for each in planned]
        try:
            while True:
                done = all(job.done() for job in jobs)
                statuses = await statuses_of(systemd, services)
                show(statuses)
                if done and not any(status.pending for status in statuses):
                    break
                # The target's own job is over before those of its services.
                await (asyncio.sleep(interval) if done else asyncio.wait(jobs, timeout=interval))
            complaints = [complaint for job in jobs if (complaint := job.result())]
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
    if not complaints and any(each == "reload" for each, _ in planned):
        complaints = [
            f"{new.name} goes on as it was: see `citadel logs {new.name}`"
            for old, new in zip(before, statuses, strict=True)
            if _is_gateway(new.unit) and old.state == "running" and new.pid == old.pid
        ]
    return statuses, complaints


async def _do(systemd: Systemd, verb: Verb, unit: str) -> str:
    """Have it done. What systemd complains of; empty when it is content."""
    acts = {
        "start": systemd.start,
        "stop": systemd.stop,
        "restart": systemd.restart,
        "reload": systemd.reload,
    }
    try:
        await acts[verb](unit)
    except NotPermittedError:
        raise
    except SystemdError as error:
        return str(error)
    return ""


def _is_gateway(unit: str) -> bool:
    return unit.startswith(("citadel-gateway.", "citadel-gateway@"))


def gateway_services(settings: Settings) -> list[Service]:
    """The gateway's workers."""
    numbers = range(2, settings.gateway.workers + 1)
    further = [Service(f"gateway.{number}", f"citadel-gateway@{number}.service") for number in numbers]
    return [Service("gateway", GATEWAY), *further]


def status_of(service: Service, unit: UnitState, now: float) -> ServiceStatus:
    """A service's status from its unit's state.

    Args:
        service: The service.
        unit: What systemd says of its unit.
        now: CLOCK_MONOTONIC, in seconds.
    """
    if unit.load_state in {"not-found", "bad-setting", "error", "masked"}:
        says = f"its unit is {unit.load_state}"
        return ServiceStatus(service.name, service.unit, "missing", says, on_demand=service.on_demand)
    retrying = unit.sub_state == "auto-restart"
    state = "failed" if retrying else _STATES.get(unit.active_state, "stopped")
    running = state == "running" and unit.active_enter is not None
    return ServiceStatus(
        name=service.name,
        unit=service.unit,
        state=state,
        says=_says(service, unit, state, retrying=retrying),
        pid=unit.main_pid,
        seconds=round(now - (unit.active_enter or 0), 1) if running else None,
        memory_bytes=unit.memory_bytes,
        restarts=unit.restarts,
        pending=state in {"starting", "stopping"} or unit.job,
        on_demand=service.on_demand,
        cpu_seconds=unit.cpu_seconds,
    )


def _says(service: Service, unit: UnitState, state: State, *, retrying: bool) -> str:
    if state == "stopped":
        return "on demand: the first request loads it" if service.on_demand else ""
    if state != "failed":
        return unit.status_text
    reason = unit.status_text or f"systemd: {unit.result}"
    return f"{reason} (systemd tries again)" if retrying else reason
