"""What runs: systemd's units, and processes by the file with their id."""

import os
from pathlib import Path

from citadel_llm.health_checks.probes.look import Probe
from citadel_llm.health_checks.states import Reading
from citadel_llm.services.systemd import Systemd, SystemdError, UnitState


def unit(systemd: Systemd, name: str, *, on_demand: bool = False) -> Probe:
    """A unit is active. One that is on its way up or down, or rests until it is wanted, is not judged."""

    async def probe() -> Reading:
        try:
            [state] = await systemd.states([name])
        except SystemdError as error:
            return Reading("unknown", str(error))
        return judge(state, on_demand=on_demand)

    return probe


def judge(state: UnitState, *, on_demand: bool) -> Reading:
    """What a unit's state means."""
    if state.load_state != "loaded":
        return Reading("failed", f"its unit is {state.load_state}")
    if state.active_state == "failed" or state.sub_state == "auto-restart":
        return Reading("failed", state.status_text or f"systemd: {state.result}")
    if state.job or state.active_state in {"activating", "deactivating", "reloading"}:
        return Reading("skipped", f"{state.active_state}: {state.status_text}".rstrip(": "))
    if state.active_state == "active":
        return Reading("ok", state.status_text or "active")
    return Reading("skipped", "on demand, not loaded") if on_demand else Reading("failed", "stopped")


def pid_file(path: Path) -> Probe:
    """The process whose id stands in a file is there."""

    async def probe() -> Reading:
        return _judge_pid(path)

    return probe


def _judge_pid(path: Path) -> Reading:
    try:
        pid = int(path.read_text().strip())
    except FileNotFoundError:
        return Reading("failed", f"{path} is not there")
    except ValueError:
        return Reading("failed", f"{path} holds no process id")
    try:
        # Asks whether it is there, and does nothing to it; in /proc others' processes are not to be seen.
        os.kill(pid, 0)
    except ProcessLookupError:
        return Reading("failed", f"there is no process {pid}")
    except PermissionError:
        # It is another's, so it is there.
        pass
    return Reading("ok", f"process {pid}")
