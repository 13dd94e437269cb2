"""The validation names a certificate that clients would refuse, and says what to do."""

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checks.certificate import certificate_fault
from tests.certificates import make_certificate


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Listen with a certificate, as `make_certificate` makes them; the address."""
    servers: list[http.server.HTTPServer] = []

    def start(name: str = "127.0.0.1", days: float = 1) -> str:
        make_certificate(tmp_path, name, days=days)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        # What a refused handshake says here is the client's affair.
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"https://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, ""),
        ({"days": -1}, "put a new one at config_gateway.tls.certificate"),
        ({"name": "elsewhere.test"}, "set validation_api_url to what it names"),
    ],
)
def test_what_is_wrong_with_it_is_named_with_what_to_do(
    listen: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    fault = certificate_fault(listen(**made))
    assert said in fault
    assert bool(fault) == bool(said)


def test_nobody_vouches_for_it(listen: Callable[..., str]) -> None:
    assert "let validation_api_ca_file hold who vouches for it" in certificate_fault(listen())


def test_what_does_not_answer_is_not_the_certificates_fault() -> None:
    assert not certificate_fault("https://127.0.0.1:1")
