"""Judge the certificate that the gateway is to show, by what stands in it."""

import base64
import datetime
from collections.abc import Callable

from cryptography import x509


def certificate_fault(content: str, now: datetime.datetime | None = None) -> str:
    """Say why clients would refuse a certificate, whoever vouches for it.

    Args:
        content: The file with the certificate and its chain, as base64.
        now: When it is judged; the present when absent.

    Returns:
        What follows on its name in a sentence; empty when nothing is wrong.
    """
    try:
        certificate = x509.load_pem_x509_certificates(base64.b64decode(content))[0]
    except ValueError:
        return "is no certificate in PEM"
    now = now or datetime.datetime.now(datetime.UTC)
    if certificate.not_valid_after_utc < now:
        return f"ended on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if certificate.not_valid_before_utc > now:
        return f"does not begin before {certificate.not_valid_before_utc:%Y-%m-%d}"
    return ""


class FilterModule:
    """The filters, by the names under which templates know them."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return the filters."""
        return {"citadel_certificate_fault": certificate_fault}
