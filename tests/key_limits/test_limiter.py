"""One gateway: what is let through, what is refused, and whether what the refusal says is true."""

import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from citadel_llm.gateway.errors import LargerThanLimitError, RateLimitedError, shape_of
from citadel_llm.gateway.limits import Limiter
from citadel_llm.gateway.limits.budget import BudgetWindow
from citadel_llm.gateway.limits.headers import spell
from citadel_llm.gateway.limits.minute import MinuteWindow
from citadel_llm.store import KeyRecord

from .limits_site import Clock, eventually, key, new_limiter


def refused(limiter: Limiter, asker: KeyRecord, tokens: int = 0) -> tuple[RateLimitedError, float]:
    with pytest.raises(RateLimitedError) as caught:
        limiter.admit(asker, tokens)
    assert caught.value.retry_after is not None
    return caught.value, caught.value.retry_after


def refusal(limiter: Limiter, asker: KeyRecord, tokens: int = 0) -> RateLimitedError:
    return refused(limiter, asker, tokens)[0]


def test_the_61st_request_of_a_minute_waits_for_the_first_one_to_be_a_minute_old(clock: Clock) -> None:
    limiter, asker = new_limiter(), key(requests_per_minute=60)
    for _ in range(60):
        clock.go(0.5)
        limiter.admit(asker, 0)
    error, seconds = refused(limiter, asker)
    assert seconds == pytest.approx(60 - 29.5)
    assert "60 requests a minute" in error.message
    assert shape_of(error).status == 429
    assert (shape_of(error).type, shape_of(error).code) == ("requests", "rate_limit_exceeded")
    clock.go(seconds - 0.001)
    refusal(limiter, asker)
    clock.go(0.002)
    limiter.admit(asker, 0)
    refusal(limiter, asker)


@pytest.mark.parametrize("seed", range(4))
def test_a_minute_slides_as_an_exact_record_of_every_request_does(clock: Clock, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - nothing is secret here
    limiter, asker = new_limiter(), key(tokens_per_minute=1000, requests_per_minute=40)
    record: list[tuple[float, int]] = []
    outcomes = set()
    for _ in range(3000):
        clock.go(chance.choice((0.06, 0.1, 1.0, 7.0)))
        tokens = chance.randrange(0, 120)
        record = [(at, n) for at, n in record if at > clock.monotonic - 60]
        fits = len(record) < 40 and sum(n for _, n in record) + tokens <= 1000
        outcomes.add(fits)
        if fits:
            limiter.admit(asker, tokens)
            record.append((clock.monotonic, tokens))
        else:
            refusal(limiter, asker, tokens)
    assert outcomes == {True, False}


def test_a_busy_minute_takes_little_memory_and_never_lets_more_through(clock: Clock) -> None:
    limiter, asker = new_limiter(), key(requests_per_minute=100_000)
    for _ in range(100_000):
        clock.go(0.0005)
        limiter.admit(asker, 0)
    error = refusal(limiter, asker)
    assert error.retry_after == pytest.approx(10, abs=0.2)
    (_, limits) = limiter._keys[asker.id]
    (window,) = limits.windows.values()
    assert isinstance(window, MinuteWindow)
    assert len(window._log) <= 1024


def test_the_estimate_counts_until_the_request_is_settled(clock: Clock) -> None:
    limiter, asker = new_limiter(), key(tokens_per_minute=1000)
    first = limiter.admit(asker, 600)
    error = refusal(limiter, asker, 401)
    assert "1000 tokens a minute" in error.message
    assert shape_of(error).type == "tokens"
    first.settle(100)
    second = limiter.admit(asker, 900)
    first.settle(0)  # once is enough
    refusal(limiter, asker, 1)
    second.settle(1500)
    clock.go(60)
    # What was given back is not given back again by time: the 600 more of the answer count from its end.
    limiter.admit(asker, 1000)


def test_an_answer_longer_than_its_estimate_counts_from_its_end(clock: Clock) -> None:
    limiter, asker = new_limiter(), key(tokens_per_minute=1000)
    grant = limiter.admit(asker, 10)
    clock.go(300)
    grant.settle(1000)
    assert refusal(limiter, asker, 20).retry_after == pytest.approx(60)
    grant = limiter.admit(asker, 10)
    clock.go(300)
    grant.settle(0)  # older than a minute: nothing to give back
    limiter.admit(asker, 1000)
    refusal(limiter, asker, 1)


def test_requests_at_once_are_freed_by_their_end(clock: Clock) -> None:
    limiter, asker = new_limiter(), key(concurrent_requests=2)
    grants = [limiter.admit(asker, 0) for _ in range(2)]
    error, seconds = refused(limiter, asker)
    assert "2 requests at once" in error.message
    assert seconds > 0
    clock.go(10)
    grants[0].settle(5)
    grants[0].settle(5)
    limiter.admit(asker, 0)
    refusal(limiter, asker)


def test_a_refused_request_leaves_no_trace(clock: Clock) -> None:
    limiter, asker = new_limiter(), key(requests_per_minute=3, concurrent_requests=3, tokens_per_minute=10)
    for _ in range(20):
        refusal_of_tokens = limiter.admit(asker, 10)
        refusal(limiter, asker, 1)
        refusal_of_tokens.settle(0)
        clock.go(30)


def test_a_budget_ends_with_its_day_of_utc(clock: Clock) -> None:
    limiter, asker = new_limiter(), key(tokens_per_day=1000)
    limiter.admit(asker, 10).settle(1000)
    error, seconds = refused(limiter, asker, 1)
    assert seconds == pytest.approx(12 * 3600)
    shape = shape_of(error)
    assert (shape.status, shape.type, shape.code) == (429, "insufficient_quota", "insufficient_quota")
    assert shape.headers["x-should-retry"] == "false"
    clock.go(seconds - 0.01)
    refusal(limiter, asker, 1)
    clock.go(0.02)
    late = limiter.admit(asker, 400)
    clock.go(24 * 3600)
    # Of yesterday's request, today bears only what exceeds its estimate.
    late.settle(0)
    limiter.admit(asker, 1000)
    refusal(limiter, asker, 1)


def test_a_month_has_its_own_length(clock: Clock) -> None:
    limiter, asker = new_limiter(), key(tokens_per_month=10)
    for month in (11, 12, 1, 2, 3):
        limiter.admit(asker, 10)
        clock.go(refused(limiter, asker, 1)[1])
        begun = datetime.fromtimestamp(clock.wall, UTC)
        assert (begun.month, begun.day, begun.hour) == (month % 12 + 1, 1, 0)


async def test_what_was_spent_before_a_restart_is_read_in_the_background(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database: list[dict[str, tuple[int, int]]] = []

    async def spent() -> dict[str, tuple[int, int]]:
        if not database:
            raise OSError("away")
        return database[0]

    limiter = new_limiter(spent)
    asker = key(tokens_per_day=1000, tokens_per_month=100_000)
    monkeypatch.setattr("citadel_llm.gateway.limits.limiter._RETRY_SPENT_SECONDS", 0.01)
    async with limiter.running():
        limiter.admit(asker, 60).settle(50)  # the database is away: nobody waits for it
        database.append({asker.id: (950, 5000)})
        await eventually(lambda: limiter._read.spent)
        refusal(limiter, asker, 51)
        limiter.admit(asker, 50)


def test_what_the_database_knows_is_not_counted_twice(clock: Clock) -> None:
    limiter, asker = new_limiter(), key(tokens_per_day=1000)
    limiter.admit(asker, 400)
    (_, limits) = limiter._keys[asker.id]
    (window,) = limits.windows.values()
    assert isinstance(window, BudgetWindow)
    window.known(20261123, 400, own=400)
    assert window.own + window.others == 400
    window.known(20261123, 700, own=400)
    assert window.own + window.others == 700
    window.known(20261122, 9999, own=0)
    assert window.own + window.others == 700


@pytest.mark.parametrize(
    "asker", [key(tokens_per_minute=100), key(tokens_per_day=100), key(tokens_per_month=100)]
)
def test_what_can_never_pass_is_no_matter_of_waiting(clock: Clock, asker: KeyRecord) -> None:
    with pytest.raises(
        LargerThanLimitError, match="about 101 tokens, with a limit of 100 tokens a"
    ) as caught:
        new_limiter().admit(asker, 101)
    assert shape_of(caught.value).status == 400
    assert caught.value.retry_after is None


def test_the_limit_named_is_the_one_in_the_way_for_longest(clock: Clock) -> None:
    limiter = new_limiter()
    asker = key(requests_per_minute=1, tokens_per_minute=10, tokens_per_day=10, concurrent_requests=1)
    limiter.admit(asker, 10)
    error = refusal(limiter, asker, 1)
    assert "10 tokens a day" in error.message
    assert error.retry_after == pytest.approx(12 * 3600)


def test_the_headers_are_those_of_openai(clock: Clock) -> None:
    limiter, asker = new_limiter(), key(requests_per_minute=60, tokens_per_minute=1000, tokens_per_day=10**6)
    grant = limiter.admit(asker, 250)
    assert grant.header_lines() == (
        b"x-ratelimit-limit-requests: 60\r\n"
        b"x-ratelimit-remaining-requests: 59\r\n"
        b"x-ratelimit-reset-requests: 1m0s\r\n"
        b"x-ratelimit-limit-tokens: 1000\r\n"
        b"x-ratelimit-remaining-tokens: 750\r\n"
        b"x-ratelimit-reset-tokens: 1m0s\r\n"
    )
    clock.go(20.5)
    error = refusal(limiter, asker, 751)
    assert error.headers == {
        "retry-after-ms": "39500",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "40s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "750",
        "x-ratelimit-reset-tokens": "40s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0171, "18ms"), (0.9999, "1s"), (1, "1s"), (59.1, "1m0s"), (360, "6m0s"), (3661, "1h1m1s")],
)
def test_times_are_spelled_as_openai_spells_them(seconds: float, text: str) -> None:
    assert spell(seconds) == text


def test_a_key_without_limits_has_the_sites(clock: Clock) -> None:
    limiter = new_limiter(requests_per_minute=2)
    ample, plain = key("a" * 12, requests_per_minute=3), key("b" * 12)
    for asker, limit in ((plain, 2), (ample, 3)):
        for _ in range(limit):
            limiter.admit(asker, 0)
        refusal(limiter, asker)
    free = new_limiter().admit(plain, 10**9)
    assert free.header_lines() == b""
    free.settle(10)


def test_a_changed_limit_holds_from_the_next_request_on(clock: Clock) -> None:
    limiter, asker = new_limiter(), key(requests_per_minute=2, concurrent_requests=5)
    grants = [limiter.admit(asker, 0) for _ in range(2)]
    refusal(limiter, asker)
    limiter.admit(replace(asker, requests_per_minute=3), 0)
    refusal(limiter, replace(asker, requests_per_minute=3))
    refusal(limiter, replace(asker, requests_per_minute=1))
    # The same record, read again, changes nothing; without limits nothing is counted.
    refusal(limiter, replace(asker))
    limiter.admit(replace(asker, requests_per_minute=None, concurrent_requests=None), 0)
    for grant in grants:
        grant.settle(0)


def test_idle_keys_are_forgotten_unless_only_this_gateway_knows_what_they_spent(clock: Clock) -> None:
    registry = CollectorRegistry()
    limiter = new_limiter(registry=registry)
    idle, busy, spender = (key(c * 12, requests_per_minute=5, concurrent_requests=5) for c in "abc")
    limiter.admit(idle, 0).settle(0)
    under_way = limiter.admit(busy, 0)
    limiter.admit(replace(spender, tokens_per_month=100), 60).settle(60)
    clock.go(100)
    limiter.forget_idle()
    assert set(limiter._keys) == {idle.id, busy.id, spender.id}
    clock.go(100)
    limiter.forget_idle()
    assert set(limiter._keys) == {busy.id, spender.id}
    assert registry.get_sample_value("citadel_gateway_limit_keys") == 2
    under_way.settle(0)
    clock.go(31 * 86400)
    limiter.forget_idle()
    assert limiter._keys == {}


def test_refusals_are_counted_by_limit(clock: Clock) -> None:
    registry = CollectorRegistry()
    limiter, asker = new_limiter(registry=registry), key(requests_per_minute=1)
    limiter.admit(asker, 0)
    for _ in range(3):
        refusal(limiter, asker)
    total = "citadel_gateway_limit_refusals_total"
    assert registry.get_sample_value(total, {"limit": "requests_per_minute"}) == 3
    assert registry.get_sample_value("citadel_gateway_limit_store_up") is None
