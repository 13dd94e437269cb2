"""What `citadel doctor` looks at. Each check looks at one thing, as its user would, and changes nothing.

What the health service looks at all the time, it looks at once, with the same probes.
"""

import asyncio
import datetime
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from citadel_llm.config import Settings
from citadel_llm.config.health import Recovery
from citadel_llm.health_checks.catalogue import CheckError, HealthCheck, checks_of
from citadel_llm.health_checks.health_checker import Check, Finding, Verdict
from citadel_llm.health_checks.monitor import Monitor
from citadel_llm.health_checks.state_file import read
from citadel_llm.health_checks.states import Event, State
from citadel_llm.services.systemd import Systemd

_TIMEOUT_SECONDS = 5.0
# Time to decide what becomes of a feature flag before deploys refuse it.
_WARN_FEATURE_DAYS = 14
_VERDICTS: dict[str, Verdict] = {"ok": "ok", "warning": "warning", "failed": "failed", "skipped": "ok"}


def doctor_checks(settings: Settings) -> list[tuple[str, Check]]:
    """All checks that make sense for these settings, in the order in which to read them."""
    return [
        ("features", lambda: features(settings)),
        ("release", lambda: release(settings.root)),
        ("weights", lambda: weights(settings)),
        ("keys", lambda: key_database(settings.gateway.database)),
        ("health", lambda: health(settings)),
        ("recoveries", lambda: recoveries(settings)),
    ]


def features(settings: Settings) -> Iterator[Finding]:
    """No feature flag has outlived its last day, or is about to."""
    today = datetime.datetime.now(datetime.UTC).date()
    for name, feature in settings.features.items():
        left = (feature.expires - today).days
        detail = f"{'on' if feature.enabled else 'off'}, {feature.owner}'s, until {feature.expires}"
        if left < _WARN_FEATURE_DAYS:
            remedy = f"ask {feature.owner}: take it out of config_features, or give it a later day"
            yield Finding(f"feature {name}", "warning", detail, remedy)
        else:
            yield Finding(f"feature {name}", "ok", detail)


def release(root: Path) -> Iterator[Finding]:
    """`current` leads to a complete release."""
    link = root / "current"
    if not link.is_symlink():
        yield Finding("release", "failed", f"{link} is not there", "deploy the site again: --tags services")
        return
    target = link.resolve()
    if not (target / "venv" / ".citadel-complete").exists():
        yield Finding(
            "release", "failed", f"{target} is incomplete", "deploy the site again: --tags services"
        )
        return
    yield Finding("release", "ok", target.name)


def weights(settings: Settings) -> Iterator[Finding]:
    """Every model's weights are in their folder."""
    for model in settings.models:
        name, folder = f"weights of {model.name}", model.folder(settings.models_root)
        if (folder / "config.json").is_file():
            yield Finding(name, "ok", str(folder))
        else:
            yield Finding(name, "failed", f"not in {folder}", "deploy the site again: --tags models")


def health(settings: Settings) -> list[Finding]:
    """What the health service looks at, with the site's own checks, each once."""
    try:
        return asyncio.run(_look_at_all(settings))
    except CheckError as error:
        return [
            Finding(
                "health", "failed", str(error), "put it right in config_health, and deploy: --tags config"
            )
        ]


def recoveries(settings: Settings) -> Iterator[Finding]:
    """Nothing was recovered in vain."""
    for check in (read(settings.run_dir) or {"checks": []})["checks"]:
        if check["recovery"]["gave_up"]:
            done = check["recovery"]
            detail = f"{done['action']} was tried {len(done['attempts_at'])} times in vain"
            yield Finding(f"recovery of {check['check']}", "failed", detail, check["remedy"])


def key_database(url: str) -> Iterator[Finding]:
    """The database of the API keys can be read."""
    if not url.startswith("sqlite:"):
        yield Finding("keys", "unknown", f"{urlsplit(url).scheme} is not looked into", "citadel keys list")
        return
    path = Path(urlsplit(url).path.removeprefix("/"))
    try:
        with path.open("rb"):  # says better than SQLite why it cannot be read
            pass
    except FileNotFoundError:
        yield Finding("keys", "failed", f"{path} is not there", "start the gateway; it makes it")
        return
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_TIMEOUT_SECONDS)
    try:
        result = connection.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.Error as error:
        result = str(error)
    finally:
        connection.close()
    if result == "ok":
        yield Finding("keys", "ok", str(path))
    else:
        yield Finding("keys", "failed", f"{path}: {result}", "restore it from the last backup")


class _Nobody:
    """Is told of events, and does nothing."""

    async def handle(self, event: Event, check: HealthCheck, state: State) -> None:
        """Do nothing."""


async def _look_at_all(settings: Settings) -> list[Finding]:
    systemd, findings = Systemd(), []
    monitor = Monitor(checks_of(settings, systemd), _Nobody())
    try:
        for check in monitor.checks:
            at_once = {"failures": 1, "successes": 1, "recovery": Recovery(action="none")}
            state = await monitor.once(replace(check, options=check.options.model_copy(update=at_once)))
            # What rests on something that is not well is told of there.
            if monitor.held_back(check) is None:
                findings.append(_finding(check, state))
    finally:
        await systemd.__aexit__(None, None, None)
    return findings


def _finding(check: HealthCheck, state: State) -> Finding:
    if state.status not in _VERDICTS:
        return Finding(check.name, "unknown", state.detail, "run this as root, on the host itself")
    verdict = _VERDICTS[state.status]
    remedy = check.remedy if verdict != "ok" else ""
    return Finding(check.name, verdict, state.detail, remedy)
