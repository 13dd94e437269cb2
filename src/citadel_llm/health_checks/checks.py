"""The checks of a Citadel host. Each looks at one thing, as its user would, and changes nothing."""

import datetime
import http.client
import json
import shutil
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from citadel_llm.config import Settings
from citadel_llm.health_checks.health_checker import Check, Finding, Verdict, not_permitted
from citadel_llm.services.service_manager import ManagerError, read_statuses, services_of

_TIMEOUT_SECONDS = 5.0
_GIB = 1024**3
# Below these the disk counts as nearly full: logs and a database still fit, another release does not.
_WARN_FREE_GIB = 5.0
_FAIL_FREE_GIB = 1.0
# Time to decide what becomes of a feature flag before deploys refuse it.
_WARN_FEATURE_DAYS = 14


def checks_of(settings: Settings) -> list[tuple[str, Check]]:
    """All checks that make sense for these settings, in the order in which to read them."""
    return [
        ("features", lambda: features(settings)),
        ("release", lambda: release(settings.root)),
        ("services", lambda: services(settings)),
        ("weights", lambda: weights(settings)),
        ("engines", lambda: engines(settings)),
        ("gateway", lambda: gateway(settings)),
        ("keys", lambda: key_database(settings.gateway.database)),
        ("disk", lambda: disks(settings)),
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


def services(settings: Settings) -> Iterator[Finding]:
    """Every service runs."""
    try:
        statuses = read_statuses(services_of(settings))
    except ManagerError as error:
        yield Finding("services", "unknown", str(error), "run this on the host itself")
        return
    for status in statuses:
        name = f"service {status.name}"
        if status.content:
            yield Finding(name, "ok", status.says or status.state)
        elif status.pending:
            yield Finding(name, "warning", f"{status.state}: {status.says}", "wait, or see `citadel status`")
        else:
            remedy = f"citadel logs {status.name}, then citadel start {status.name}"
            yield Finding(name, "failed", status.says or status.state, remedy)


def weights(settings: Settings) -> Iterator[Finding]:
    """Every model's weights are in their folder."""
    for model in settings.models:
        name, folder = f"weights of {model.name}", model.folder(settings.models_root)
        if (folder / "config.json").is_file():
            yield Finding(name, "ok", str(folder))
        else:
            yield Finding(name, "failed", f"not in {folder}", "deploy the site again: --tags models")


def engines(settings: Settings) -> Iterator[Finding]:
    """Every engine that is loaded answers on its socket."""
    for engine in settings.engines:
        name, path = f"engine of {engine.id}", engine.socket
        if engine.model.on_demand and not path.exists():
            yield Finding(name, "ok", "on demand, not loaded")
            continue
        try:
            code, _ = _get(_UnixConnection(path), "/health")
        except PermissionError as error:
            yield not_permitted(name, error)
        except OSError as error:
            detail = f"{path} does not answer: {error.strerror or error}"
            yield Finding(name, "failed", detail, f"citadel logs {engine.id}")
        else:
            ok = code == http.client.OK
            remedy = "" if ok else f"citadel restart {engine.id}"
            yield Finding(name, "ok" if ok else "failed", f"/health says {code}", remedy)


def gateway(settings: Settings) -> Iterator[Finding]:
    """The gateway answers on its port, and says of which models it can."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.gateway.address, settings.gateway.address)  # noqa: S104
    port = settings.gateway.port
    try:
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
        if settings.gateway.tls:
            # Its certificate names the API, not this address: and it is the host itself that is asked.
            context = ssl._create_unverified_context()  # noqa: S323
            connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_SECONDS, context=context)
        code, body = _get(connection, "/ready")
    except (OSError, http.client.HTTPException) as error:
        yield Finding("gateway", "failed", f"port {port} does not answer: {error}", "citadel logs gateway")
        return
    models = json.loads(body).get("models", []) if body else []
    states = ", ".join(f"{model['model']} {model['state']}" for model in models) or "no models"
    wanted = {model.name for model in settings.served_models if not model.on_demand}
    up = {model["model"] for model in models if model["state"] == "up"}
    if wanted <= up:
        yield Finding("gateway", "ok", f"port {port}: {states}")
    else:
        verdict: Verdict = "warning" if code == http.client.OK else "failed"
        yield Finding("gateway", verdict, f"port {port}, /ready says {code}: {states}", "citadel status")


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


def disks(settings: Settings) -> Iterator[Finding]:
    """There is room on the disks that are written to."""
    seen: set[int] = set()
    for folder in (
        settings.root,
        settings.models_root,
        Path("/var/lib"),
        Path("/var/log"),
        Path("/var/cache"),
    ):
        if not folder.is_dir() or (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(folder).free / _GIB
        detail = f"{free:.1f} GiB free"
        if free < _FAIL_FREE_GIB:
            yield Finding(
                f"disk of {folder}", "failed", detail, "make room: nothing more can be written soon"
            )
        elif free < _WARN_FREE_GIB:
            yield Finding(f"disk of {folder}", "warning", detail, "make room: old releases, logs, caches")
        else:
            yield Finding(f"disk of {folder}", "ok", detail)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except OSError as error:
            error.filename = str(self._path)
            raise


def _get(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
