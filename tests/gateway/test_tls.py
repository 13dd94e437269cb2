"""TLS by the gateway itself, with a certificate made here."""

import json
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.certificates import make_certificate, make_key

from citadel_llm.config.gateway import Tls
from citadel_llm.gateway.tls import CertificateError, server_context

from .gateway_site import CHAT


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem for 127.0.0.1, and another.pem, a key of its own."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder)
    make_key(folder / "another.pem")
    return folder


def _settings(folder: Path, key: str = "key.pem", certificate: str = "cert.pem") -> dict[str, Any]:
    return {"certificate": str(folder / certificate), "key": {"file": str(folder / key)}}


def test_the_api_speaks_tls(make_site: Any, certificate: Path) -> None:
    site = make_site(start=(), tls=_settings(certificate))
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    site.run(site.chat.start())
    with httpx2.Client(base_url=f"https://127.0.0.1:{site.port}", verify=trusting) as client:
        ask = {"model": CHAT, "messages": [], "stream": True}

        def stream() -> str:
            return str(client.post("/v1/chat/completions", json=ask, headers=site.auth).text)

        # Its engine was started after it, and may not have been seen yet.
        while not (text := stream()).endswith("data: [DONE]\n\n"):
            assert json.loads(text)["error"]["code"] == "engine_unavailable"
        large = {"model": CHAT, "x": "x" * 900_000}
        assert client.post("/v1/chat/completions", json=large, headers=site.auth).status_code == 200
        assert client.get("/health").json() == {"status": "ok"}
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"https://127.0.0.1:{site.port}/health", verify=ssl.create_default_context())
    # Plain HTTP gets nothing, and old TLS neither.
    with pytest.raises(httpx2.TransportError):
        site.http.get("/health")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", site.port)) as connection, pytest.raises(ssl.SSLError):
        old.wrap_socket(connection)


def test_a_certificate_that_cannot_be_used_is_told(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(**settings: Any) -> str:
        with pytest.raises(CertificateError) as refused:
            server_context(Tls.model_validate(settings))
        return str(refused.value)

    assert "do not belong together" in refusal(**_settings(certificate, key="another.pem"))
    assert "no PEM" in refusal(**_settings(certificate, certificate="key.pem"))
    assert "No such file" in refusal(**_settings(certificate, key="none.pem"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    by_credential = {"certificate": str(certificate / "cert.pem"), "key": {"credential": "tls-key"}}
    assert "No such file" in refusal(**by_credential)
    (tmp_path / "tls-key").write_bytes((certificate / "key.pem").read_bytes())
    context = server_context(Tls.model_validate(by_credential))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_who_is_refused_while_it_still_sends_sees_why(make_site: Any, certificate: Path) -> None:
    site = make_site(start=(), tls=_settings(certificate))
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    length = 32 << 20
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {site.key}\r\n"
    with (
        socket.create_connection(("127.0.0.1", site.port)) as plain,
        trusting.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(f"{head}content-length: {length}\r\n\r\n".encode())
        # Sent into a closed connection, it would be a reset, and the answer lost.
        for _ in range(64):
            connection.sendall(bytes(length // 64))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
