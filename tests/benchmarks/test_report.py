"""What is made of the figures, and that the page says what the kept results say."""

import json
from typing import Any

import pytest
from bench import client, figures, messages, plot, report
from bench.figures import DIRECT, Spread
from bench.measures import percentile

PEERS = ("nginx", "sglang-router")


def results(**changed: Any) -> dict[str, Any]:
    """Three rounds of ours and two peers; ours costs 40, nginx 20 and the router 100."""

    def of(cost: float) -> dict[str, dict[str, list[float]]]:
        requests = {"cpu": [cost, cost + 9, cost - 4], "rate": [9000.0] * 3, "proxy busy": [0.99] * 3}
        late = {"p50 ms": [0.5, 0.7, 0.6], "p99 ms": [2.0, 2.0, 2.0]}
        paced = {"cpu": [cost / 2] * 3, "in time": [1.0] * 3, "others busy": [0.01] * 3}
        return {"requests 0.7 KB": requests, "events paced": paced, "latency": late}

    direct = {"latency": {"p50 ms": [0.1, 0.4, 0.2], "p99 ms": [1.0] * 3}}
    told: dict[str, Any] = {
        "date": "2030-01-02",
        "command": "bench/run",
        "seconds": 600,
        "rounds": 3,
        "machine": {
            "cpu": "a CPU",
            "cores": 2,
            "memory_gib": 16,
            "system": "Debian",
            "kernel": "6",
            "python": "3",
        },
        "versions": {"citadel": "1"},
        "settings": {"citadel": "as it is"},
        "figures": {DIRECT: direct, "citadel": of(40), "nginx": of(20), "sglang-router": of(100)},
        "errors": {},
        "left_out": {},
    }
    return told | changed


def test_a_spread_has_its_middle_and_its_ends() -> None:
    assert Spread.of([40, 49, 36]) == Spread(40, 36, 49)
    assert str(Spread.of([40, 49, 36])) == "40.0 (36.0 to 49.0)"
    assert str(Spread.of([1234.4, 1234.2])) == "1,234"
    assert percentile([5.0], 99) == 5.0
    assert percentile([float(each) for each in range(101)], 99) == pytest.approx(99)


def test_what_is_added_is_taken_round_by_round() -> None:
    found = figures.added(results(), "citadel", "latency", "p50 ms")
    assert found is not None
    assert (found.middle, found.low, found.high) == pytest.approx((0.4, 0.3, 0.4))
    assert figures.added(results(), "citadel", "requests 0.7 KB", "cpu") is None


def test_workers_have_a_table_of_their_own() -> None:
    told = results()
    assert "Several workers" not in report.tables(told)
    busy = {"proxy busy": [1.5], "stub busy": [0.2], "load busy": [0.25]}
    for name, rate in zip(figures.WORKERS.values(), (9000.0, 12000.0), strict=True):
        told["figures"][name] = {"workers": {"cpu": [90.0], "rate": [rate], **busy}}
    assert figures.contenders(told) == ["citadel", *PEERS]
    assert "| citadel, 2 workers | 90.0 | 12,000 | 150% / 20% / 25% |" in report.tables(told)


def test_the_tables_say_what_was_reached_and_what_was_not() -> None:
    text = report.tables(results())
    assert "| CPU of a request of 0.7 KB, µs | ≤ 45 | 40.0 | reached |" in text
    assert "| a request beside sglang-router's | ≤ 0.5 | 0.40 | reached |" in text
    assert "| citadel | 40.0 (36.0 to 49.0) | none | none | 9,000 |" in text
    assert "No request failed" in text
    assert "with care" not in text

    slow = results()
    slow["figures"]["citadel"]["requests 0.7 KB"]["cpu"] = [46, 46, 46]
    slow["figures"]["citadel"]["requests 0.7 KB"]["proxy busy"] = [0.5] * 3
    slow["figures"]["citadel"]["events paced"]["in time"] = [0.9, 0.9, 1.0]
    slow["figures"]["citadel"]["events paced"]["others busy"] = [0.9] * 3
    slow |= {"errors": {"citadel": {"latency": {"closed": 3}}}, "left_out": {"HAProxy": "it ended"}}
    text = report.tables(slow)
    assert "| CPU of a request of 0.7 KB, µs | ≤ 45 | 46.0 | missed |" in text
    assert "≥ 9,000" in text
    assert "falls behind: 90%" in text
    assert "| citadel | latency | 3 x closed |" in text
    assert "left out: it ended" in text
    assert "with care" in text


def test_the_picture_shows_each_contender() -> None:
    drawn = plot.picture(results())
    assert all(f">{name}</text>" in drawn for name in ("citadel", *PEERS))
    assert drawn.count("<circle") == 6


def test_requests_have_the_size_that_they_say() -> None:
    for size in (700, 32 << 10, 200 << 10):
        body = messages.chat_body(size)
        assert len(body) == size
        assert json.loads(body)["model"] == messages.MODEL
    assert json.loads(messages.chat_body(700, events=9, rate=50))["stream"] is True


def test_the_load_sees_what_is_wrong() -> None:
    ended: list[str] = []
    one = client.Client(lambda _client, wrong: ended.append(wrong))

    class Transport:
        def write(self, data: bytes) -> None: ...
        def abort(self) -> None: ...

    def answered(*parts: bytes) -> str:
        one.transport = Transport()  # type: ignore[assignment]
        one.ask(b"request")
        for part in parts:
            one.data_received(part)
        return ended.pop()

    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert answered(plain) == ""
    assert answered(*(bytes([each]) for each in plain)) == ""
    assert answered(b"HTTP/1.1 503 Busy\r\n\r\n") == "HTTP/1.1 503 Busy"
    assert answered(plain + b"more") == "more than was promised"
    assert answered(chunked + b"3\r\na\n\n\r\n0\r\n", b"\r\n") == ""
    assert one.events == 1
    one.transport = Transport()  # type: ignore[assignment]
    one.ask(b"request")
    one.data_received(plain[:-1])
    one.connection_lost(None)
    assert ended.pop() == "connection lost: closed"
    assert client.unchunked([b"3\r\nab", b"c\r\n1;x\r\nd\r\n0\r\n\r\n"]) == b"abcd"


def test_the_page_says_what_the_kept_results_say() -> None:
    kept = json.loads(report.RESULTS.read_text(encoding="utf-8"))
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.with_results(page, kept) == page, "bench/run --report"
    assert report.PICTURE.read_text(encoding="utf-8") == plot.picture(kept), "bench/run --report"
