"""Fixtures for the gateway's tests; gateway_site.py has what they give."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from citadel_llm import logging_config
from citadel_llm.gateway.http_server import Server, server_config
from citadel_llm.store import KeyStore

from .fake_engine import FakeEngine
from .gateway_site import CHAT, EMBED, LogLines, LoopThread, Site, site_settings, wait_until

if TYPE_CHECKING:
    from concurrent.futures import Future


@pytest.fixture(scope="module", autouse=True)
def _quiet_log() -> Iterator[None]:
    """Through the standard library, which drops what nobody asked for; structlog's own way prints it."""
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


class Maker:
    """Makes sites and ends them."""

    def __init__(self, loop_thread: LoopThread, folders: pytest.TempPathFactory) -> None:
        self._loop_thread = loop_thread
        self._folders = folders
        self._made: list[tuple[Site, Future[None]]] = []

    def __call__(
        self,
        *,
        start: tuple[str, ...] = (CHAT, EMBED),
        make_key: bool = True,
        task: str = "generate",
        replicas: int = 1,
        residency: dict[str, Any] | None = None,
        **gateway: Any,
    ) -> Site:
        """Make a site, with these engines started; further arguments are settings of the gateway."""
        folder = self._folders.mktemp("site")
        (folder / "engines").mkdir()
        settings = site_settings(folder, gateway, task, replicas, residency)
        keys = KeyStore(settings.gateway.database_url())
        key_id, key = "", ""
        if make_key:
            record, key = keys.create("tests")
            key_id = record.id
        engines = {each.id: FakeEngine(each.model.name, each.socket) for each in settings.engines}
        for name in start:
            self._loop_thread.run(engines[name].start())
        listener = socket.create_server(("127.0.0.1", 0))
        server = Server(server_config(settings), settings.gateway.drain_timeout_seconds)
        serving = asyncio.run_coroutine_threadsafe(server.run_on(listener), self._loop_thread.loop)
        port = listener.getsockname()[1]
        site = Site(settings, self._loop_thread, engines, server, port, keys, key, key_id)
        wait_until(lambda: server.started or serving.done())
        self._made.append((site, serving))
        for name in start:
            site.wait_for_engine(name, "up")
        return site

    def end(self) -> None:
        for site, _ in self._made:
            site.begin_to_close()
        for site, serving in self._made:
            serving.result(timeout=10)
            site.keys.close()
            for engine in site.engines.values():
                self._loop_thread.run(engine.stop())


@pytest.fixture
def make_site(loop_thread: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    """Makes a site of its own for a test that changes it."""
    maker = Maker(loop_thread, tmp_path_factory)
    yield maker
    maker.end()


@pytest.fixture(scope="session")
def shared_site(loop_thread: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    maker = Maker(loop_thread, tmp_path_factory)
    yield maker()
    maker.end()


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """The site that tests share which leave it as it was."""
    for engine in shared_site.engines.values():
        engine.seen.clear()
        engine.answer = None
        engine.disconnected.clear()
    yield shared_site
    for engine in shared_site.engines.values():
        engine.answer = None


@pytest.fixture
def log() -> Iterator[LogLines]:
    handler, root = LogLines(), logging.getLogger()
    level = root.level
    # Another test of this process may have set the log up for a machine.
    as_json, logging_config.json_lines = logging_config.json_lines, False
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    logging_config.json_lines = as_json
    root.setLevel(level)
    root.removeHandler(handler)
