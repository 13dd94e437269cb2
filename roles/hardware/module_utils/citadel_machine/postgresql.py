"""Ask a PostgreSQL server whether it is one, without logging in.

The messages: PostgreSQL documentation, "Frontend/Backend Protocol", "Message Formats" and "SSL Session
Encryption"; the codes: its Appendix A.
"""

import struct

from .connection import BAD_TLS, NOT_READY, TLS_ALERT, WRONG, Connection, ServiceError, tls_of
from .terms import Facts

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_PROTOCOL_3 = 196608
_LARGEST = 64 * 1024
# What an AuthenticationX message asks for.
_LOGINS = {
    0: "",
    2: "Kerberos",
    3: "a password",
    5: "an MD5 password",
    7: "GSSAPI",
    9: "SSPI",
    10: "a SCRAM password",
}
# It is PostgreSQL, and serves nobody at the moment.
_NOT_NOW = {"57P01", "57P02", "57P03", "53300"}
_VECTOR = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"


def ask_postgresql(connection: Connection, service: Facts) -> str:
    """Return in a few words what answered.

    Raises:
        ServiceError: it is no PostgreSQL, or none that is ready.
    """
    return _start(connection, service)[1]


def ask_pgvector(connection: Connection, service: Facts) -> str:
    """Return what answered; whether the extension is there can be asked only where no password is wanted.

    Raises:
        ServiceError: it is no PostgreSQL, none that is ready, or one without the extension.
    """
    inside, said = _start(connection, service)
    if not inside:
        return f"{said}; whether pgvector is in it was not asked, for that takes a login"
    version = _query(connection, _VECTOR)
    if version is None:
        database = service.get("database") or "postgres"
        raise ServiceError(
            NOT_READY, f"PostgreSQL answers; CREATE EXTENSION vector is missing in database {database}"
        )
    return f"PostgreSQL with pgvector {version}"


def _start(connection: Connection, service: Facts) -> tuple[bool, str]:
    """Greet the server; return whether one is logged in then, and what it said."""
    tls = tls_of(service)
    if tls != "off":
        _begin_tls(connection, tls, service.get("ca_file") or "")
    user, database = service.get("user") or "citadel", service.get("database") or "postgres"
    words = b"".join(
        part.encode() + b"\0" for part in ("user", user, "database", database, "application_name", "citadel")
    )
    body = struct.pack("!i", _PROTOCOL_3) + words + b"\0"
    connection.send(struct.pack("!i", len(body) + 4) + body)
    connection.await_word()
    kind, content = _message(connection)
    while kind == b"v":  # it offers a lower minor version, and goes on
        kind, content = _message(connection)
    if kind == b"E":
        return False, _judge(content)
    if kind != b"R" or len(content) < 4:  # noqa: PLR2004 - the number that says which login
        raise ServiceError(WRONG, "what answers is no PostgreSQL")
    login = struct.unpack_from("!i", content)[0]
    if login == 0:
        return True, "PostgreSQL, which lets one in without a password"
    return False, f"PostgreSQL, which asks for {_LOGINS.get(login, 'a login')}"


def _begin_tls(connection: Connection, tls: str, ca_file: str) -> None:
    connection.send(_SSL_REQUEST)
    connection.await_word()
    answer = connection.receive(64)
    # One byte and no more: a greeting that begins with S, as SSH's does, is none.
    if answer == b"N":
        raise ServiceError(BAD_TLS, "PostgreSQL answers, and offers no TLS")
    if answer != b"S":
        raise ServiceError(WRONG, _seen(answer))
    connection.secure(tls, ca_file)


def _message(connection: Connection) -> tuple[bytes, bytes]:
    head = connection.receive_exactly(5)
    if len(head) < 5:  # noqa: PLR2004 - a type and a length
        raise ServiceError(WRONG, _seen(head))
    length = struct.unpack_from("!i", head, 1)[0]
    if head[:1] not in b"RESKZTDCNv" or not 4 <= length <= _LARGEST:  # noqa: PLR2004 - the length counts itself
        raise ServiceError(WRONG, _seen(head))
    return head[:1], connection.receive_exactly(length - 4)


def _seen(answer: bytes) -> str:
    if answer.startswith(TLS_ALERT):
        return "it speaks TLS from the first byte, which PostgreSQL does not"
    for mark, name in ((b"HTTP/", "HTTP"), (b"SSH-", "SSH")):
        if answer and mark.startswith(answer[: len(mark)]):
            return f"it speaks {name}, not PostgreSQL"
    return "what answers is no PostgreSQL" if answer else "it closed the connection without a word"


def _judge(content: bytes) -> str:
    fields = {part[:1]: part[1:].decode("utf-8", "replace") for part in content.split(b"\0") if part}
    code, message = fields.get(b"C", ""), fields.get(b"M", "")
    if not code or b"S" not in fields:
        raise ServiceError(WRONG, "what answers is no PostgreSQL")
    if code in _NOT_NOW:
        raise ServiceError(NOT_READY, f"PostgreSQL says: {message}")
    # It knows us not, which is an answer: nobody gave a password to ask with.
    return f"PostgreSQL, which refuses a login without credentials ({code})"


def _query(connection: Connection, statement: str) -> str | None:
    """Return the first value of the first row, or None without a row."""
    while _message(connection)[0] != b"Z":
        pass
    text = statement.encode() + b"\0"
    connection.send(b"Q" + struct.pack("!i", len(text) + 4) + text)
    value = None
    while True:
        kind, content = _message(connection)
        if kind == b"D" and value is None:
            length = struct.unpack_from("!i", content, 2)[0]
            value = content[6 : 6 + length].decode("utf-8", "replace")
        elif kind == b"E":
            raise ServiceError(NOT_READY, "PostgreSQL refuses to tell its extensions")
        elif kind == b"Z":
            connection.send(b"X" + struct.pack("!i", 4))
            return value
