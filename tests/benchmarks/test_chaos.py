"""The chaos run's book-keeping: what counts against the rule, and which records are missing."""

import json
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from bench.chaos import report, verdict
from bench.chaos.faults import FAULTS
from bench.chaos.host import ENGINES, Counters, Record
from bench.chaos.load import Asked, kind

FIRST, SECOND = ENGINES


def asked(name: str = "", *, begun: bool = False, failure: str = "", stream: bool = True) -> Asked:
    first = 10.5 if begun else None
    return Asked(stream, sent=10.0, id=name, begun=begun, first=first, ended=12.0, failure=failure)


def record(request: str, *, number: int = 0, engine: str = FIRST, estimated: bool = False) -> Record:
    return Record(1, number, request, engine, 200, 10, 4, estimated)


def test_only_what_had_not_begun_counts_against_the_rule() -> None:
    seen = [
        asked("a", begun=True),
        asked("b", begun=True, failure="an error event in the stream"),
        asked("c", failure="503 engine_unavailable"),
        asked(failure="connection broken"),
        asked("d", begun=True, stream=False),
    ]
    told = verdict.of_clients(seen, gateway_dies=False)
    assert (told["sent"], told["answered"], told["failed_begun"], told["failed_unbegun"]) == (5, 2, 1, 2)
    assert told["breaches"] == 2
    assert (told["first_token_longest"], told["answer_longest"]) == (0.5, 2.0)
    assert told["kinds"]["503 engine_unavailable"] == 1
    # Of a gateway that is gone the broken connections alone are excused.
    assert verdict.of_clients(seen, gateway_dies=True)["breaches"] == 1


def test_each_request_that_reached_an_engine_has_one_record() -> None:
    seen = [
        asked("a", begun=True),
        asked("b", begun=True),
        asked("failed", failure="502 engine_failed"),
        asked("refused", failure="503 queue_full"),
        asked(failure="connection broken"),
    ]
    lines = {"failed": {"attempts": 2}, "refused": {"attempts": 0}}
    good = [record("a"), record("b", number=1), record("failed", number=2, estimated=True)]
    told = verdict.of_records(seen, good, lines)
    assert (told["missing"], told["double"], told["unknown"], told["nameless"]) == (0, 0, 0, 1)
    assert (told["reached"], told["records"], told["estimated"], told["retried"]) == (3, 3, 1, 1)
    bad = [record("a"), record("a", number=1), record("nobody's", number=2)]
    told = verdict.of_records(seen, bad, lines)
    assert (told["missing"], told["double"], told["unknown"]) == (2, 1, 1)


def test_counters_are_compared_of_engines_that_lived() -> None:
    def counters(start: str, requests: float) -> Counters:
        names = ("vllm:request_success_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total")
        return Counters(start, dict(zip(names, (requests, 10 * requests, 4 * requests), strict=True)))

    before = {FIRST: counters("x", 5), SECOND: counters("y", 7)}
    after = {FIRST: counters("x", 7), SECOND: counters("z", 1)}
    noted = [record("a"), record("b"), record("c", engine=SECOND), record("d", estimated=True)]
    told = verdict.of_counters(noted, before, after)
    assert told["engines"] == 1
    assert told["counted"] == told["noted"] == {"requests": 2, "read": 20, "written": 8}
    assert told["unsure"] == 1


@pytest.mark.parametrize(
    ("error", "called"),
    [
        (httpx2.ReadError(""), "connection broken"),
        (httpx2.ReadTimeout(""), "no answer in time"),
        (openai.APITimeoutError(httpx2.Request("POST", "http://e")), "no answer in time"),
        (openai.APIConnectionError(request=httpx2.Request("POST", "http://e")), "connection broken"),
        (openai.APIError("", httpx2.Request("POST", "http://e"), body=None), "an error event in the stream"),
    ],
)
def test_failures_have_their_names(error: Exception, called: str) -> None:
    assert kind(error) == called


def kept() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(report.RESULTS).read_text(encoding="utf-8"))
    return loaded


def test_the_page_says_what_the_kept_results_say() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.with_results(page, kept()) == page, "make chaos OPTIONS=--report"


def test_the_kept_results_are_of_all_faults() -> None:
    assert [each["fault"] for each in kept()["faults"]] == [fault.name for fault in FAULTS]


@pytest.mark.parametrize(
    ("part", "name"), [("", ""), ("clients", "breaches"), ("records", "missing"), ("records", "double")]
)
def test_one_is_too_many(part: str, name: str) -> None:
    clients = {"breaches": 0}
    records = {"missing": 0, "double": 0, "unknown": 1, "nameless": 1}
    results: dict[str, Any] = {"faults": [{"clients": clients, "records": records}], "sums": 1, "records": 1}
    if part:
        results["faults"][0][part][name] = 1
    assert report.holds(results) is not bool(part)
