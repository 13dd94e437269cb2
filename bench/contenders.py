"""The contenders: how each is started, and with what settings: judge for yourself whether it is fair."""

import json
import os
import pwd
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import messages, processes
from bench.figures import WORKERS
from bench.peers import ROOT, Peers
from bench.processes import Started

GATEWAY = "citadel"
_MANY = 1_000_000_000


@dataclass(frozen=True)
class Engine:
    """Where the stub listens."""

    folder: Path
    socket: Path
    port: int


@dataclass(frozen=True)
class Contender:
    """One of those that are measured.

    Attributes:
        name: What it is called in tables.
        settings: How it was set up, for the reader of the results.
        start: Starts it: its folder, its port, and the core it gets.
        version: Tells its version.
        key: The key that clients need.
    """

    name: str
    settings: str
    start: Callable[[Path, int, int], Started]
    version: Callable[[], str]
    key: Callable[[], str] = field(default=lambda: "")


def all_of(engine: Engine, peers: Peers | None) -> list[Contender]:
    """Our gateway, and the peers if they are there."""
    ours = [_gateway(engine)]
    if peers is None:
        return ours
    return [
        *ours,
        _nginx(engine, peers),
        _haproxy(engine, peers),
        _sglang_router(engine, peers),
        _vllm_router(engine, peers),
        _naive(engine, peers),
    ]


# Our own.


def workers(engine: Engine, count: int, store: str) -> Contender:
    """Our gateway as so many workers, each on a core of its own, which count limits together in a store."""
    return _gateway(engine, count, store)


def _gateway(engine: Engine, count: int = 0, store: str = "") -> Contender:
    name = WORKERS[count] if count else GATEWAY
    directory = engine.folder / f"config-{name.replace(' ', '-')}"
    key_file = engine.folder / "key"
    python = [sys.executable, "-m", "citadel_llm.cli"]
    environment = {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(folder: Path, port: int, core: int) -> Started:
        write_gateway_settings(directory, engine, folder, port, workers=count or 1, store=store)
        if not key_file.exists():
            create = [*python, "keys", "create", "--name", "bench", "--write-to", str(key_file)]
            done = subprocess.run(  # noqa: S603
                create,
                env={**os.environ, **environment, "CITADEL_CONFIG": str(directory)},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"no key could be made: {done.stderr.strip()[-500:]}")
        command: list[str | Path] = [*python, "run", "gateway", "--directory", directory]
        log = folder / "log.jsonl"
        if count:
            places = [core, *(other for other in processes.cores() if other != core)]
            command = [sys.executable, "-m", "bench.workers", directory, folder, *map(str, places[:count])]
            path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
            return processes.start(
                name, command, core=core, log=log, environment={**environment, "PYTHONPATH": path}
            )
        return processes.start(name, command, core=core, log=log, environment=environment)

    def version() -> str:
        version = re.search(r'__version__ = "(.+)"', (ROOT / "src/citadel_llm/__init__.py").read_text())
        commit = _said(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
        changed = _said(["git", "-C", str(ROOT), "status", "--porcelain", "--", "src"])
        told = version[1] if version else "?"
        return f"{told} ({commit}{', with changes' if changed else ''})" if commit else told

    settings = (
        "`citadel run gateway`, one process; a key made by `citadel keys`, limits of requests, tokens and "
        "requests at once counted in memory (high enough never to refuse), accounting to spool and SQLite, a "
        "JSON log line for each request to a file, metrics, active checks; engine on a unix socket"
    )
    return Contender(name, settings, start, version, lambda: key_file.read_text().strip())


def write_gateway_settings(
    directory: Path, engine: Engine, folder: Path, port: int, *, workers: int = 1, store: str = ""
) -> None:
    """Write what an operator would: the site's layer, with limits, accounting and a database of its own."""
    settings = {
        "environment": "production",
        "run_dir": str(engine.folder),
        "logging": {"level": "info", "format": "json"},
        "engine": {"build": "cpu"},
        "models": [
            {
                "name": messages.MODEL,
                "source": {"kind": "folder", "path": "/srv/weights"},
                "engine": {"max_model_len": 131072},
            }
        ],
        "gateway": {
            "address": "127.0.0.1",
            "port": port,
            "workers": workers,
            # One database for all of its starts, as the key is in it.
            "database": f"sqlite:///{engine.folder}/citadel.db",
            "drain_timeout_seconds": 1,
            "limits": {
                "requests_per_minute": _MANY,
                "tokens_per_minute": _MANY * 1000,
                "concurrent_requests": 100_000,
                **({"store": store} if store else {}),
            },
            "accounting": {"spool_dir": str(folder / "spool")},
            "admission": {"running_per_engine": 4096},
        },
    }
    (directory / "global").mkdir(parents=True, exist_ok=True)
    # JSON is YAML.
    (directory / "global" / "site.yml").write_text(json.dumps(settings), encoding="utf-8")


# The plain proxies: told not to buffer, to keep connections to the engine, and to log nothing.

NGINX = """\
{user}worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
worker_rlimit_nofile {files};
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 32m;
    client_body_buffer_size 1m;
    keepalive_requests 1000000000;
    tcp_nodelay on;
    upstream engine {{
        server unix:{socket};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""

HAPROXY = """\
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    option http-keep-alive
    option http-no-delay
    http-reuse always
    timeout connect 5s
    timeout client 600s
    timeout server 600s
frontend clients
    bind 127.0.0.1:{port} backlog 2048
    default_backend engines
backend engines
    server engine unix@{socket}
"""


def _nginx(engine: Engine, peers: Peers) -> Contender:
    program = peers.programs["nginx"]

    def start(folder: Path, port: int, core: int) -> Started:
        me = pwd.getpwuid(os.getuid()).pw_name
        # Its worker would become "nobody" and not reach the socket.
        user = f"user {me};\n" if os.getuid() == 0 else ""
        text = NGINX.format(user=user, folder=folder, files=16384, socket=engine.socket, port=port)
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        command: list[str | Path] = [
            program,
            "-c",
            folder / "nginx.conf",
            "-p",
            folder,
            "-e",
            folder / "nginx.log",
        ]
        # Not SIGKILL: it has to end its worker.
        return processes.start(
            "nginx",
            command,
            core=core,
            log=folder / "log",
            environment=peers.environment(),
            parting=signal.SIGTERM,
        )

    settings = (
        "one worker, `proxy_buffering off`, `keepalive 1024` to the engine, bodies kept in memory (1 MB), no "
        "access log; engine on a unix socket"
    )
    return Contender(
        "nginx", settings, start, lambda: _version([program, "-v"], r"nginx/(\S+)", peers.environment())
    )


def _haproxy(engine: Engine, peers: Peers) -> Contender:
    program = peers.programs["haproxy"]

    def start(folder: Path, port: int, core: int) -> Started:
        text = HAPROXY.format(socket=engine.socket, port=port)
        (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
        command: list[str | Path] = [program, "-db", "-f", folder / "haproxy.cfg"]
        return processes.start(
            "HAProxy", command, core=core, log=folder / "log", environment=peers.environment()
        )

    settings = (
        "`nbthread 1`, `http-reuse always`, `option http-no-delay`, no log, no health check; engine on a unix"
        " socket"
    )
    return Contender(
        "HAProxy", settings, start, lambda: _version([program, "-v"], r"version (\S+?)-", peers.environment())
    )


# The routers in Rust.

_ROUTER = ("--policy", "round_robin", "--disable-retries", "--disable-circuit-breaker")
_ROUTER_SETTINGS = (
    "`--policy round_robin` (its cheapest; the default looks at the prompt), retries and circuit breaker off,"
    " `--log-level {level}`, no key, no limits; engine on TCP, for it takes nothing else"
)


def _sglang_router(engine: Engine, peers: Peers) -> Contender:
    def start(folder: Path, port: int, core: int) -> Started:
        command: list[str | Path] = [
            peers.python,
            "-m",
            "sglang_router.launch_router",
            *_router(engine, port),
            *_ROUTER,
        ]
        command += ["--log-level", "warn"]
        return processes.start("sglang-router", command, core=core, log=folder / "log")

    return Contender(
        "sglang-router",
        _ROUTER_SETTINGS.format(level="warn"),
        start,
        lambda: _package_version(peers, "sglang-router"),
    )


def _vllm_router(engine: Engine, peers: Peers) -> Contender:
    def start(folder: Path, port: int, core: int) -> Started:
        program = peers.python.with_name("vllm-router")
        command: list[str | Path] = [program, *_router(engine, port), *_ROUTER, "--log-level", "warning"]
        return processes.start("vllm-router", command, core=core, log=folder / "log")

    return Contender(
        "vllm-router",
        _ROUTER_SETTINGS.format(level="warning"),
        start,
        lambda: _package_version(peers, "vllm-router"),
    )


def _router(engine: Engine, port: int) -> list[str]:
    return [
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--worker-urls", f"http://127.0.0.1:{engine.port}"),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(port + 1)),
        *("--worker-startup-timeout-secs", "30", "--worker-startup-check-interval", "1"),
    ]


# What everyone writes.


def _naive(engine: Engine, peers: Peers) -> Contender:
    def start(folder: Path, port: int, core: int) -> Started:
        environment = {"PORT": str(port), "UPSTREAM": f"http://127.0.0.1:{engine.port}"}
        command: list[str | Path] = [peers.python, ROOT / "bench" / "naive.py"]
        return processes.start(
            "FastAPI with httpx", command, core=core, log=folder / "log", environment=environment
        )

    def version() -> str:
        return ", ".join(f"{name} {_package_version(peers, name)}" for name in ("fastapi", "httpx"))

    settings = (
        "`bench/naive.py` under uvicorn with uvloop and httptools, no limit on its pool of connections, no "
        "access log, no key, no limits; engine on TCP"
    )
    return Contender("FastAPI with httpx", settings, start, version)


def _package_version(peers: Peers, package: str) -> str:
    asked = f"import importlib.metadata as m; print(m.version({package!r}))"
    return _said([str(peers.python), "-c", asked])


def _version(command: list[str | Path], pattern: str, environment: dict[str, str]) -> str:
    found = re.search(pattern, _said([str(word) for word in command], environment))
    return found[1] if found else "?"


def _said(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(  # noqa: S603 - the benchmark's own commands
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).strip() if done.returncode == 0 else ""
