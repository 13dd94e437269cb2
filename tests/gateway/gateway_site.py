"""A gateway for tests: the real application under the real uvicorn on a loopback port; faked engines behind.

Everything runs in a thread with an event loop of its own, so that the blocking OpenAI client can be used too.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2
import openai

from citadel_llm.config import Settings
from citadel_llm.gateway.http_server import Server
from citadel_llm.store import KeyStore

from .fake_engine import FakeEngine

CHAT = "chat-model"
ALIAS = "gpt-4o"
EMBED = "embed-model"


class LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=20)

    def close(self) -> None:
        self.run(self.loop.shutdown_asyncgens())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@dataclass
class Site:
    """A running gateway, its engines, its keys, and clients for it."""

    settings: Settings
    loop: LoopThread
    engines: dict[str, FakeEngine]
    server: Server
    port: int
    keys: KeyStore
    key: str
    key_id: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def chat(self) -> FakeEngine:
        return self.engines[CHAT]

    @property
    def auth(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @cached_property
    def http(self) -> httpx2.Client:
        # Without TLS to check: loading the certificates takes longer than most tests.
        return httpx2.Client(base_url=self.url, timeout=10, verify=False)

    def openai(self, key: str | None = None) -> Any:
        """The official client. As Any: its types take no messages that a test builds."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, http_client=self.http
        )

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(work)

    def wait_for_state(self, model: str, state: str) -> None:
        def state_now() -> str:
            models = self.http.get("/ready").json()["models"]
            return next(str(each["state"]) for each in models if each["model"] == model)

        wait_until(lambda: state_now() == state)

    def wait_for_engine(self, engine: str, state: str) -> None:
        def state_now() -> str:
            models = self.http.get("/ready").json()["models"]
            engines = [each for model in models for each in model["engines"]]
            return next(str(each["state"]) for each in engines if each["engine"] == engine)

        wait_until(lambda: state_now() == state)

    def begin_to_close(self) -> None:
        self.http.close()
        self.server.should_exit = True


def wait_until(condition: Callable[[], bool], within: float = 15.0) -> None:
    """Wait for something that happens soon."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def site_settings(
    folder: Path,
    gateway: dict[str, Any],
    task: str = "generate",
    replicas: int = 1,
    residency: dict[str, Any] | None = None,
) -> Settings:
    """The settings of a site; task and number of replicas are the first model's.

    With settings of `residency`, all models run on demand, and there is room for one of them.
    """
    source = {"kind": "folder", "path": "/srv/weights"}
    models: list[dict[str, Any]] = [
        {
            "name": CHAT,
            "source": source,
            "task": task,
            "aliases": [ALIAS, "org/chat"],
            "engine": {"max_model_len": 2048, "replicas": replicas},
        },
        {"name": EMBED, "source": source, "task": "embed"},
    ]
    placement: dict[str, Any] = {}
    if residency is not None:
        placement = {"on_demand": {"devices": [{"device": 0, "bytes": 10}]}}
        for model in models:
            model["plan"] = {
                "residency": "cold",
                "max_model_len": 2048,
                "kv_cache_bytes": 1,
                "memory": [{"device": 0, "awake_bytes": 6}],
            }
    return Settings.model_validate(
        {
            "placement": placement,
            "residency": residency or {},
            "environment": "development",
            "run_dir": folder,
            "engine": {"build": "cpu"},
            "models": models,
            "gateway": {
                "database": f"sqlite:///{folder}/citadel.db",
                "state_dir": str(folder),
                "keys_refresh_seconds": 0.3,
                "max_body_bytes": 1 << 20,
                "drain_timeout_seconds": 5,
                "accounting": {"spool_dir": str(folder / "spool"), "flush_seconds": 0.1},
                **gateway,
            },
        }
    )


# The clients of the tests, which share the process.
_CLIENTS = ("httpcore2", "httpx2", "openai")


class LogLines(logging.Handler):
    """Every line that the gateway and what it is made of log, at every level, before any redaction."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_CLIENTS):
            return
        fields = record.msg if isinstance(record.msg, dict) else {"event": record.getMessage()}
        if record.exc_info and record.exc_info[1]:
            fields = {**fields, "exception": logging.Formatter().formatException(record.exc_info)}
        self.lines.append(json.dumps(fields, default=str))

    def requests(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.lines]
        return [line for line in lines if line["event"] == "request"]
