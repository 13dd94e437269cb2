"""Ask services that speak HTTP: Qdrant, Prometheus, and any other."""

import http.client
import json
import re
from typing import Any

from .connection import NOT_READY, TLS_ALERT, WRONG, Connection, ServiceError, tls_of
from .terms import Facts

_MOST = 64 * 1024
_OK, _UNAUTHORISED, _FORBIDDEN, _UNAVAILABLE = 200, 401, 403, 503
_FAULT = 400
_WANTS_TLS = "it speaks TLS: set tls to on or verify"


class _Answer(http.client.HTTPConnection):
    """http.client over a connection that is there already."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.host)
        self.sock: Any = connection.socket
        self.auto_open = 0


def get(connection: Connection, service: Facts, path: str) -> tuple[int, str]:
    """Return the status and the beginning of the body of what stands at a path.

    Raises:
        ServiceError: no HTTP answered.
    """
    host, port = service["host"], service["port"]
    shown = f"[{host}]" if ":" in host else host
    asked = _Answer(connection)
    headers = {"Host": f"{shown}:{port}", "User-Agent": "citadel", "Accept": "*/*"}
    try:
        asked.request("GET", path, headers=headers)
        response = asked.getresponse()
        body = response.read(_MOST).decode("utf-8", "replace")
        # What is left would be taken for the next answer.
        if response.read(1):
            connection.close()
    except http.client.HTTPException as error:
        # BadStatusLine carries the line that was no HTTP.
        line = str(error).strip("'\"")
        hint = _WANTS_TLS if TLS_ALERT.decode("latin-1") in line else ""
        raise ServiceError(WRONG, hint or "what answers is no HTTP") from error
    except OSError as error:
        raise connection.failure(error) from error
    return response.status, body


def begin(connection: Connection, service: Facts) -> None:
    """Begin TLS where the service wants it."""
    if tls_of(service) != "off":
        connection.secure(tls_of(service), service.get("ca_file") or "")


def _prefix(service: Facts) -> str:
    path = (service.get("path") or "").rstrip("/")
    return path if path.startswith("/") or not path else f"/{path}"


def ask_http(connection: Connection, service: Facts) -> str:
    """Return the status of the path that the entry names; 400 and above is not what was hoped for."""
    begin(connection, service)
    path = _prefix(service) or "/"
    status, body = get(connection, service, path)
    if status == _FAULT and tls_of(service) == "off" and "https" in body.lower():
        raise ServiceError(WRONG, f"HTTP {status} at {path}: {_WANTS_TLS}")
    if status >= 500:  # noqa: PLR2004 - the server's own faults
        raise ServiceError(NOT_READY, f"HTTP {status} at {path}")
    if status >= _FAULT:
        raise ServiceError(WRONG, f"HTTP {status} at {path}: correct its path")
    return f"HTTP {status} at {path}"


def ask_qdrant(connection: Connection, service: Facts) -> str:
    """Return Qdrant's version; its root and its readiness want no key (Qdrant documentation, "Security")."""
    begin(connection, service)
    prefix = _prefix(service)
    status, body = get(connection, service, f"{prefix}/")
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict) or not str(told.get("title", "")).lower().startswith("qdrant"):
        raise ServiceError(WRONG, f"HTTP {status} at {prefix}/, and it is no Qdrant")
    status, _ = get(connection, service, f"{prefix}/readyz")
    if status != _OK:
        raise ServiceError(NOT_READY, f"Qdrant answers HTTP {status} at {prefix}/readyz")
    return f"Qdrant {told.get('version', 'of unknown version')}"


def ask_prometheus(connection: Connection, service: Facts) -> str:
    """Return that Prometheus is ready (Prometheus documentation, "Management API")."""
    begin(connection, service)
    path = f"{_prefix(service)}/-/ready"
    status, body = get(connection, service, path)
    if status in (_UNAUTHORISED, _FORBIDDEN):
        raise ServiceError(NOT_READY, f"HTTP {status} at {path}: it wants a login, or this host may not ask")
    if status == _UNAVAILABLE:
        _, healthy = get(connection, service, f"{_prefix(service)}/-/healthy")
        if "prometheus" in healthy.lower():
            raise ServiceError(NOT_READY, "Prometheus answers that it is not ready yet")
    if status != _OK or not re.search(r"prometheus.*ready", body, re.IGNORECASE):
        raise ServiceError(WRONG, f"HTTP {status} at {path}, and it is no Prometheus")
    return "Prometheus"
