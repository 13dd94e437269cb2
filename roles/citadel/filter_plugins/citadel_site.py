"""Shape the inventory into what the nodes of a site know of each other, and of their database."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

# What another host's variables do not say: the defaults of the role citadel, and of the schema.
DEFAULT_PORT = 8000
DEFAULT_ADDRESS = "0.0.0.0"  # noqa: S104 - compared with, not listened on
DEFAULT_DATABASE = "sqlite:////var/lib/citadel/gateway/citadel.db"
POSTGRESQL_PORT = 5432

_EVERY_ADDRESS = {"0.0.0.0", "::", "127.0.0.1", "::1"}  # noqa: S104 - addresses that lead nowhere else
_SOCKETS = "/run/postgresql"
_DRIVER = "postgresql+psycopg"
_NOT_OURS = {"postgres", "postgresql", "postgresql+psycopg2"}


def nodes(hostvars: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[dict[str, Any]]:
    """Describe the hosts of a site as their neighbours see them.

    Args:
        hostvars: The variables of all hosts, by their names.
        names: The hosts of the group `citadel`, in the inventory's order.

    Returns:
        For each its `name`, the `address` by which the others reach it, the `url` of its gateway, and the
        `models` that its engines serve.
    """
    return [_node(name, hostvars[name]) for name in names]


def _node(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    address = str(variables.get("config_node_address") or _address(name, variables))
    scheme = api_scheme(variables.get("config_gateway") or {})
    return {
        "name": str(name),
        "address": address,
        "url": f"{scheme}://{_in_url(address)}:{int(variables.get('citadel_api_port', DEFAULT_PORT))}",
        "models": [
            str(model["name"])
            for model in variables.get("citadel_models") or []
            if model.get("runtime", "vllm") == "vllm"
        ],
    }


def _address(name: str, variables: Mapping[str, Any]) -> Any:
    listens = variables.get("citadel_api_address", DEFAULT_ADDRESS)
    return variables.get("ansible_host", name) if listens in _EVERY_ADDRESS else listens


def api_scheme(gateway: Mapping[str, Any]) -> str:
    """Return how a gateway with these settings is spoken to."""
    return "https" if gateway.get("tls") else "http"


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def peers(site: Iterable[Mapping[str, Any]], own: str, ca_file: str = "") -> list[dict[str, Any]]:
    """Return `gateway.peers` for the host `own`: the gateways of all others, with what they serve."""
    vouched = {"ca_file": ca_file} if ca_file else {}
    return [
        {"name": node["name"], "url": node["url"], **vouched, "models": list(node["models"])}
        for node in site
        if node["name"] != own
    ]


def others(site: Iterable[Mapping[str, Any]], own: str) -> list[str]:
    """Return the addresses of all hosts but `own`."""
    return [node["address"] for node in site if node["name"] != own]


def address_of(site: Iterable[Mapping[str, Any]], name: str) -> str:
    """Return the address of one host; empty when it is none of the site's."""
    return next((node["address"] for node in site if node["name"] == name), "")


def not_addresses(values: Iterable[str]) -> list[str]:
    """Return those of the values that are neither an IP address nor a network: names, for instance."""
    return [value for value in values if not _is_network(value)]


def _is_network(value: str) -> bool:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return True


def not_there(addresses: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return those of the addresses to listen on that the host does not have; names are its own affair."""
    here = {*own, "127.0.0.1", "::1", "0.0.0.0", "::"}  # noqa: S104 - addresses to compare with
    return [address for address in addresses if address not in here and _is_address(address)]


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def local_database(database: str, user: str, port: int) -> str:
    """Return the URL of a database on the same host, by its unix socket: who asks is known to the kernel."""
    query = {"host": _SOCKETS} | ({"port": port} if int(port) != POSTGRESQL_PORT else {})
    return f"{_DRIVER}://{user}@/{database}?{urlencode(query, safe='/')}"


def remote_database(database: str, user: str, port: int, address: str, ca_file: str = "") -> str:
    """Return the URL of a database on another node, over TLS.

    Without authorities that vouch for its certificate the server proves itself all the same: both sides show
    that they know the password, bound to this very TLS connection (RFC 5802, RFC 5929), so nobody stands
    between them.
    """
    query = {"sslmode": "verify-full", "sslrootcert": ca_file} if ca_file else {"sslmode": "require"}
    query["channel_binding"] = "require"
    return f"{_DRIVER}://{user}@{_in_url(address)}:{int(port)}/{database}?{urlencode(query, safe='/')}"


def limits_store(address: str, port: int, user: str) -> str:
    """Return the URL of the Valkey in which the gateways count limits together."""
    return f"valkey://{user}@{_in_url(address)}:{int(port)}/0"


def external_database(url: str) -> str:
    """Return a URL as people write it with the driver that the gateway has."""
    scheme, mark, rest = url.partition("://")
    return f"{_DRIVER}://{rest}" if mark and scheme in _NOT_OURS else url


def database_change(deployed: str, wanted: str) -> str:
    """Say what a change of the gateway's database means; nothing where there is none.

    Args:
        deployed: The file of the gateway's settings as it stands on the host; empty when there is none.
        wanted: The database that it will name; empty for the default.
    """
    settings = (yaml.safe_load(deployed) or {}).get("gateway") or {}
    before, after = settings.get("database") or DEFAULT_DATABASE, wanted or DEFAULT_DATABASE
    if not deployed or before == after:
        return ""
    return (
        f"The gateway's database changes from {before} to {after}. Keys, usage and the audit log do not go"
        " along by themselves: keys of the old one are refused from now on, unless they were copied before"
        " (`citadel database copy`, see docs/database.md)."
    )


def is_shared_database(url: str) -> bool:
    """Tell whether several hosts can use the database that a URL names: a file, or none, they cannot."""
    return bool(url) and not urlsplit(url).scheme.startswith("sqlite")


class FilterModule:
    """The filters, by the names under which templates know them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters."""
        return {
            "citadel_nodes": nodes,
            "citadel_peers": peers,
            "citadel_others": others,
            "citadel_api_scheme": api_scheme,
            "citadel_address_of": address_of,
            "citadel_not_addresses": not_addresses,
            "citadel_not_there": not_there,
            "citadel_local_database": local_database,
            "citadel_remote_database": remote_database,
            "citadel_limits_store": limits_store,
            "citadel_external_database": external_database,
            "citadel_database_change": database_change,
            "citadel_is_shared_database": is_shared_database,
        }
