"""The services of a host as systemd has them: which there are, how they are, and starting and stopping them.

Speaks to systemd through `systemctl`. Who is not root goes through sudo, with exactly the commands that the
operator's account is granted: one verb and one unit, no options.
"""

import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from citadel_llm.config import Settings

SYSTEMCTL = "/usr/bin/systemctl"
SUDO = "/usr/bin/sudo"
TARGET = "citadel.target"
GATEWAY = "citadel-gateway.service"
HEALTH = "citadel-health.service"
MANAGER = "citadel-manager.service"

State = Literal["running", "starting", "stopping", "stopped", "failed", "missing"]
Verb = Literal["start", "stop", "restart", "reload", "reset-failed"]

_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "StatusText",
    "MainPID",
    "ActiveEnterTimestampMonotonic",
    "MemoryCurrent",
    "NRestarts",
    "Job",
)
_STATES: dict[str, State] = {
    "active": "running",
    "reloading": "running",
    "activating": "starting",
    "deactivating": "stopping",
    "failed": "failed",
    "inactive": "stopped",
}


class ManagerError(Exception):
    """systemd could not be asked or did not do it. The message is for people."""


class NotPermittedError(ManagerError):
    """This account may not do that."""


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
    return [*_gateway(settings), *manager, *engines, Service("health", HEALTH)]


def find_services(settings: Settings, name: str) -> list[Service]:
    """The services of this name: `gateway` for its workers, a model's or alias's engines, one, or a unit."""
    if name == "gateway":
        return _gateway(settings)
    model = settings.model(name)
    engines = model.engine_ids if model else ()
    return [each for each in services_of(settings) if name in (each.name, each.unit) or each.name in engines]


def replaces(service: Service, status: "ServiceStatus") -> bool:
    """Whether a reload restarts a service: a successor takes over from the one that runs, without a gap."""
    return service.unit.startswith("citadel-gateway") and status.state == "running"


def read_statuses(services: Sequence[Service]) -> list[ServiceStatus]:
    """Ask systemd how the services are, in one call.

    Raises:
        ManagerError: systemd cannot be asked.
    """
    units = [service.unit for service in services]
    command = [SYSTEMCTL, "show", f"--property={','.join(_PROPERTIES)}", "--", *units]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
    except OSError as error:
        raise ManagerError(f"{SYSTEMCTL} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise ManagerError("systemd did not answer within 30 s") from error
    if done.returncode != 0:
        complaint = done.stderr.strip() or f"systemctl ended with code {done.returncode}"
        raise ManagerError(f"systemd cannot be asked: {complaint}")
    return parse_statuses(services, done.stdout, time.clock_gettime(time.CLOCK_MONOTONIC))


def parse_statuses(services: Sequence[Service], shown: str, now: float) -> list[ServiceStatus]:
    """Read what `systemctl show` wrote.

    Args:
        services: In the order in which they were asked for: systemd answers in the same.
        shown: A block of `Key=value` lines for each, an empty line between.
        now: CLOCK_MONOTONIC, in seconds.
    """
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in _blocks(shown)
    ]
    if len(blocks) != len(services):
        raise ManagerError(f"systemd told of {len(blocks)} units where {len(services)} were asked for")
    return [_status(service, block, now) for service, block in zip(services, blocks, strict=True)]


def change(verb: Verb, unit: str) -> "Change":
    """Have systemd start, stop, restart or reload a unit, or forget how often it has failed.

    Raises:
        ManagerError: systemctl or sudo cannot be run.
    """
    command = [SYSTEMCTL, verb, unit]
    if os.geteuid() != 0:
        command = [SUDO, "-n", *command]
    try:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        raise ManagerError(f"{command[0]} cannot be run: {error.strerror}") from error
    return Change(process, " ".join(command))


class Change:
    """A change in progress: `systemctl` at work."""

    def __init__(self, process: subprocess.Popen[str], command: str) -> None:
        self._process = process
        self._command = command

    @property
    def over(self) -> bool:
        """Whether systemctl has come back."""
        return self._process.poll() is not None

    def result(self) -> str:
        """Wait for the end. What systemctl complained of, empty when it was content.

        Raises:
            NotPermittedError: This account may not do that.
        """
        _, complaint = self._process.communicate()
        if self._process.returncode == 0:
            return ""
        refusals = ("sudo:", "Access denied", "authentication required", "not allowed", "Permission denied")
        if any(refusal in complaint for refusal in refusals):
            raise NotPermittedError(f"not permitted: {self._command}\n{complaint.strip()}")
        return complaint.strip() or f"{self._command} ended with code {self._process.returncode}"


def watch(
    services: Sequence[Service], changes: Iterable[Change], interval: float = 0.5
) -> Iterator[list[ServiceStatus]]:
    """How the services are, again and again, until the changes are over and nothing moves any more.

    Raises:
        ManagerError: systemd cannot be asked.
    """
    changes = list(changes)
    while True:
        over = all(each.over for each in changes)
        statuses = read_statuses(services)
        yield statuses
        if over and not any(status.pending for status in statuses):
            return
        time.sleep(interval)


def _gateway(settings: Settings) -> list[Service]:
    numbers = range(2, settings.gateway.workers + 1)
    further = [Service(f"gateway.{number}", f"citadel-gateway@{number}.service") for number in numbers]
    return [Service("gateway", GATEWAY), *further]


def _blocks(shown: str) -> list[str]:
    return [block for block in shown.strip().split("\n\n") if block.strip()]


def _status(service: Service, block: dict[str, str], now: float) -> ServiceStatus:
    if block.get("LoadState") in {"not-found", "bad-setting", "error", "masked"}:
        says = f"its unit is {block['LoadState']}"
        return ServiceStatus(service.name, service.unit, "missing", says, on_demand=service.on_demand)
    retrying = block.get("SubState") == "auto-restart"
    state = "failed" if retrying else _STATES.get(block.get("ActiveState", ""), "stopped")
    entered = int(block.get("ActiveEnterTimestampMonotonic") or 0) / 1_000_000
    return ServiceStatus(
        name=service.name,
        unit=service.unit,
        state=state,
        says=_says(service, block, state, retrying=retrying),
        pid=int(block.get("MainPID") or 0) or None,
        seconds=round(now - entered, 1) if state == "running" and entered else None,
        memory_bytes=_number(block.get("MemoryCurrent", "")),
        restarts=_number(block.get("NRestarts", "")) or 0,
        pending=state in {"starting", "stopping"} or block.get("Job", "0") not in {"", "0"},
        on_demand=service.on_demand,
    )


def _says(service: Service, block: dict[str, str], state: State, *, retrying: bool) -> str:
    text = block.get("StatusText", "")
    if state == "stopped":
        return f"on demand: citadel start {service.name}" if service.on_demand else ""
    if state != "failed":
        return text
    reason = text or f"systemd: {block.get('Result', 'failed')}"
    return f"{reason} (systemd tries again)" if retrying else reason


def _number(text: str) -> int | None:
    """A count of systemd's; `[not set]` and the highest number stand for unknown."""
    return int(text) if text.isdigit() and int(text) < 2**63 else None
