"""What is said of a certificate before a host is touched."""

import base64
import datetime

import pytest
from tests.certificates import make_certificate

from .role_modules import load

fault = load("roles/gateway/filter_plugins/citadel_certificate.py").certificate_fault


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (0, ""),
        (2, "ended on "),
        (-11, "does not begin before "),
    ],
)
def test_it_must_be_valid_now(tmp_path, days, said):
    """It is valid from ten days ago to tomorrow."""
    make_certificate(tmp_path)
    content = base64.b64encode((tmp_path / "cert.pem").read_bytes()).decode()
    found = fault(content, datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days))
    assert found.startswith(said)
    assert bool(found) == bool(said)


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\x30\x82\xff\xff"])
def test_it_must_be_one(content):
    assert fault(base64.b64encode(content).decode()) == "is no certificate in PEM"
