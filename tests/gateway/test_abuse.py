"""Clients that lie, dawdle, or send what is no HTTP: they are refused, and the others never notice.

Everything here goes through raw sockets, since no client library can be brought to do it.
"""

import json
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import pytest
from aiohttp import web

from .gateway_site import CHAT, Site, wait_until

PATH = "/v1/chat/completions"
ASK = json.dumps(
    {"model": CHAT, "messages": [{"role": "user", "content": "Grüße, 世界 🌍"}]}, ensure_ascii=False
)
BODY = ASK.encode()


class Raw:
    """A connection, and what comes back on it."""

    def __init__(self, site: Site, *, timeout: float = 10) -> None:
        self.site = site
        self.socket = socket.create_connection(("127.0.0.1", site.port), timeout=timeout)
        self._file = self.socket.makefile("rb")

    def send(self, *parts: bytes | str) -> None:
        self.socket.sendall(b"".join(p if isinstance(p, bytes) else p.encode("latin-1") for p in parts))

    def head(self, *lines: str, method: str = "POST", path: str = PATH, version: str = "1.1") -> str:
        fixed = (f"{method} {path} HTTP/{version}", "host: x", f"authorization: Bearer {self.site.key}")
        return "\r\n".join([*fixed, *lines, "", ""])

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body. Status 0: the connection was closed without one."""
        line = self._file.readline()
        if not line:
            return 0, {}, b""
        status = int(line.split()[1])
        headers = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if status == 100:
            return self.answer()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._file.readline().split(b";")[0], 16):
                body += self._file.read(size + 2)[:-2]
            self._file.readline()
            return status, headers, body
        return status, headers, self._file.read(int(headers.get("content-length", 0)))

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def is_closed(self) -> bool:
        """Whether nothing more comes; waits for the end."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True


@contextmanager
def raw(site: Site) -> Iterator[Raw]:
    connection = Raw(site)
    try:
        yield connection
    finally:
        connection.close()


def _works(site: Site) -> None:
    """The gateway still serves, and its engine got nothing but whole requests."""
    assert site.http.post(PATH, content=BODY, headers=site.auth).status_code == 200
    for seen in site.chat.seen:
        assert json.loads(seen.body)["model"] == CHAT


def _refused(connection: Raw, *statuses: int) -> None:
    status, headers, body = connection.answer()
    assert status in statuses, (status, body)
    if status:
        assert headers["content-type"] == "application/json"
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert connection.is_closed()


# What is no request, or two at once.


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /v1/models\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nbad\x00name: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nname: a\x00b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n folded: x\r\n\r\n",
        b"FROBNICATE /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(site: Site, sent: bytes) -> None:
    with raw(site) as connection:
        connection.send(sent)
        _refused(connection, 400, 401, 404, 405)
    _works(site)


SMUGGLING = {
    "both lengths": ("content-length: 5", "transfer-encoding: chunked"),
    "both, the other way": ("transfer-encoding: chunked", "content-length: 5"),
    "two lengths": ("content-length: 5", "content-length: 6"),
    "a list of lengths": ("content-length: 5, 6",),
    "a signed length": ("content-length: +5",),
    "a negative length": ("content-length: -5",),
    "a length in hex": ("content-length: 0x5",),
    "a length with underscores": ("content-length: 1_0",),
    "a length beyond 64 bits": ("content-length: 99999999999999999999999",),
    "a space before the colon": ("transfer-encoding : chunked",),
    "a coding that hides": ("transfer-encoding: xchunked",),
    "chunked and then another": ("transfer-encoding: chunked, identity",),
    "chunked twice": ("transfer-encoding: chunked", "transfer-encoding: identity"),
    "a vertical tab": ("transfer-encoding:\x0bchunked",),
}


@pytest.mark.parametrize("lines", SMUGGLING.values(), ids=SMUGGLING)
def test_a_body_of_two_lengths_hides_no_second_request(site: Site, lines: tuple[str, ...]) -> None:
    """Whichever way the lengths are read, what follows must not be taken for a request of its own."""
    with raw(site) as connection:
        hidden = connection.head("content-length: 0", path="/v1/models", method="GET")
        connection.send(connection.head(*lines), "0\r\n\r\n", hidden)
        _refused(connection, 0, 400, 411, 413, 501)
    assert site.chat.seen == []
    _works(site)


@pytest.mark.parametrize("size", ["zz", "-1", "ffffffffffffffffff", "", "0x5", "1 0"])
def test_a_chunk_of_no_size_is_refused(site: Site, size: str) -> None:
    with raw(site) as connection:
        connection.send(connection.head("transfer-encoding: chunked"), f"{size}\r\nhello\r\n0\r\n\r\n")
        status, _, _ = connection.answer()
        assert status in (0, 400, 413, 431)
        assert connection.is_closed()
    assert site.chat.seen == []
    _works(site)


def test_a_body_in_chunks_is_a_body(site: Site) -> None:
    """Cut anywhere, also within a character; with extensions and a trailer."""
    chunks = b"".join(b"%x;name=value\r\n%b\r\n" % (1, BODY[i : i + 1]) for i in range(len(BODY)))
    with raw(site) as connection:
        connection.send(connection.head("transfer-encoding: chunked"), chunks, b"0\r\ntrailer: x\r\n\r\n")
        assert connection.answer()[0] == 200
    assert json.loads(site.chat.seen[0].body)["messages"] == json.loads(BODY)["messages"]
    assert "transfer-encoding" not in site.chat.seen[0].headers


def test_more_than_was_announced_is_not_passed_on(site: Site) -> None:
    with raw(site) as connection:
        connection.send(connection.head(f"content-length: {len(BODY)}"), BODY, b"and more")
        # It may be given up, or answered; what follows is no request in any case.
        statuses = [connection.answer()[0], connection.answer()[0]]
        assert statuses in ([200, 400], [200, 0], [400, 0], [0, 0])
    assert not any(b"and more" in seen.body for seen in site.chat.seen)
    _works(site)


def test_pipelined_requests_are_answered_in_their_order(site: Site) -> None:
    async def answer(_request: web.Request, body: bytes) -> web.StreamResponse:
        return web.json_response({"n": json.loads(body)["n"]})

    site.chat.answer = answer
    with raw(site) as connection:
        requests = b""
        for number in range(12):
            body = json.dumps({"model": CHAT, "n": number}).encode()
            requests += connection.head(f"content-length: {len(body)}").encode() + body
            requests += connection.head(method="GET", path="/health").encode()
        threading.Thread(target=connection.send, args=(requests,)).start()
        for number in range(12):
            assert json.loads(connection.answer()[2]) == {"n": number}
            assert json.loads(connection.answer()[2]) == {"status": "ok"}


def test_a_pipeline_without_end_is_not_held_in_memory(site: Site) -> None:
    """Who sends requests without reading answers is held back."""
    with raw(site) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.socket.settimeout(0.5)
        request = connection.head(method="GET", path="/v1/models").encode() * 50
        # More than the kernel's buffers take, on both sides.
        with pytest.raises(TimeoutError):
            connection.socket.sendall(request * ((64 << 20) // len(request)))
    _works(site)


# What is slow, or large.


def test_slow_heads_and_bodies_are_given_up(make_site: Any) -> None:
    site = make_site(header_timeout_seconds=0.3, body_timeout_seconds=0.3)
    with raw(site) as head, raw(site) as dripping, raw(site) as body, raw(site) as chunked:
        head.send(f"POST {PATH} HTTP/1.1\r\nhost: x\r\nx-slow: ")
        dripping.send(f"POST {PATH} HTTP/1.1\r\nhost: x\r\nx-slow: ")
        stopped = threading.Event()

        def drip() -> None:
            # One byte at a time, for ever: each is progress, the whole is not.
            try:
                while not stopped.wait(0.05):
                    dripping.send(b"x")
            except OSError:
                pass

        thread = threading.Thread(target=drip)
        thread.start()
        body.send(body.head("content-length: 500"), b'{"model"')
        chunked.send(chunked.head("transfer-encoding: chunked"), b"10\r\n{")
        for connection in (head, dripping, body, chunked):
            assert connection.answer()[0] in (0, 408)
            assert connection.is_closed()
        stopped.set()
        thread.join()
    assert site.chat.seen == []
    _works(site)


@pytest.mark.parametrize(
    ("line", "statuses"),
    [
        ("x-large: " + "x" * (1 << 20), (0, 400, 431)),
        ("\r\n".join(f"x-{number}: x" for number in range(50_000)), (0, 400, 431)),
    ],
    ids=["one", "many"],
)
def test_a_huge_head_is_refused(site: Site, line: str, statuses: tuple[int, ...]) -> None:
    with raw(site) as connection:
        try:
            connection.send(connection.head(line, "content-length: 0"))
            status = connection.answer()[0]
        except (ConnectionResetError, BrokenPipeError):
            status = 0
        assert status in statuses
    assert site.chat.seen == []
    _works(site)


def test_a_long_path_is_unknown(site: Site) -> None:
    with raw(site) as connection:
        connection.send(connection.head(path="/" + "x" * 30_000, method="GET"))
        status, _, body = connection.answer()
        assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_url")


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1/chat//completions",
        "/v1/chat/completions/..",
        "/v1/chat/completions/../../../metrics",
        "/v1/chat%2Fcompletions",
        "/v1/chat/completions%00",
        "/V1/CHAT/COMPLETIONS",
        "/v1/chat/completions;x=1",
        "/invocations",
        "/v1/responses/resp_1",
        "/v1/load_lora_adapter",
        "/inference/v1/generate",
        "/sleep",
        "/version",
    ],
)
def test_no_detour_leads_to_an_engine(site: Site, path: str) -> None:
    with raw(site) as connection:
        connection.send(connection.head(f"content-length: {len(BODY)}", path=path), BODY)
        status, _, body = connection.answer()
        assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_url")
    assert site.chat.seen == []


def test_methods_that_have_no_body_or_no_meaning(site: Site) -> None:
    for method, path, status in (
        ("HEAD", "/v1/models", 405),
        ("HEAD", PATH, 405),
        ("HEAD", "/nowhere", 404),
        ("OPTIONS", PATH, 405),
        ("OPTIONS", "*", 404),
        ("TRACE", PATH, 405),
        ("PUT", PATH, 405),
    ):
        with raw(site) as connection:
            connection.send(connection.head("connection: close", method=method, path=path))
            line = connection._file.readline()
            assert int(line.split()[1]) == status, (method, path)
            rest = connection._file.read()
            assert b"content-type: application/json" in rest
            assert rest.endswith(b"\r\n\r\n") == (method == "HEAD"), (method, path)


def test_an_upgrade_is_not_made(site: Site) -> None:
    for upgrade in ("websocket", "h2c"):
        with raw(site) as connection:
            lines = ("connection: upgrade", f"upgrade: {upgrade}", "sec-websocket-key: eA==")
            connection.send(connection.head(*lines, path="/health", method="GET"))
            assert connection.answer()[0] in (200, 400)
    _works(site)


def test_a_client_that_reads_nothing_holds_the_engine_back(site: Site) -> None:
    written = site.chat.answer_endlessly(512 << 20)
    with raw(site) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.send(connection.head(f"content-length: {len(BODY)}"), BODY)
        wait_until(lambda: written() > 0)
        before = -1

        def stands_still() -> bool:
            nonlocal before
            now, before = before, written()
            return now == written()

        # It stands still when the buffers of the kernel, twice, and a little of the gateway's are full.
        threading.Event().wait(0.2)
        wait_until(stands_still)
        assert written() < 64 << 20
        site.chat.answer = None
        _works(site)


# Many.


def _idle(site: Site, number: int) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(raw(site)) for _ in range(number)]
        for each in connections[::2]:
            each.send(b"POST /v1/chat/comp")
        process = psutil.Process()
        _works(site)
        assert process.memory_info().rss < 4 << 30
        # Those that did no more than wait can still be used.
        for each in connections[1 : min(number, 200) : 2]:
            each.send(each.head(f"content-length: {len(BODY)}"), BODY)
            assert each.answer()[0] == 200


def test_idle_connections_do_not_stop_the_others(site: Site) -> None:
    _idle(site, 300)


_OPEN = """
import resource, socket, sys
port, number = int(sys.argv[1]), int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(number)]
print(len(held), flush=True)
sys.stdin.read()
"""


@pytest.mark.lab
def test_ten_thousand_idle_connections(site: Site) -> None:
    """Held by another process: they take this one's descriptors only on the server's side."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process = psutil.Process()
    before = process.memory_info().rss
    command = [sys.executable, "-c", _OPEN, str(site.port), "10000"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
        try:
            assert clients.stdout
            assert clients.stdout.readline().strip() == "10000"
            for _ in range(20):
                _works(site)
                site.chat.seen.clear()
            taken = process.memory_info().rss - before
            assert taken < 512 << 20, f"{taken >> 20} MiB for 10,000 idle connections"
        finally:
            assert clients.stdin
            clients.stdin.close()
            clients.wait(timeout=60)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    _works(site)


def test_a_body_that_drips_is_not_waited_for_for_ever(make_site: Any) -> None:
    """Each gap is short, and still it takes longer than any honest client's."""
    site = make_site(body_timeout_seconds=1)
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as client:
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {site.key}\r\n"
        client.sendall(f"{head}content-length: 1000\r\n\r\n".encode())
        client.settimeout(0.2)
        answer = b""
        for _ in range(60):
            client.sendall(b"{")
            try:
                answer = client.recv(4096)
                break
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_client_may_name_the_host_in_the_path(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as client:
        head = f"POST http://gateway.example{PATH}?x=1 HTTP/1.1\r\nhost: gateway.example\r\n"
        body = b'{"model": "chat-model", "messages": []}'
        client.sendall(
            f"{head}authorization: Bearer {site.key}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
