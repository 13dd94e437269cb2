"""Models on demand: what clients see of the gateway, the manager and its sockets while models take turns.

There is room for one of the site's two models. What is faked is the outer edge: the units that systemd would
start and stop, and vLLM in them (`FakeEngine`). That real engines come and go so is shown in tests/lab.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from aiohttp import web

from citadel_llm.residency.door import Door
from citadel_llm.residency.holding import Costs, Demand, Footprint, Holding
from citadel_llm.residency.manager import Manager
from citadel_llm.residency.mover import MoveError
from citadel_llm.residency.policy import Policy

from .conftest import Maker
from .gateway_site import CHAT, EMBED, Site, wait_until

START_SECONDS = 0.3


@dataclass
class Units:
    """Stands for systemd: starts and stops the site's engines."""

    site: Site
    broken: str = ""
    cut: list[str] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)

    async def start(self, model: str) -> None:
        self.log.append(("start", model))
        await asyncio.sleep(START_SECONDS)
        if self.broken:
            raise MoveError(self.broken)
        await self.site.engines[model].start()

    async def stop(self, model: str) -> None:
        self.log.append(("stop", model))
        if self.site.engines[model].disconnected.is_set():
            self.cut.append(model)
        await self.site.engines[model].stop()

    async def sleep(self, model: str) -> None:
        raise NotImplementedError

    async def wake(self, model: str) -> None:
        raise NotImplementedError

    def count(self, what: str) -> int:
        return sum(did == what for did, _ in self.log)


@dataclass
class Hosted:
    """A site with a manager."""

    site: Site
    manager: Manager
    units: Units

    def ask(self, model: str = CHAT, **more: Any) -> Any:
        if model == EMBED:
            return self.site.openai().embeddings.create(model=model, input="x")
        messages = [{"role": "user", "content": "Hello"}]
        return self.site.openai().chat.completions.create(model=model, messages=messages, **more)


Host = Callable[..., Hosted]


@pytest.fixture
def host(make_site: Maker) -> Iterator[Host]:
    """Makes a site whose models run on demand, with its manager."""
    ends: list[Callable[[], None]] = []

    def make(
        *,
        start: tuple[str, ...] = (),
        guess: float = 1.0,
        patience: float = 1.0,
        stay: float = 0.0,
        retry: float = 60.0,
        **residency: Any,
    ) -> Hosted:
        site = make_site(start=(), residency={"comment_seconds": 0.1, **residency})
        # Made here, and not by several of a test's threads at once.
        assert site.http.get("/health").status_code == 200
        units = Units(site)
        holdings = {
            name: Holding(name, Footprint({0: 6}), Costs(guess, 1.0, 0.1), Demand(60.0))
            for name in (CHAT, EMBED)
        }
        (site.settings.run_dir / "manager").mkdir()
        (site.settings.run_dir / "manager-control").mkdir()
        stop = asyncio.Event()
        made: list[Manager] = []

        async def live(up: threading.Event) -> None:
            policy = Policy({0: 10}, minimum_stay=stay, patience=patience)
            manager = Manager(holdings, policy, units, clock=time.monotonic, retry=(retry, retry))
            door = Door(manager)
            manager.on_change = door.tell
            made.append(manager)
            async with door.open(site.settings.run_dir), _running(manager):
                up.set()
                await stop.wait()

        up = threading.Event()
        living = asyncio.run_coroutine_threadsafe(live(up), site.loop.loop)
        assert up.wait(5)
        wait_until(lambda: len(made[0].gateways) == 1)

        def end() -> None:
            site.loop.loop.call_soon_threadsafe(stop.set)
            living.result(timeout=10)

        ends.append(end)
        return Hosted(site, made[0], units)

    yield make
    for end in ends:
        end()


@contextlib.asynccontextmanager
async def _running(manager: Manager) -> AsyncIterator[None]:
    task = asyncio.create_task(manager.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_request_for_a_model_that_is_not_loaded_waits_and_is_answered(host: Host) -> None:
    hosted = host()
    assert {model.state for model in hosted.site.openai().models.list()} == {"asleep"}
    assert hosted.site.http.get("/ready").status_code == 200
    began = time.monotonic()
    assert hosted.ask().choices[0].message.content
    assert time.monotonic() - began >= START_SECONDS
    assert hosted.units.log == [("start", CHAT)]
    # Nobody waits the next time.
    hosted.ask()
    assert hosted.units.log == [("start", CHAT)]
    page = hosted.site.http.get("/metrics").text
    assert f'citadel_gateway_model_state{{model="{CHAT}",state="awake"}} 1.0' in page
    assert f'citadel_gateway_model_state{{model="{EMBED}",state="cold"}} 1.0' in page
    assert f'citadel_gateway_model_loads_total{{model="{CHAT}"}} 1.0' in page


def test_the_other_model_gets_its_place_when_nobody_wants_the_first(host: Host) -> None:
    hosted = host()
    hosted.ask()
    assert hosted.ask(EMBED).data
    assert hosted.units.log == [("start", CHAT), ("stop", CHAT), ("start", EMBED)]


def test_those_who_wait_for_one_model_are_gathered(host: Host) -> None:
    hosted = host()
    answers: list[Any] = []
    clients = [threading.Thread(target=lambda: answers.append(hosted.ask())) for _ in range(20)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(answers) == 20
    assert hosted.units.count("start") == 1


def test_no_request_is_cut_by_a_change_of_models(host: Host) -> None:
    """A long stream is under way while another model's patience is over: it ends in its own time."""
    hosted = host(patience=0.2)
    hosted.ask()
    events = [hosted.site.chat.chunk(f"word {number} ") for number in range(20)]

    async def slowly(request: web.Request, _body: bytes) -> web.StreamResponse:
        return await hosted.site.chat.stream(request, events, pause=0.1)

    hosted.site.chat.answer = slowly
    words: list[str] = []
    ended: list[float] = []

    def read() -> None:
        words.extend(chunk.choices[0].delta.content or "" for chunk in hosted.ask(stream=True))
        ended.append(time.monotonic())

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: len(words) > 2 or (reader.is_alive() and hosted.manager.holdings[CHAT].leases > 0))
    assert hosted.ask(EMBED).data
    answered = time.monotonic()
    reader.join()
    # Only then had the other model its place; the reader's thread may be a moment late to note it.
    assert ended[0] - answered < START_SECONDS / 2
    assert len(words) == 20
    assert not hosted.units.cut


def test_a_client_that_waits_for_a_stream_gets_comments_and_then_the_stream(host: Host) -> None:
    hosted = host()
    body = {"model": CHAT, "messages": [{"role": "user", "content": "x"}], "stream": True}
    with hosted.site.http.stream(
        "POST", "/v1/chat/completions", json=body, headers=hosted.site.auth
    ) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join(answer.iter_text())
    assert text.startswith(": the model is being loaded\n\n")
    assert text.endswith("data: [DONE]\n\n")
    # And an SDK reads over them.
    hosted.ask(EMBED)
    chunks = list(hosted.ask(stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_who_would_wait_too_long_is_told_when_to_come_again_and_finds_the_model(host: Host) -> None:
    hosted = host(guess=1.4, wait_seconds=1.0)
    with pytest.raises(openai.InternalServerError) as refused:
        hosted.ask()
    assert refused.value.status_code == 503
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 2
    # It is brought up all the same.
    wait_until(lambda: hosted.manager.notice().models[CHAT].open, within=5)
    hosted.ask()


def test_a_model_that_does_not_come_up_fails_those_who_wait_once_and_is_not_tried_at_once(host: Host) -> None:
    hosted = host()
    hosted.units.broken = "out of memory: see /var/log/secret/place for more"
    reasons: list[str] = []

    def ask() -> None:
        with pytest.raises(openai.InternalServerError) as refused:
            hosted.ask()
        assert int(refused.value.response.headers["retry-after"]) >= 30
        reasons.append(refused.value.message)

    clients = [threading.Thread(target=ask) for _ in range(5)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(reasons) == 5
    assert all("out of memory" in reason and "secret" not in reason for reason in reasons)
    began = time.monotonic()
    ask()
    assert time.monotonic() - began < START_SECONDS
    assert hosted.units.count("start") == 1


def test_a_stream_that_was_kept_waiting_for_a_model_that_fails_gets_an_error_event(host: Host) -> None:
    hosted = host()
    hosted.units.broken = "no weights"
    with hosted.ask(stream=True) as stream, pytest.raises(openai.APIError, match="no weights"):
        list(stream)
    # It is noted as what it was.
    page = hosted.site.http.get("/metrics").text
    assert 'status="503"' in page


def test_an_engines_refusal_of_a_stream_that_waited_is_an_error_event(host: Host) -> None:
    hosted = host()

    async def refuse(_request: web.Request, _body: bytes) -> web.StreamResponse:
        error = {"message": "too many tokens", "type": "BadRequestError", "code": 400}
        return web.json_response({"error": error}, status=400)

    hosted.site.chat.answer = refuse
    with hosted.ask(stream=True) as stream, pytest.raises(openai.APIError, match="too many tokens"):
        list(stream)


def test_without_its_manager_a_gateway_says_so_and_goes_on_when_it_is_back(make_site: Maker) -> None:
    site = make_site(start=(), residency={})
    model = site.http.get("/ready").json()["models"][0]
    assert model["state"] == "asleep"
    # An engine that somebody has started by hand is used.
    site.run(site.chat.start())
    site.wait_for_engine(CHAT, "up")
    body = {"model": CHAT, "messages": [{"role": "user", "content": "x"}]}
    answer = site.http.post("/v1/chat/completions", json=body, headers=site.auth)
    assert answer.status_code == 200


def test_operators_load_unload_and_pin(host: Host) -> None:
    hosted = host()
    assert command(hosted, "load", CHAT) == ""
    assert hosted.manager.notice().models[CHAT].state == "awake"
    assert command(hosted, "pin", CHAT) == ""
    assert "cannot be pinned" in command(hosted, "pin", EMBED)
    assert "pinned" in command(hosted, "unload", CHAT)
    assert command(hosted, "unpin", CHAT) == ""
    assert command(hosted, "unload", CHAT) == ""
    assert hosted.units.log == [("start", CHAT), ("stop", CHAT)]
    hosted.units.broken = "no driver"
    assert "no driver" in command(hosted, "load", EMBED)
    assert "no model on demand" in command(hosted, "load", "other")


def command(hosted: Hosted, action: str, model: str) -> str:
    """Send a command as `citadel models` does; what was said at the end of it."""

    async def send() -> str:
        path = hosted.site.settings.run_dir / "manager-control/control.sock"
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(json.dumps({"type": "command", "action": action, "model": model}).encode() + b"\n")
        while True:
            said = json.loads(await reader.readline())
            if said["type"] == "done":
                writer.close()
                return str(said.get("error", ""))

    return str(hosted.site.run(send()))
