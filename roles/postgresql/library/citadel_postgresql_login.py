#!/usr/bin/python
# Copyright: Citadel
# Apache License 2.0
"""Log in at a PostgreSQL server and see whether tables can be made there."""

DOCUMENTATION = r"""
module: citadel_postgresql_login
short_description: Log in at a PostgreSQL server and see whether tables can be made there
description:
  - Needs nothing on the host but Python, so that it can be asked before anything is installed.
  - Changes nothing. Fails with what the server said, and what to do about it.
  - On a unix socket the server is only greeted, for there it may know one by one's Unix user.
author: Citadel
options:
  host:
    description: Name or address of the server, or the folder of its unix socket.
    type: str
    required: true
  port:
    description: Its TCP port, which also names the socket.
    type: int
    default: 5432
  user:
    description: The role to log in as.
    type: str
    required: true
  database:
    description: The database to open.
    type: str
    required: true
  password:
    description: The role's password; empty where there is none.
    type: str
    default: ""
  tls:
    description:
      - V(off), V(try) (where the server has it), V(on) (whoever it is), V(chain) (its certificate is judged),
        V(verify) (and its name).
    type: str
    choices: ["off", "try", "on", "chain", "verify"]
    default: "try"
  ca_file:
    description: Certificates of the authorities that judge the server's, in PEM; the system's when empty.
    type: str
    default: ""
  timeout:
    description: Seconds that each answer may take.
    type: int
    default: 10
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Log in at the external database
  citadel_postgresql_login:
    host: db.example.com
    user: citadel
    database: citadel
    password: "{{ postgresql_password }}"
    tls: verify
"""

RETURN = r"""
version:
  description: The server's version, such as 150008; 0 on a unix socket that was only greeted.
  type: int
  returned: success
"""

import hashlib
import socket
import ssl
import struct
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.citadel_scram import (  # type: ignore[import-not-found]  # Ansible puts it there
    LoginError,
    Scram,
)

# PostgreSQL documentation, "Frontend/Backend Protocol", "Message Formats"; the codes: its Appendix A.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_PROTOCOL_3 = 196608
_LARGEST = 1 << 20
_OK, _CLEAR, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 3, 5, 10, 11, 12
_QUESTION = (
    "SELECT current_setting('server_version_num'),"
    " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"
)
_OLDEST = 120000

_REMEDIES = {
    "28P01": "correct postgresql_password, or the user in postgresql_url",
    "28000": "let this host and user in by the server's pg_hba.conf, or correct sslmode in postgresql_url",
    "3D000": "make the database, or correct its name in postgresql_url",
    "42501": "give the role CONNECT on the database",
    "53300": "raise the server's max_connections",
    "57P03": "wait until the server has started",
}


class Login:
    """One connection to a server.

    Raises:
        LoginError: from each method.
    """

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self.host = host
        self.is_local = host.startswith("/")
        try:
            if self.is_local:
                self._socket = _unix_socket(f"{host.rstrip('/')}/.s.PGSQL.{port}", timeout)
            else:
                self._socket = socket.create_connection((host, port), timeout)
        except socket.gaierror:
            raise LoginError(f"this host cannot resolve {host}") from None
        except TimeoutError:
            remedy = "open the firewalls between this host and it, or correct postgresql_url"
            raise LoginError(f"no connection to {host} port {port} within {timeout:g} s", remedy) from None
        except OSError as error:
            remedy = "start the server, or correct postgresql_url"
            raise LoginError(
                f"no connection to {host} port {port} ({error.strerror or error})", remedy
            ) from None

    def __enter__(self) -> "Login":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def secure(self, tls: str, ca_file: str) -> None:
        """Begin TLS where it is wanted and there."""
        if tls == "off" or self.is_local:
            return
        self._socket.sendall(_SSL_REQUEST)
        # One byte and no more: a greeting that begins with S, as SSH's does, is none.
        answer = self._socket.recv(64)
        if answer == b"N" and tls == "try":
            return
        if answer != b"S":
            said = "offers no TLS" if answer == b"N" else "is no PostgreSQL"
            raise LoginError(f"what answers {said}", "correct host, port or sslmode in postgresql_url")
        context = ssl.create_default_context(cafile=ca_file or None)
        context.check_hostname = tls == "verify"
        if tls in ("try", "on"):
            context.verify_mode = ssl.CERT_NONE
        try:
            self._socket = context.wrap_socket(self._socket, server_hostname=self.host)
        except ssl.SSLError as error:
            said = getattr(error, "verify_message", "") or error.reason or "the handshake failed"
            raise LoginError(
                f"its certificate does not do ({said})", "correct sslmode or sslrootcert in postgresql_url"
            ) from None

    def enter(self, user: str, database: str, password: str) -> bool:
        """Log in; false where one was only greeted, for the server judges by the Unix user."""
        words = b"".join(part.encode() + b"\0" for part in ("user", user, "database", database))
        body = struct.pack("!i", _PROTOCOL_3) + words + b"\0"
        self._socket.sendall(struct.pack("!i", len(body) + 4) + body)
        scram = Scram(password)
        while True:
            kind, content = self._message()
            if kind == b"E":
                if self.is_local and b"C28000\0" in content:
                    return False
                raise _refusal(content)
            if kind == b"Z":
                return True
            if kind != b"R":
                continue
            asked = struct.unpack_from("!i", content)[0]
            if asked not in (_OK, _SASL_CONTINUE, _SASL_FINAL) and not password:
                raise LoginError("the server asks for a password", "set postgresql_password, from a vault")
            if asked == _CLEAR:
                self._send(b"p", password.encode() + b"\0")
            elif asked == _MD5:
                self._send(b"p", _md5(user, password, content[4:8]) + b"\0")
            else:
                self._exchange(scram, asked, content[4:])

    def _exchange(self, scram: Scram, asked: int, said: bytes) -> None:
        """Take SCRAM one step further."""
        if asked == _SASL:
            first = scram.first()
            self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
        elif asked == _SASL_CONTINUE:
            self._send(b"p", scram.final(said))
        elif asked == _SASL_FINAL:
            scram.judge(said)
        elif asked == _OK:
            scram.end()
        else:
            raise LoginError(
                f"the server asks for a login that is not known here ({asked})",
                "let it ask for scram-sha-256",
            )

    def ask(self, question: str) -> list[str]:
        """Return the first row of the answer."""
        self._send(b"Q", question.encode() + b"\0")
        row: list[str] = []
        while True:
            kind, content = self._message()
            if kind == b"D":
                at = 2
                for _ in range(struct.unpack_from("!h", content)[0]):
                    length = struct.unpack_from("!i", content, at)[0]
                    row.append(content[at + 4 : at + 4 + max(length, 0)].decode())
                    at += 4 + max(length, 0)
            elif kind == b"E":
                raise _refusal(content)
            elif kind == b"Z":
                self._send(b"X", b"")
                return row

    def _send(self, kind: bytes, body: bytes) -> None:
        self._socket.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def _message(self) -> tuple[bytes, bytes]:
        head = self._exactly(5)
        length = struct.unpack_from("!i", head, 1)[0] - 4
        if not 0 <= length <= _LARGEST:
            raise LoginError("what answers is no PostgreSQL", "correct host and port in postgresql_url")
        return head[:1], self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise LoginError("it closed the connection", "look at the server's own log")
            data += part
        return data


def _unix_socket(path: str, timeout: float) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(timeout)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def _md5(user: str, password: str, salt: bytes) -> bytes:
    inner = hashlib.md5(f"{password}{user}".encode()).hexdigest()  # noqa: S324 - the server asks for it
    return b"md5" + hashlib.md5(inner.encode() + salt).hexdigest().encode()  # noqa: S324


def _refusal(content: bytes) -> LoginError:
    fields = {part[:1]: part[1:].decode("utf-8", "replace") for part in content.split(b"\0") if part}
    code = fields.get(b"C", "")
    return LoginError(
        f"the server refuses: {fields.get(b'M', 'without a word')} ({code})",
        _REMEDIES.get(code, "look at the server's own log"),
    )


def ask(given: dict[str, Any]) -> int:
    """Log in and see; return the server's version, 0 where one was only greeted.

    Raises:
        LoginError: One cannot log in, or cannot work there.
        OSError, ValueError, struct.error: What answers speaks something else.
    """
    with Login(given["host"], given["port"], given["timeout"]) as login:
        login.secure(given["tls"], given["ca_file"])
        if not login.enter(given["user"], given["database"], given["password"]):
            return 0
        number, may_create = login.ask(_QUESTION)
    version = int(number)
    if may_create != "t":
        raise LoginError(
            f"the role {given['user']} may not make tables there",
            f'GRANT CREATE ON SCHEMA public TO "{given["user"]}", or let it own its schema',
        )
    if version < _OLDEST:
        raise LoginError(f"the server is of version {version // 10000}", "take 12 or newer")
    return version


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "default": 5432},
            "user": {"type": "str", "required": True},
            "database": {"type": "str", "required": True},
            "password": {"type": "str", "default": "", "no_log": True},
            "tls": {"type": "str", "choices": ["off", "try", "on", "chain", "verify"], "default": "try"},
            "ca_file": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    given = module.params
    where = f"The database {given['database']} at {given['host']} cannot be used from this host"
    try:
        version = ask(given)
    except LoginError as error:
        module.fail_json(msg=f"{where}: {error}")
    except (OSError, ValueError, struct.error) as error:
        module.fail_json(msg=f"{where}: what answers cannot be read ({error}): correct postgresql_url")
    module.exit_json(changed=False, version=version)


if __name__ == "__main__":
    main()
