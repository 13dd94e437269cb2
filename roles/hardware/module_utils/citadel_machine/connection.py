"""A connection to a service, with a word for each way in which it can fail."""

import select
import socket
import ssl
import time
from typing import Any

from .terms import Facts

# The words for how a service is. They are part of the report's format.
READY = "ready"
NOT_READY = "not ready"
REFUSED = "refused"
TIMED_OUT = "timed out"
WRONG = "wrong service"
BAD_TLS = "bad TLS"
NO_NAME = "name unknown"
UNREACHABLE = "unreachable"

_WRONG_WORDS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
# A TLS alert record: what a server sends that was spoken to in plain words and only knows TLS.
TLS_ALERT = b"\x15\x03"


class ServiceError(Exception):
    """A service is not what it should be: one of the words above, and what was seen."""

    def __init__(self, word: str, said: str) -> None:
        super().__init__(f"{word}: {said}")
        self.word, self.said = word, said


class Connection:
    """A TCP connection, in TLS where asked for; `connected_ms` is how long it took to make.

    Raises:
        ServiceError: from the constructor and each method.
    """

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self.host = host
        self._end = time.monotonic() + timeout
        self._timeout = timeout
        started = time.monotonic()
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise ServiceError(NO_NAME, f"the host cannot resolve {host}") from error
        self.socket: socket.socket = self._connect(addresses)
        self.connected_ms = round((time.monotonic() - started) * 1000, 1)

    def _connect(self, addresses: list[Any]) -> socket.socket:
        failure = ServiceError(UNREACHABLE, "its name has no address")
        for family, kind, protocol, _, address in addresses:
            try:
                # A host that has IPv6 switched off still finds such addresses, and makes no such socket.
                candidate = socket.socket(family, kind, protocol)
            except OSError as error:
                failure = _connect_failure(error, self._timeout)
                continue
            candidate.settimeout(self._left())
            try:
                candidate.connect(address)
            except OSError as error:
                candidate.close()
                failure = _connect_failure(error, self._timeout)
            else:
                return candidate
        raise failure

    def _left(self) -> float:
        return max(0.05, self._end - time.monotonic())

    def secure(self, tls: str, ca_file: str) -> None:
        """Begin TLS; with `verify` the certificate and its name count, with `on` only that one is there."""
        try:
            context = ssl.create_default_context(cafile=ca_file or None)
        except OSError as error:
            raise ServiceError(
                BAD_TLS, f"ca_file {ca_file} cannot be used: {error.strerror or error}"
            ) from error
        if tls != "verify":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.socket.settimeout(self._left())
        try:
            self.socket = context.wrap_socket(self.socket, server_hostname=self.host)
        except ssl.SSLCertVerificationError as error:
            raise ServiceError(
                BAD_TLS, f"the certificate does not do: {error.verify_message.rstrip('.')}"
            ) from error
        except TimeoutError as error:
            raise ServiceError(TIMED_OUT, f"no TLS handshake within {self._timeout:g} s") from error
        except OSError as error:
            raise ServiceError(BAD_TLS, _tls_said(error)) from error

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.settimeout(self._left())
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise self.failure(error) from error

    def await_word(self) -> None:
        """Wait for the first word; when half of the time has passed without one, send an empty line.

        What speaks HTTP waits for a line's end before it says that it understood nothing. A service that
        speaks first, or answers at once, never sees this.
        """
        if not select.select([self.socket], [], [], self._left() / 2)[0]:
            self.send(b"\r\n\r\n")

    def receive(self, most: int) -> bytes:
        """Return what is there, at most so many bytes; b"" when the other side has closed."""
        self.socket.settimeout(self._left())
        try:
            return self.socket.recv(most)
        except OSError as error:
            raise self.failure(error) from error

    def receive_exactly(self, count: int) -> bytes:
        """Return so many bytes, or fewer when the other side closes before."""
        data = b""
        while len(data) < count:
            part = self.receive(count - len(data))
            if not part:
                break
            data += part
        return data

    def failure(self, error: OSError) -> ServiceError:
        """Return what an error on the open connection means."""
        if isinstance(error, TimeoutError):
            return ServiceError(TIMED_OUT, f"connected, and no answer within {self._timeout:g} s")
        hint = "" if isinstance(self.socket, ssl.SSLSocket) else "; perhaps it wants TLS"
        return ServiceError(WRONG, f"it broke the connection off ({error.strerror or error}){hint}")

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def _connect_failure(error: OSError, timeout: float) -> ServiceError:
    if isinstance(error, ConnectionRefusedError):
        return ServiceError(REFUSED, "the host answers, and nothing listens on the port")
    if isinstance(error, TimeoutError):
        return ServiceError(TIMED_OUT, f"no connection within {timeout:g} s: a firewall, or no such host")
    return ServiceError(UNREACHABLE, error.strerror or str(error))


def _tls_said(error: OSError) -> str:
    reason = str(getattr(error, "reason", "") or "")
    if any(word in reason for word in _WRONG_WORDS) or isinstance(error, ConnectionResetError):
        return "the port speaks no TLS"
    return f"the handshake failed ({reason.replace('_', ' ').lower() or error})"


def tls_of(service: Facts) -> str:
    """Return `off`, `on` or `verify`; YAML reads the first two as truths where they are not quoted."""
    given = service.get("tls")
    return {None: "off", False: "off", True: "on"}.get(given, str(given).lower()) if given != "" else "off"
