"""What is done when a check has failed: people are told, and what its policy says is done."""

import json
import socket

import structlog

from citadel_llm.config import Settings
from citadel_llm.config.health import Recovery
from citadel_llm.health_checks.catalogue import HealthCheck
from citadel_llm.health_checks.probes.commands import run
from citadel_llm.health_checks.probes.look import look
from citadel_llm.health_checks.states import Event, Reading, State, attempts_left
from citadel_llm.services.service_manager import services_of
from citadel_llm.services.systemd import Systemd, SystemdError

_log = structlog.get_logger("health")

_SAID = {
    "failed": "a check failed",
    "well": "a check is well again",
    "recover": "recovering",
    "gave_up": "recovering was in vain, and is given up for now",
}


class Recoverer:
    """Tells of events, and does what a check's policy says."""

    def __init__(self, settings: Settings, systemd: Systemd) -> None:
        self._health = settings.health
        self._units = {service.name: service.unit for service in services_of(settings)}
        self._systemd = systemd

    async def handle(self, event: Event, check: HealthCheck, state: State) -> None:
        """Tell of an event, and act on it if it is `recover`. Whatever goes wrong is logged."""
        said = describe(event, check, state)
        log = _log.info if event == "well" else _log.warning if event == "recover" else _log.error
        log(_SAID[event], **{key: value for key, value in said.items() if key != "event"})
        if self._health.notify_command:
            await self._run("notify_command", self._health.notify_command, said)
        if event == "recover":
            outcome = await self._recover(check.options.recovery, said)
            _log.warning("recovery over", check=check.name, outcome=outcome)

    async def _recover(self, recovery: Recovery, said: dict[str, object]) -> str:
        if recovery.action == "command":
            return await self._run("command", recovery.command, said)
        unit = self._units[str(recovery.service)]
        try:
            if reason := await self._held_back(unit):
                return reason
            await (self._systemd.stop(unit) if recovery.action == "drain" else self._systemd.restart(unit))
        except SystemdError as error:
            return f"not done: {error}"
        return "drained and stopped" if recovery.action == "drain" else "restarted"

    async def _held_back(self, unit: str) -> str:
        """Why a unit is left alone; empty when it is not. Others may have been at it since the last look."""
        if await self._systemd.shutting_down():
            return "not done: the host is on its way down"
        [state] = await self._systemd.states([unit])
        if state.job or state.active_state not in {"active", "failed"}:
            return f"not done: {unit} is {state.active_state} by somebody else's doing"
        return ""

    async def _run(self, name: str, command: tuple[str, ...], said: dict[str, object]) -> str:
        """Run a command with the event on its standard input; how it went."""

        async def probe() -> Reading:
            ended = await run(command, f"{json.dumps(said)}\n".encode())
            return Reading("ok" if ended.code == 0 else "failed", ended.line or f"code {ended.code}")

        seen = await look(name, probe, self._health.notify_timeout_seconds)
        if seen.verdict != "ok":
            _log.error("a command failed", command=command[0], setting=name, detail=seen.detail)
        return f"{seen.verdict}: {seen.detail}"


def describe(event: Event, check: HealthCheck, state: State) -> dict[str, object]:
    """An event for the log and for commands."""
    recovery = check.options.recovery
    return {
        "event": event,
        "host": socket.gethostname(),
        "check": check.name,
        "kind": check.kind,
        "status": state.status,
        "detail": state.detail,
        "action": recovery.action,
        "target": recovery.service,
        "attempts_left": attempts_left(recovery, state, state.looked),
        "remedy": check.remedy,
    }
