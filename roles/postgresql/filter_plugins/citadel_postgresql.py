"""Shape the server's settings and its rules of who may log in, and find which version of it there is."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


def version(folders: Iterable[str], cluster: str) -> str:
    """Return the major version to use: the cluster's own where it stands already, else the newest installed.

    Args:
        folders: Folders such as `/usr/lib/postgresql/15/bin` and `/etc/postgresql/15/citadel`.
        cluster: The name of the cluster.

    Returns:
        Such as `15`; empty when there is none.
    """
    installed: set[int] = set()
    standing: set[int] = set()
    for folder in map(PurePath, folders):
        number = folder.parent.name
        if number.isdigit() and folder.name == "bin":
            installed.add(int(number))
        elif number.isdigit() and folder.name == cluster:
            standing.add(int(number))
    found = standing or installed
    return str(max(found)) if found else ""


def configuration(settings: Mapping[str, Any]) -> str:
    """Write settings as lines of postgresql.conf, each value quoted as it wants it."""
    return "".join(f"{name} = {_value(value)}\n" for name, value in settings.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return str(value)
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def access_rules(sources: Iterable[str], database: str, user: str) -> str:
    """Write pg_hba.conf: who may log in, from where, and how; everybody else is refused.

    Args:
        sources: Addresses and networks from which the gateway's role may come, by TLS alone.
        database: The one database that it may open.
        user: The gateway's role.
    """
    lines = [
        _rule("local", "all", "postgres", "", "peer"),
        _rule("local", _quoted(database), _quoted(user), "", "peer"),
    ]
    lines += [
        _rule("hostssl", _quoted(database), _quoted(user), network, "scram-sha-256")
        for network in map(_network, sources)
    ]
    return "\n".join([*lines, ""])


def _rule(kind: str, database: str, user: str, address: str, method: str) -> str:
    return f"{kind:<8} {database:<12} {user:<20} {address:<24} {method}"


def _quoted(name: str) -> str:
    # In quotes no word is a keyword: a database may be called all.
    return f'"{name}"'


def _network(source: str) -> str:
    return str(ipaddress.ip_network(source))


# How libpq's sslmode reads for the check: whether TLS is spoken, and whether the certificate is judged.
_TLS = {
    "disable": "off",
    "allow": "off",
    "prefer": "try",
    "require": "on",
    "verify-ca": "chain",
    "verify-full": "verify",
}
_PORT = 5432


def url_faults(url: str) -> str:
    """Say what is wrong with the URL of a database, as the end of a sentence; nothing when all is well."""
    example = "such as postgresql://citadel@db.example.com:5432/citadel"
    try:
        parts = urlsplit(url)
        port_is_one = parts.port != 0
    except ValueError:
        return f"is no URL: write one {example}"
    if parts.password is not None or "password" in dict(parse_qsl(parts.query)):
        return "holds a password: take it out, and set postgresql_password, from a vault"
    if parts.scheme.partition("+")[0] not in ("postgresql", "postgres"):
        return f"is {url!r}: write one {example}"
    found = target(url)
    missing = [name for name in ("host", "user", "database") if not found[name]]
    if missing or not port_is_one:
        return f"is {url!r}, without a {' and a '.join(missing) or 'port that is one'}: write one {example}"
    if found["tls"] not in _TLS.values():
        return f"has sslmode={found['tls']}: there are {', '.join(_TLS)}"
    return ""


def target(url: str) -> dict[str, Any]:
    """Take a database's URL apart; `host` may be the folder of a unix socket."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    mode = query.get("sslmode", "prefer")
    return {
        "host": query.get("host") or parts.hostname or "",
        "port": int(query.get("port") or parts.port or _PORT),
        "user": unquote(parts.username or query.get("user") or ""),
        "database": unquote(parts.path.lstrip("/")),
        "tls": _TLS.get(mode, mode),
        "ca_file": query.get("sslrootcert", ""),
    }


class FilterModule:
    """The filters, by the names under which templates know them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters."""
        return {
            "citadel_postgresql_version": version,
            "citadel_postgresql_configuration": configuration,
            "citadel_postgresql_access_rules": access_rules,
            "citadel_postgresql_url_faults": url_faults,
            "citadel_postgresql_target": target,
        }
