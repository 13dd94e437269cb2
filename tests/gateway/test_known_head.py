"""Messages that the parser is spared: they are read as it would have read them, and no others are."""

from typing import Any

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from citadel_llm.gateway.wire.known_head import KnownHead

from .gateway_site import Site
from .test_abuse import BODY, raw

BEGINS = {"request": b"POST /v1/chat/completions HTTP/1.1", "answer": b"HTTP/1.1 200 OK"}
LINES = st.sampled_from(
    [
        b"content-length: 4",
        b"Content-Length: 11",
        b"CONTENT-LENGTH:4",
        b"content-length: 4 ",
        b"content-length: 4, 4",
        b"content-length: +4",
        b"x-content-length: 4",
        b"host: x",
        b"x: content-length: 4",
        b"transfer-encoding: chunked",
        b" content-length: 4",
        b"x: y\ncontent-length: 4",
        b"x: y\rcontent-length: 4",
        b"x:",
        b"",
    ]
)
HEADS = st.lists(LINES, max_size=4).map(lambda lines: b"\r\n".join([b"", *lines, b"", b""]))
PIECES = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b" ", b"0", b"5", b"12", b"-", b"_", b"x", b"content-length: 4\r\n", b"\r\n\r\n"]
)
BODIES = st.sampled_from([b"", b"body", b"hello world", b"4\r\nbody\r\n0\r\n\r\n"])


class Reader:
    """What httptools makes of some bytes: whole messages, and whether there is nothing else."""

    def __init__(self, kind: str, data: bytes) -> None:
        self.read: list[tuple[Any, ...]] = []
        self.whole = True
        self._headers: list[tuple[bytes, bytes]] = []
        self._first = self._body = b""
        parser: Any = {"request": httptools.HttpRequestParser, "answer": httptools.HttpResponseParser}[kind](
            self
        )
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.whole = False

    def on_message_begin(self) -> None:
        self.whole, self._headers, self._body, self._first = False, [], b"", b""

    def on_url(self, url: bytes) -> None:
        self._first += url

    def on_status(self, status: bytes) -> None:
        self._first += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.whole = True
        others = [header for header in self._headers if header[0] != b"content-length"]
        self.read.append((self._first, others, self._body))


@pytest.mark.parametrize("kind", ["request", "answer"])
@given(
    head=HEADS,
    body=BODIES,
    other=BODIES,
    change=st.tuples(st.integers(0, 120), st.integers(0, 4), PIECES | st.just(b"")),
)
@example(b"\r\ncontent-length: 4\r\n\r\n", b"body", b"body", (0, 0, b""))
def test_what_is_read_without_the_parser_is_what_it_would_have_read(
    kind: str, head: bytes, body: bytes, other: bytes, change: tuple[int, int, bytes]
) -> None:
    """A message like one before, with any change to it: it is read alike, or left to the parser."""
    first = BEGINS[kind] + head + body
    before = Reader(kind, first)
    if len(before.read) != 1 or not before.whole:
        return
    known = KnownHead.of(first, "what it says")
    again = BEGINS[kind] + head.replace(b": 4\r", b": %d\r" % len(other)) + other
    at, cut, piece = change
    again = again[:at] + piece + again[at + cut :]
    found = known.body_of(again) if known is not None else None
    if found is not None:
        now = Reader(kind, again)
        assert now.whole
        assert now.read == [(*before.read[0][:2], found)]


def test_a_head_that_comes_again_is_known() -> None:
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\nhost: x\r\n\r\n"
    known = KnownHead.of(head % 4 + b"body", "meaning")
    assert known is not None
    assert known.meaning == "meaning"
    assert known.body_of(head % 11 + b"hello world") == b"hello world"
    assert known.body_of(head % 0) == b""
    for other in (head % 4 + b"bod", head % 4 + b"bodyPOST", head % 4, head.lower() % 4 + b"body", b""):
        assert known.body_of(other) is None
    for length in (b"+4", b" 4", b"0_4", b"-4", b"", b"4" * 30):
        assert known.body_of(head.replace(b"%d", length) + b"body") is None
    assert KnownHead.of(b"POST / HTTP/1.1\r\nhost: x\r\n\r\n", "") is None
    assert KnownHead.of(b"POST / HTTP/1.1\r\nx: %b\r\ncontent-length: 0\r\n\r\n" % (b"y" * 5000), "") is None


def test_requests_with_the_same_head_are_answered_alike(site: Site) -> None:
    with raw(site) as connection:
        for more in range(12):
            body = BODY[:-1] + b" " * more + b"}"
            connection.send(connection.head(f"content-length: {len(body)}"), body)
            status, headers, _ = connection.answer()
            assert status == 200
            assert headers["x-request-id"] == site.chat.seen[-1].headers["x-request-id"]
            assert site.chat.seen[-1].body.startswith(body[:-1])
    assert len({seen.headers["x-request-id"] for seen in site.chat.seen}) == 12


def test_a_request_behind_the_beginning_of_another_is_a_part_of_that(site: Site) -> None:
    """The parser has that beginning already: only it can tell what belongs to what."""
    with raw(site) as connection:
        whole = connection.head(f"content-length: {len(BODY)}").encode() + BODY
        for _ in range(2):
            connection.send(whole)
            assert connection.answer()[0] == 200
        connection.send(whole, b"POST /nowhere HTTP/1.1\r\nx-all-that-follows: ")
        assert connection.answer()[0] == 200
        connection.send(whole)
        assert connection.answer()[0] == 404
        connection.send(whole)
        assert connection.answer()[0] == 200
    assert len(site.chat.seen) == 4


def test_another_head_on_the_same_connection_is_read_anew(site: Site) -> None:
    with raw(site) as connection:
        length = f"content-length: {len(BODY)}"
        for lines, status in (((), 200), ((), 200), (("x-request-id: mine",), 200), ((), 200)):
            connection.send(connection.head(length, *lines), BODY)
            assert connection.answer()[0] == status
        ids = [seen.headers["x-request-id"] for seen in site.chat.seen]
        assert [each == "mine" for each in ids] == [False, False, True, False]
        wrong = connection.head(length).replace(site.key, site.key[:-1] + "-")
        connection.send(wrong, BODY)
        assert connection.answer()[0] == 401
        connection.send(connection.head(length, path="/v1/nothing"), BODY)
        assert connection.answer()[0] == 404
