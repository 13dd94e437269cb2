"""Who a client is that comes through a proxy: `X-Forwarded-For`, believed of the proxies that are trusted."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from citadel_llm.config.parts import Network

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PORT_SEPARATOR = ":"


class TrustedProxies:
    """The proxies in front of this gateway.

    Args:
        networks: `gateway.trusted_proxies`.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(networks)
        # The same few proxies and clients come again and again.
        self._trusts = lru_cache(maxsize=4096)(self._trusts_address)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client(self, peer: str, forwarded_for: Sequence[str] = ()) -> str:
        """The address of the client: the last one that no trusted proxy has.

        Each proxy appends whom it was asked by, so that the list is read from its end; what stands before the
        first address that is not a trusted proxy's may have been made up by the client.

        Args:
            peer: The address at the other end of the connection; empty on a unix socket, which is trusted.
            forwarded_for: The values of all `X-Forwarded-For` headers, in their order.

        Returns:
            The address without a port; `peer` where nothing else can be believed.
        """
        if not self._networks or (peer and not self._trusts(peer)):
            return peer
        found = peer
        entries = [entry.strip() for value in forwarded_for for entry in value.split(",")]
        for entry in reversed(entries):
            address = _address(entry)
            if address is None:
                return found
            found = str(address)
            if not self._trusts(found):
                return found
        return found

    def scheme(self, peer: str, own: str, forwarded_proto: str) -> str:
        """`http` or `https`, as the client spoke: what the trusted proxy says, else the connection's own."""
        said = forwarded_proto.rpartition(",")[2].strip().lower()
        believed = self._networks and (not peer or self._trusts(peer)) and said in ("http", "https")
        return said if believed else own

    def _trusts_address(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> _Address | None:
    """Read an address, also with a port or in brackets as some proxies write it; None if it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(_PORT_SEPARATOR) == 1:
        text = text.partition(_PORT_SEPARATOR)[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket shows IPv4 clients so.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class BelievedProxies:
    """ASGI middleware: puts the client's address and scheme into a request's scope."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on as it came to the first trusted proxy."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            peer, _ = scope.get("client") or ("", 0)
            client = self._proxies.client(peer, headers.getlist("x-forwarded-for"))
            scope["scheme"] = self._proxies.scheme(
                peer, scope["scheme"], headers.get("x-forwarded-proto", "")
            )
            if client != peer:
                scope["client"] = (client, 0)
        await self._app(scope, receive, send)
