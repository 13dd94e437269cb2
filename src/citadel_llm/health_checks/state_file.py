"""The state file of the health checks: what others read of it."""

import json
from pathlib import Path
from typing import Any

STATE_FILE = "health/state.json"


def read(run_dir: Path) -> dict[str, Any] | None:
    """What the health service has written; none where there is nothing, or something else."""
    try:
        found = json.loads((run_dir / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("checks"), list) else None


def seen(run_dir: Path) -> list[dict[str, Any]]:
    """What each check sees, as long as the health service runs."""
    state = read(run_dir)
    return state["checks"] if state and state.get("running") else []
