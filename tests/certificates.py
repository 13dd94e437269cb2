"""Certificates made for a test: that vouch for themselves, or that an authority vouches for."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_HOUR = datetime.timedelta(hours=1)


def make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A private key, written to `path` in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return key


def make_certificate(folder: Path, *names: str, days: float = 1) -> None:
    """Write cert.pem and key.pem.

    Args:
        folder: Where to.
        names: Addresses and names that it is for; 127.0.0.1 when absent.
        days: When it ends, counted from now; it began ten days ago.
    """
    key, now = make_key(folder / "key.pem"), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "citadel.test")])
    alternatives = [
        x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
        for name in names or ("127.0.0.1",)
    ]
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


class Authority:
    """Signs for 127.0.0.1. Its own certificate is `file`.

    Args:
        folder: Where it and what it signs is written; empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"authority of {folder.name}")])
        own = self._build(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
        self.file = folder / "authority.pem"
        self.file.write_bytes(own)

    def sign(self) -> dict[str, object]:
        """A new certificate and its key, as `gateway.tls` names them."""
        certificate, file = self._folder / "node.pem", self._folder / "node.key"
        key = make_key(file)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate.write_bytes(self._build(subject, key.public_key(), address))
        return {"certificate": str(certificate), "key": {"file": str(file)}}

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
        made = made.not_valid_before(now - _HOUR).not_valid_after(now + _HOUR)
        made = made.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        known_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = made.add_extension(known_by, critical=False)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        if subject == self._name:
            usage = x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            )
            made = made.add_extension(usage, critical=True)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
