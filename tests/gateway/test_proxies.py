"""Who the client is behind proxies: the one that the trusted ones vouch for, and nobody's invention."""

import ipaddress
from typing import Any

import pytest

from citadel_llm.gateway.proxies import TrustedProxies

PROXIES = TrustedProxies([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.7", ["198.51.100.1"], "192.0.2.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1", "10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["6.6.6.6, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ['"[2001:db8::1]:4711"'], "2001:db8::1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["127.0.0.1\x00"], "10.0.0.1"),
    ],
)
def test_the_last_one_that_is_no_proxy(peer: str, forwarded: list[str], client: str) -> None:
    assert PROXIES.client(peer, forwarded) == client


def test_nobody_is_believed_unasked() -> None:
    nobody = TrustedProxies([])
    assert not nobody
    assert nobody.client("10.0.0.1", ["198.51.100.1"]) == "10.0.0.1"
    assert nobody.scheme("10.0.0.1", "http", "https") == "http"
    assert PROXIES.scheme("192.0.2.7", "http", "https") == "http"
    assert PROXIES.scheme("10.0.0.1", "http", "http, https") == "https"
    assert PROXIES.scheme("10.0.0.1", "http", "gopher") == "http"


def test_metrics_are_for_the_client_not_for_its_proxy(make_site: Any) -> None:
    """Loopback may read the metrics; who comes from elsewhere by way of a proxy on loopback may not."""
    site = make_site(start=(), trusted_proxies=["127.0.0.0/8"])
    assert site.http.get("/metrics").status_code == 200
    elsewhere = {"x-forwarded-for": "127.0.0.1, 198.51.100.1"}
    assert site.http.get("/metrics", headers=elsewhere).json()["error"]["code"] == "not_allowed"
