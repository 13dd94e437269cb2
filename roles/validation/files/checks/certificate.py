"""What clients think of the API's certificate."""

import ssl

import httpx2 as httpx

# What to do when clients refuse the certificate, by what OpenSSL says of it.
TRUST = "let validation_api_ca_file hold who vouches for it"
REMEDIES = {
    "expired": "put a new one at config_gateway.tls.certificate, then citadel restart gateway",
    "not yet valid": "look at its dates, and at the clock here",
    "mismatch": "set validation_api_url to what it names, or get one for this name",
}


def certificate_fault(url: str) -> str:
    """Why clients refuse the certificate that the API shows, and what to do; nothing when they take it."""
    try:
        httpx.get(f"{url}/health", timeout=10)
    except httpx.ConnectError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            reason = cause.verify_message
            remedy = next((says for word, says in REMEDIES.items() if word in reason), TRUST)
            return f"clients refuse the certificate of {url}: {reason}; {remedy}"
    return ""
