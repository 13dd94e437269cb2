"""The API over TLS, with a certificate that a client believes who was told to."""

import json
import ssl
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from deployed import MODEL
from shared_site import CERTIFICATE, TLS_KEY, SharedSite, until
from tests.certificates import make_certificate

pytestmark = pytest.mark.usefixtures("moved")

_TARGETS = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9090/api/v1/targets').read().decode())"
)


def complete(shared: SharedSite, key: str) -> str:
    """What the official client gets, without the retries that would hide a refusal."""
    client = openai.OpenAI(base_url=f"{shared.api.base_url}/v1", api_key=key, max_retries=0, timeout=60)
    with client:
        answer = client.completions.create(
            model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=4
        )
    return answer.choices[0].text


def shown(shared: SharedSite) -> str:
    """The certificate that the API shows."""
    return ssl.get_server_certificate((shared.address, 8000))


def test_a_client_that_believes_it_is_answered(
    shared: SharedSite, old_key: str, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    assert complete(shared, old_key).startswith(" Paris")


def test_a_client_that_does_not_is_told_why(shared: SharedSite, old_key: str) -> None:
    with pytest.raises(openai.APIConnectionError) as refused:
        complete(shared, old_key)
    assert "certificate verify failed" in str(refused.value.__cause__)


def test_plain_http_gets_no_answer(shared: SharedSite) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://{shared.address}:8000/health", timeout=10)


def test_those_that_ask_on_the_host_follow(shared: SharedSite) -> None:
    def scraped() -> bool:
        targets = json.loads(shared.do(f'python3 -c "{_TARGETS}"'))["data"]["activeTargets"]
        [gateway] = [one for one in targets if one["labels"]["job"] == "citadel-gateway"]
        return (gateway["scrapeUrl"], gateway["health"]) == ("https://127.0.0.1:8000/metrics", "up")

    until(scraped)
    assert shared.do("citadel doctor")


def test_the_key_is_the_gateways_alone(shared: SharedSite) -> None:
    for user in ("citadel", "citadel-engine"):
        shared.refused(f"sudo -u {user} cat {TLS_KEY}")


def test_a_renewed_certificate_is_taken_over(
    shared: SharedSite, old_key: str, ca_file: Path, tmp_path: Path
) -> None:
    """A pair that does not belong together is not; the gateway goes on with what it had."""
    before = shown(shared)
    assert before == ca_file.read_text()
    make_certificate(tmp_path, shared.address, "127.0.0.1", days=91)
    shared.put(tmp_path / "cert.pem", CERTIFICATE, "0644")
    shared.refused("citadel restart gateway")
    assert shown(shared) == before
    assert shared.ask(old_key).status_code == 200
    shared.put(tmp_path / "key.pem", TLS_KEY, "0640", group="citadel-gateway")
    shared.do("citadel restart gateway")
    assert shown(shared) == (tmp_path / "cert.pem").read_text()
    for name in ("cert.pem", "key.pem"):
        (ca_file.parent / name).write_text((tmp_path / name).read_text())
    shared.speaks_tls(ca_file)
    assert shared.ask(old_key).status_code == 200
