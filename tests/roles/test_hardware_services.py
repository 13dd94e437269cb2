"""Services are asked over real sockets, by servers that say what the real ones say.

PostgreSQL's and Prometheus' words are those of PostgreSQL 15 and Prometheus 2.42, which the same code was run
against; Qdrant's are as its documentation has them. What a newer server says stays unproven.
"""

import contextlib
import errno
import itertools
import json
import socket
import ssl
import struct
import threading

import pytest
from tests.certificates import make_certificate

from .hardware_machines import machine

services = machine("services")


@contextlib.contextmanager
def server(serve, tls=None):
    """Run `serve(socket)` for each connection; give the port. `tls` wraps each from its first byte."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    if tls is None:
                        serve(connection)
                    else:
                        with tls.wrap_socket(connection, server_side=True) as secured:
                            serve(secured)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def ask(kind, port, timeout=2.0, **more):
    service = {"name": "it", "kind": kind, "host": "127.0.0.1", "port": port} | more
    (answer,) = services.ask_all([service], timeout)
    return answer


# --- PostgreSQL ---


def message(kind, content):
    return kind + struct.pack("!i", len(content) + 4) + content


def failure(code, text):
    return message(b"E", b"SFATAL\0VFATAL\0C" + code + b"\0M" + text + b"\0\0")


SCRAM = message(b"R", struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0")
INSIDE = message(b"R", struct.pack("!i", 0))
READY = message(b"S", b"server_version\x0015.18\0") + message(b"K", b"\0" * 8) + message(b"Z", b"I")


def postgresql(answer, *, tls_answer=b"N", tls=None, rows=None, seen=None):
    """A server that answers the start-up message so, and a query with these rows."""

    def serve(connection):
        first = connection.recv(4096)
        if first != struct.pack("!ii", 8, 80877103):
            talk(connection, first)
            return
        connection.sendall(tls_answer)
        if tls is not None:
            with tls.wrap_socket(connection, server_side=True) as secured:
                talk(secured, secured.recv(4096))

    def talk(connection, first):
        if seen is not None:
            seen.append(first)
        connection.sendall(answer)
        if rows is not None:
            seen.append(connection.recv(4096))
            fields = b"".join(message(b"D", struct.pack("!hi", 1, len(row)) + row) for row in rows)
            connection.sendall(
                message(b"T", b"\0\0") + fields + message(b"C", b"SELECT\0") + message(b"Z", b"I")
            )
        while connection.recv(4096):
            pass

    return serve


@pytest.mark.parametrize(
    ("answer", "word", "said"),
    [
        (SCRAM, "ready", "asks for a SCRAM password"),
        (message(b"R", struct.pack("!i", 5) + b"salt"), "ready", "asks for an MD5 password"),
        (message(b"R", struct.pack("!i", 3)), "ready", "asks for a password"),
        (INSIDE + READY, "ready", "without a password"),
        (message(b"v", struct.pack("!ii", 3 << 16, 0)) + SCRAM, "ready", "SCRAM"),
        (failure(b"28000", b'no pg_hba.conf entry for host "192.0.2.9"'), "ready", "28000"),
        (failure(b"3D000", b'database "postgres" does not exist'), "ready", "3D000"),
        (failure(b"57P03", b"the database system is starting up"), "not ready", "is starting up"),
        (failure(b"53300", b"sorry, too many clients already"), "not ready", "too many clients"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n", "wrong service", "speaks SSH"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "wrong service", "speaks HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "wrong service", "speaks TLS"),
        (b"EHLO\r\n" * 3, "wrong service", "no PostgreSQL"),
        (message(b"E", b"no fields"), "wrong service", "no PostgreSQL"),
        (message(b"R", b""), "wrong service", "no PostgreSQL"),
        (b"R", "timed out", "no answer"),
    ],
)
def test_postgresql_is_known_by_its_handshake(answer, word, said):
    with server(postgresql(answer)) as port:
        found = ask("postgresql", port, timeout=0.6 if word == "timed out" else 5)
    assert found.word == word
    assert said in found.said


def test_the_start_up_message_is_postgresqls_and_asks_for_what_the_entry_names():
    seen: list[bytes] = []
    with server(postgresql(SCRAM, seen=seen)) as port:
        ask("postgresql", port, user="me", database="models")
    length, version = struct.unpack_from("!ii", seen[0])
    assert (length, version) == (len(seen[0]), 3 << 16)
    assert seen[0][8:] == b"user\0me\0database\0models\0application_name\0citadel\0\0"


def test_a_server_that_waits_for_a_lines_end_is_told_from_a_silent_one():
    def http_server(connection):
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with server(http_server) as port:
        assert ask("postgresql", port)[:2] == ("wrong service", "it speaks HTTP, not PostgreSQL")
        assert ask("postgresql", port, tls="on").word == "wrong service"


def test_pgvector_is_asked_for_where_no_password_is_wanted():
    seen: list[bytes] = []
    with server(postgresql(INSIDE + READY, rows=[b"0.8.0"], seen=seen)) as port:
        found = ask("pgvector", port)
    assert found[:2] == ("ready", "PostgreSQL with pgvector 0.8.0")
    assert b"extname = 'vector'" in seen[1]


def test_a_postgresql_without_pgvector_is_not_ready():
    with server(postgresql(INSIDE + READY, rows=[], seen=[])) as port:
        found = ask("pgvector", port, database="models")
    assert found.word == "not ready"
    assert "CREATE EXTENSION vector is missing in database models" in found.said


def test_behind_a_password_pgvector_is_said_to_be_unasked():
    with server(postgresql(SCRAM)) as port:
        found = ask("pgvector", port)
    assert found.word == "ready"
    assert "was not asked" in found.said


# --- HTTP ---


def web(pages, seen=None):
    """A server with these pages: path to (status, body)."""

    def serve(connection):
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                part = connection.recv(4096)
                if not part:
                    return
                data += part
            head, _, data = data.partition(b"\r\n\r\n")
            path = head.split()[1].decode()
            if seen is not None:
                seen.append(head.decode())
            status, body = pages.get(path, (404, "404 page not found\n"))
            text = body.encode()
            connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)

    return serve


QDRANT = json.dumps({"title": "qdrant - vector search engine", "version": "1.15.1"})
READY_PAGE, HEALTHY_PAGE = "Prometheus Server is Ready.\n", "Prometheus Server is Healthy.\n"


@pytest.mark.parametrize(
    ("kind", "more", "pages", "word", "said"),
    [
        ("prometheus", {}, {"/-/ready": (200, READY_PAGE)}, "ready", "Prometheus"),
        ("prometheus", {"path": "/prom/"}, {"/prom/-/ready": (200, READY_PAGE)}, "ready", "Prometheus"),
        (
            "prometheus",
            {},
            {"/-/ready": (503, "Service Unavailable"), "/-/healthy": (200, HEALTHY_PAGE)},
            "not ready",
            "not ready yet",
        ),
        ("prometheus", {}, {"/-/ready": (503, "")}, "wrong service", "no Prometheus"),
        ("prometheus", {}, {"/-/ready": (500, "prometheus is not ready")}, "wrong service", "HTTP 500"),
        ("prometheus", {}, {"/-/ready": (401, "")}, "not ready", "wants a login"),
        ("prometheus", {}, {"/-/ready": (200, "<html>hello</html>")}, "wrong service", "no Prometheus"),
        ("prometheus", {}, {}, "wrong service", "HTTP 404 at /-/ready"),
        (
            "qdrant",
            {},
            {"/": (200, QDRANT), "/readyz": (200, "all shards are ready")},
            "ready",
            "Qdrant 1.15.1",
        ),
        (
            "qdrant",
            {},
            {"/": (200, QDRANT), "/readyz": (503, "some shards are not ready")},
            "not ready",
            "503",
        ),
        ("qdrant", {}, {"/": (200, '{"title": "elastic"}')}, "wrong service", "no Qdrant"),
        ("qdrant", {}, {"/": (200, "[1, 2]")}, "wrong service", "no Qdrant"),
        ("qdrant", {}, {"/": (200, "<html>")}, "wrong service", "no Qdrant"),
        ("http", {}, {"/": (204, "")}, "ready", "HTTP 204 at /"),
        ("http", {"path": "v1/health"}, {"/v1/health": (200, "ok")}, "ready", "/v1/health"),
        ("http", {}, {"/": (302, "")}, "ready", "302"),
        ("http", {}, {}, "wrong service", "correct its path"),
        ("http", {}, {"/": (502, "")}, "not ready", "502"),
        (
            "http",
            {},
            {"/": (400, "The plain HTTP request was sent to HTTPS port")},
            "wrong service",
            "set tls",
        ),
    ],
)
def test_what_speaks_http(kind, more, pages, word, said):
    with server(web(pages)) as port:
        found = ask(kind, port, **more)
    assert found.word == word
    assert said in found.said


def test_the_host_header_is_the_entrys_and_not_ours():
    seen: list[str] = []
    with server(web({"/": (200, "")}, seen)) as port:
        ask("http", port)
        assert f"Host: 127.0.0.1:{port}" in seen[0]
    assert seen[0].lower().count("host:") == 1


@pytest.mark.parametrize("kind", ["http", "prometheus", "qdrant"])
@pytest.mark.parametrize(
    ("first", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "no HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "set tls to on or verify"),
        (b"", "broke"),
    ],
)
def test_what_speaks_no_http(kind, first, said):
    def serve(connection):
        connection.recv(4096)
        connection.sendall(first)

    with server(serve) as port:
        found = ask(kind, port)
    assert found.word == "wrong service"
    assert said in found.said or not first


def test_a_body_without_end_is_not_read_to_its_end():
    def serve(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"Prometheus is Ready." + b"x" * 200_000)

    with server(serve) as port:
        assert ask("prometheus", port).word == "ready"


# --- The ways not to answer ---


def test_refused_unknown_and_open_ports_are_told_apart():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        unused = closed.getsockname()[1]
    assert ask("tcp", unused).word == "refused"
    assert ask("tcp", 80, host="no-such-host.invalid").word == "name unknown"
    assert ask("tcp", 80, host="a" * 70 + ".example").word == "name unknown"
    with server(lambda connection: connection.recv(1)) as port:
        found = ask("tcp", port)
    assert found.word == "ready"
    assert found.connected_ms is not None
    assert found.answered_ms >= found.connected_ms


@pytest.mark.parametrize("kind", ["postgresql", "http"])
def test_a_port_that_takes_connections_and_stays_silent(kind):
    asked = threading.Event()
    with server(lambda connection: asked.wait(30)) as port:
        found = ask(kind, port, timeout=1)
        asked.set()
    # Had it waited for the other side to hang up, that would be what it says.
    assert found.word == "timed out"
    assert "connected, and no answer within 1 s" in found.said


def test_a_full_backlog_is_a_time_out():
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(address)
        found = ask("tcp", address[1], timeout=1)
    assert found.word == "timed out"
    assert "no connection" in found.said


def test_a_server_that_drips_is_given_up_in_time():
    asked = threading.Event()

    def serve(connection):
        for _ in range(300):
            connection.sendall(b"H")
            if asked.wait(0.1):
                return

    with server(serve) as port:
        found = ask("http", port, timeout=0.5)
        asked.set()
    # Had it listened to the end, it would say that this is no HTTP.
    assert found.word == "timed out"


def test_all_are_asked_at_once():
    both = threading.Barrier(2)

    def serve(connection):
        connection.recv(4096)
        # Neither answers before the other is asked, too.
        both.wait(30)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with server(serve) as port, server(serve) as other:
        asked = [{"name": "x", "kind": "http", "host": "127.0.0.1", "port": each} for each in (port, other)]
        found = services.ask_all(asked, 5)
    assert [answer.word for answer in found] == ["ready", "ready"]


def test_a_host_without_ipv6_reaches_a_name_that_has_such_an_address(monkeypatch):
    real = socket.socket

    def no_ipv6(family=-1, *more, **others):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *more, **others)

    def both(host, port, **_):
        tcp = (socket.SOCK_STREAM, 6, "")
        return [(socket.AF_INET6, *tcp, ("::1", port, 0, 0)), (socket.AF_INET, *tcp, ("127.0.0.1", port))]

    with server(lambda connection: connection.recv(1)) as port:
        monkeypatch.setattr(socket, "getaddrinfo", both)
        monkeypatch.setattr(socket, "socket", no_ipv6)
        assert ask("tcp", port).word == "ready"


def test_what_cannot_be_read_is_no_time_out():
    def serve(connection):
        connection.recv(4096)
        connection.sendall(INSIDE + READY)
        connection.recv(4096)
        # A row that holds nothing, not even its length.
        connection.sendall(message(b"D", b""))
        connection.recv(1)

    with server(serve) as port:
        found = ask("pgvector", port)
    assert found.word == "wrong service"
    assert "cannot be read" in found.said


# --- TLS ---

_numbers = itertools.count()


@pytest.fixture
def authority(tmp_path):
    """Make certificates: `make(names, days)` gives a server's context and the path of its own certificate."""

    def make(*names, days=1):
        folder = tmp_path / str(next(_numbers))
        folder.mkdir()
        make_certificate(folder, *names, days=days)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        return context, str(folder / "cert.pem")

    return make


PROMETHEUS = web({"/-/ready": (200, READY_PAGE)})


@pytest.mark.parametrize(
    ("names", "days", "tls", "trusted", "word", "said"),
    [
        (["127.0.0.1"], 1, "verify", True, "ready", "Prometheus"),
        (["127.0.0.1"], 1, "verify", False, "bad TLS", "self-signed certificate"),
        (["other.example"], 1, "verify", True, "bad TLS", "not valid for '127.0.0.1'"),
        (["127.0.0.1"], -1, "verify", True, "bad TLS", "certificate has expired"),
        # Encrypted is all that is asked for.
        (["other.example"], -1, "on", False, "ready", "Prometheus"),
        (["other.example"], -1, True, False, "ready", "Prometheus"),
        (["127.0.0.1"], 1, "off", False, "wrong service", "TLS"),
    ],
)
def test_tls_from_the_first_byte(authority, *, names, days, tls, trusted, word, said):
    context, public = authority(*names, days=days)
    with server(PROMETHEUS, context) as port:
        found = ask("prometheus", port, tls=tls, ca_file=public if trusted else "")
    assert found.word == word
    assert said in found.said


@pytest.mark.parametrize(
    ("tls", "tls_answer", "trusted", "word", "said"),
    [
        ("on", b"S", False, "ready", "SCRAM"),
        ("verify", b"S", True, "ready", "SCRAM"),
        ("verify", b"S", False, "bad TLS", "self-signed"),
        ("on", b"N", False, "bad TLS", "offers no TLS"),
        ("on", b"SSH-2.0-OpenSSH_9.2p1\r\n", False, "wrong service", "speaks SSH"),
        ("on", b"H", False, "wrong service", "speaks HTTP"),
        ("on", b"", False, "wrong service", ""),
    ],
)
def test_postgresql_begins_tls_its_own_way(authority, *, tls, tls_answer, trusted, word, said):
    context, public = authority("127.0.0.1")
    serve = postgresql(SCRAM, tls_answer=tls_answer, tls=context if tls_answer == b"S" else None)
    with server(serve) as port:
        found = ask("postgresql", port, tls=tls, ca_file=public if trusted else "")
    assert found.word == word
    assert said in found.said


def test_a_plain_port_and_a_missing_authority_are_bad_tls(authority, tmp_path):
    with server(PROMETHEUS) as port:
        assert ask("prometheus", port, tls="on").word in ("bad TLS", "timed out")
        found = ask("prometheus", port, tls="verify", ca_file=str(tmp_path / "none.pem"))
    assert found.word == "bad TLS"
    assert "none.pem cannot be used: No such file" in found.said


# --- What becomes of an answer ---


def test_the_finding_names_found_wanted_and_remedy_and_keeps_the_latency_apart():
    service = {"name": "sql", "kind": "postgresql", "host": "db", "port": 5432, "tls": "verify"}
    good = services.finding(service, services.Answer("ready", "PostgreSQL", 0.4, 2.0))
    assert (good.met, good.wanted, good.now) == (
        True,
        "PostgreSQL at db:5432 over verified TLS",
        "connected in 0.4 ms, answered in 2.0 ms",
    )
    bad = services.finding(service, services.Answer("refused", "nothing listens"))
    assert (bad.met, bad.found, bad.now) == (False, "refused: nothing listens", "")
    assert "start the service" in bad.remedy
    assert services.facts(service, services.Answer("ready", "PostgreSQL", 0.4, 2.0)) == services.facts(
        service, services.Answer("ready", "PostgreSQL", 9.9, 70.0)
    )


def test_each_word_has_a_remedy():
    connection = machine("connection")
    words = {
        value
        for name, value in vars(connection).items()
        if name.isupper() and isinstance(value, str) and not name.startswith("_")
    }
    assert words - {"ready"} == set(services._REMEDIES)
