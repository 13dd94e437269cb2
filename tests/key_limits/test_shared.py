"""Several gateways on one real store: together within the bound, alone when it is away."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from citadel_llm.config.parts import SecretReference
from citadel_llm.gateway.errors import RateLimitedError
from citadel_llm.gateway.limits import Grant, Limiter
from citadel_llm.store import KeyRecord

from .limits_site import eventually, key, new_limiter
from .valkey_server import ValkeyServer

pytestmark = pytest.mark.lab

UP = "citadel_gateway_limit_store_up"
GATEWAYS = "citadel_gateway_limit_gateways"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path)
    server.start()
    yield server
    server.kill()


class Gateways:
    """Limiters that share a store, each with its metrics."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.limiters: list[Limiter] = []
        self._registries: list[CollectorRegistry] = []

    async def start(self, url: str, password: SecretReference | None = None) -> Limiter:
        registry = CollectorRegistry()
        limiter = new_limiter(registry=registry, store=url, store_password=password)
        await self._stack.enter_async_context(limiter.running())
        self.limiters.append(limiter)
        self._registries.append(registry)
        return limiter

    def show(self, metric: str, value: float) -> bool:
        return all(registry.get_sample_value(metric) == value for registry in self._registries)


@pytest.fixture
async def gateways() -> AsyncIterator[Gateways]:
    async with AsyncExitStack() as stack:
        yield Gateways(stack)


def ask(limiter: Limiter, asker: KeyRecord, tokens: int = 0) -> Grant | None:
    try:
        return limiter.admit(asker, tokens)
    except RateLimitedError:
        return None


async def admitted(limiter: Limiter, asker: KeyRecord, tokens: int) -> int:
    """How many requests a gateway lets through that is asked as often as possible, until it stays at no."""
    count = 0
    end = last = time.monotonic()
    while end - last < 1:
        for _ in range(50):
            if ask(limiter, asker, tokens) is not None:
                count += 1
                last = time.monotonic()
        await asyncio.sleep(0)
        end = time.monotonic()
    return count


@pytest.mark.parametrize(
    ("asker", "tokens", "fit"),
    [
        (key(requests_per_minute=800), 0, 800),
        (key(tokens_per_minute=8000), 10, 800),
        (key(tokens_per_day=8000), 10, 800),
        (key(concurrent_requests=800), 0, 800),
    ],
    ids=["requests a minute", "tokens a minute", "tokens a day", "requests at once"],
)
async def test_three_gateways_under_load_exceed_a_limit_by_no_more_than_the_bound(
    server: ValkeyServer, gateways: Gateways, asker: KeyRecord, tokens: int, fit: int
) -> None:
    for _ in range(3):
        await gateways.start(server.url)
    await eventually(lambda: gateways.show(UP, 1))
    counts = await asyncio.gather(*(admitted(each, asker, tokens) for each in gateways.limiters))
    # The bound: an eighth of the limit for each gateway but one.
    assert fit <= sum(counts) <= fit * (1 + 2 / 8)
    assert [ask(each, asker, tokens) for each in gateways.limiters] == [None] * 3


async def test_a_gateway_that_was_not_asked_before_knows_what_the_others_let_through(
    server: ValkeyServer, gateways: Gateways
) -> None:
    asker = key(requests_per_minute=80, tokens_per_month=800)
    first = await gateways.start(server.url)
    await eventually(lambda: gateways.show(UP, 1))
    grants: list[Grant] = []
    while len(grants) < 80:
        grant = ask(first, asker, 5)
        if grant:
            grants.append(grant)
        await asyncio.sleep(0.001)
    late = await gateways.start(server.url)
    await eventually(lambda: gateways.show(UP, 1))
    ask(late, asker, 5)  # on credit: it cannot know yet
    await eventually(lambda: ask(late, asker, 5) is None)
    grant = late.admit(key("f" * 12, requests_per_minute=1), 0)
    assert b"remaining-requests: 0" in grant.header_lines()
    with pytest.raises(RateLimitedError) as caught:
        late.admit(asker, 5)
    assert caught.value.retry_after is not None
    assert 40 < caught.value.retry_after <= 61


async def test_a_place_that_one_gateway_frees_another_can_take(
    server: ValkeyServer, gateways: Gateways
) -> None:
    asker = key(concurrent_requests=2)
    one, other = await gateways.start(server.url), await gateways.start(server.url)
    await eventually(lambda: gateways.show(UP, 1))
    held: list[Grant] = []
    while len(held) < 2:
        held += [grant for grant in [ask(one, asker)] if grant]
        await asyncio.sleep(0.001)

    def takes_place() -> bool:
        grant = ask(other, asker)
        if grant:
            grant.settle(0)
        return grant is not None

    # On credit at first: it cannot know yet.
    await eventually(lambda: not takes_place())
    held[0].settle(0)
    await eventually(takes_place)


async def test_while_the_store_is_away_each_gateway_has_its_share(
    server: ValkeyServer, gateways: Gateways
) -> None:
    asker = key(requests_per_minute=300)
    with capture_logs() as logs:
        for _ in range(3):
            await gateways.start(server.url)
        await eventually(lambda: gateways.show(GATEWAYS, 3), 40)
        server.kill()
        await eventually(lambda: gateways.show(UP, 0))
        counts = [sum(ask(each, asker) is not None for _ in range(400)) for each in gateways.limiters]
        assert counts == [100, 100, 100]
        server.start()
        await eventually(lambda: gateways.show(UP, 1))
        # They tell the store what they let through in the meantime: together they have used the limit up.
        await eventually(lambda: [ask(each, asker) for each in gateways.limiters] == [None] * 3)
        assert not ask(gateways.limiters[0], asker)
    lost = [line for line in logs if line["log_level"] == "error"]
    assert len(lost) == 3, lost
    assert lost[0]["gateways"] == 3


async def test_a_store_that_hangs_holds_up_nobody_and_is_told_nothing_twice(
    server: ValkeyServer, gateways: Gateways
) -> None:
    asker = key(requests_per_minute=100, tokens_per_day=10_000)
    limiter = await gateways.start(server.url)
    await eventually(lambda: gateways.show(UP, 1))
    server.hang()
    slowest = 0.0
    end = time.monotonic() + 4
    while time.monotonic() < end:
        begun = time.monotonic()
        ask(limiter, asker, 100)
        await asyncio.sleep(0.02)
        slowest = max(slowest, time.monotonic() - begun)
    assert gateways.show(UP, 0)
    assert slowest < 0.5
    server.go_on()
    await eventually(lambda: gateways.show(UP, 1))
    other = await gateways.start(server.url)
    await eventually(lambda: gateways.show(UP, 1))
    (_, limits) = limiter._keys[asker.id]
    own = {kind.name: window.own for kind, window in limits.windows.items()}
    ask(other, asker, 0)
    (_, limits) = other._keys[asker.id]
    await eventually(lambda: any(window.others for window in limits.windows.values()))
    heard = {kind.name: window.others for kind, window in limits.windows.items()}
    # What was on its way when the store began to hang may be told again, once.
    assert own["tokens_per_day"] <= heard["tokens_per_day"] <= own["tokens_per_day"] + 1300


async def test_a_gateway_starts_without_the_store(server: ValkeyServer, gateways: Gateways) -> None:
    server.kill()
    limiter = await gateways.start(server.url)
    asker = key(requests_per_minute=5)
    # Where no other gateway was ever seen, it has the whole limit.
    granted: list[Grant] = []

    def all_granted() -> bool:
        granted.extend(grant for grant in [ask(limiter, asker)] if grant)
        return len(granted) >= 5

    await eventually(all_granted)
    assert not ask(limiter, asker)
    assert gateways.show(UP, 0)
    server.start()
    await eventually(lambda: gateways.show(UP, 1))
    assert not ask(limiter, asker)


async def test_the_password_comes_from_its_file_and_into_no_log(tmp_path: Path, gateways: Gateways) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    server = ValkeyServer(folder, "--requirepass", "s3cret-of-the-store")
    server.start()
    try:
        password = tmp_path / "password"
        password.write_text("not-s3cret\n")
        with capture_logs() as logs:
            await gateways.start(server.url, SecretReference(file=password))
            await eventually(lambda: logs)
            assert gateways.show(UP, 0)
            password.write_text("s3cret-of-the-store\n")
            await eventually(lambda: gateways.show(UP, 1))
        assert "s3cret" not in str(logs)
    finally:
        server.kill()
