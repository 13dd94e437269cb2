"""TLS with the site's own certificate: what `gateway.tls` becomes."""

import ssl

from citadel_llm.config.gateway import Tls


class CertificateError(Exception):
    """The certificate cannot be used. The message is one line for people."""


def server_context(settings: Tls) -> ssl.SSLContext:
    """What the gateway's listener speaks TLS with: 1.2 or later, forward secrecy, no client certificates.

    Raises:
        CertificateError: Certificate or key cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Of TLS 1.2 only what keeps recorded traffic secret when the key is lost, with authenticated encryption.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A passphrase would be asked for on the terminal, which a service does not have.
        context.load_cert_chain(settings.certificate, settings.key.path, password=_no_passphrase)
    except ssl.SSLError as error:
        reason = (
            "they do not belong together" if "MISMATCH" in str(error.reason) else f"no PEM ({error.reason})"
        )
        message = f"the TLS certificate {settings.certificate} and its key cannot be used: {reason}"
        raise CertificateError(f"{message} (gateway.tls)") from None
    except OSError as error:
        where = error.filename or f"{settings.certificate} or its key"
        message = f"the TLS certificate or its key cannot be read: {where}: {error.strerror}"
        raise CertificateError(f"{message} (gateway.tls)") from None
    return context


def _no_passphrase() -> str:
    return ""
