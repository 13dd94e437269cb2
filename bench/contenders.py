"""The contenders: how each is started, and with what settings: judge for yourself whether it is fair.

contenders ── ours       our own gateway
    │  └───── proxies    nginx and HAProxy
    └──────── contender  what each of them is; here stand the routers, and what everyone writes
"""

from pathlib import Path

from bench import ours, processes, proxies
from bench.contender import Contender, Engine, package_version
from bench.peers import ROOT, Peers
from bench.processes import Started


def all_of(engine: Engine, peers: Peers | None) -> list[Contender]:
    """Our gateway, and the peers if they are there."""
    if peers is None:
        return [ours.gateway(engine)]
    return [
        ours.gateway(engine),
        proxies.nginx(engine, peers),
        proxies.haproxy(engine, peers),
        _sglang_router(engine, peers),
        _vllm_router(engine, peers),
        _naive(engine, peers),
    ]


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
        lambda: package_version(peers, "sglang-router"),
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
        lambda: package_version(peers, "vllm-router"),
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
        return ", ".join(f"{name} {package_version(peers, name)}" for name in ("fastapi", "httpx"))

    settings = (
        "`bench/naive.py` under uvicorn with uvloop and httptools, no limit on its pool of connections, no "
        "access log, no key, no limits; engine on TCP"
    )
    return Contender("FastAPI with httpx", settings, start, version)
