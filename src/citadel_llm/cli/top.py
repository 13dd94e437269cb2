"""`citadel top`: what the services use and do right now."""

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import typer

from citadel_llm.cli.common import JsonOption, colour, examples, fail, load_settings, print_json, size, table
from citadel_llm.cli.status import STATE_COLOURS

if TYPE_CHECKING:
    from citadel_llm.config import Settings
    from citadel_llm.services.service_manager import Service, ServiceStatus
    from citadel_llm.services.systemd import Systemd

app = typer.Typer()

_SECONDS = 1.0
_METRICS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:generation_tokens_total": "tokens",
}
_GPU_QUERY = "index,utilization.gpu,memory.used,memory.total"


@dataclass(frozen=True)
class Sample:
    """What was seen at one moment.

    Attributes:
        at: When, in seconds of a clock that never goes back.
        statuses: How the services are.
        engines: Of each engine that says so: requests running and waiting, tokens generated since its start.
    """

    at: float
    statuses: "list[ServiceStatus]"
    engines: dict[str, dict[str, float]]


@app.command(
    epilog=examples("citadel top", "citadel top --once", "citadel top --json | jq '.services[].cpu_percent'")
)
def top(
    once: Annotated[bool, typer.Option("--once", help="Show it once, over one second, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show each second what the services use and do: CPU, memory, requests, tokens a second, the GPUs.

    100 % is one CPU. A dash is what nobody counts, or what the gateway does not tell now. Ctrl-C ends it.
    """
    from rich.live import Live  # noqa: PLC0415 - takes longer to load than most commands take
    from rich.text import Text  # noqa: PLC0415

    from citadel_llm.services.systemd import SystemdError  # noqa: PLC0415

    settings = load_settings()

    async def follow() -> None:
        from citadel_llm.services.service_manager import services_of  # noqa: PLC0415
        from citadel_llm.services.systemd import Systemd  # noqa: PLC0415

        services = services_of(settings)
        async with Systemd() as systemd:
            before = await _look(settings, systemd, services)
            with contextlib.ExitStack() as stack:
                live = None if once or as_json else stack.enter_context(Live(screen=True, auto_refresh=False))
                while True:
                    await asyncio.sleep(_SECONDS)
                    now = await _look(settings, systemd, services)
                    rows, cards = list(compare(before, now)), await asyncio.to_thread(_gpus)
                    if live is None:
                        break
                    live.update(Text.from_ansi(_page(rows, cards)), refresh=True)
                    before = now
        if as_json:
            print_json({"services": rows, "gpus": cards})
        else:
            typer.echo(_page(rows, cards))

    try:
        asyncio.run(follow())
    except SystemdError as error:
        fail(str(error))
    except KeyboardInterrupt:
        return


def compare(before: Sample, now: Sample) -> Iterator[dict[str, Any]]:
    """What each service did between two moments.

    Returns:
        Of each its name, state, `cpu_percent` (100 is one CPU), `memory_bytes`, and of an engine that says so
        requests `running` and `waiting`, and `tokens_per_second`; none for what is not known.
    """
    seconds = now.at - before.at
    for old, new in zip(before.statuses, now.statuses, strict=True):
        used = None
        if old.pid == new.pid and None not in {old.cpu_seconds, new.cpu_seconds}:
            used = round(100 * ((new.cpu_seconds or 0) - (old.cpu_seconds or 0)) / seconds, 1)
        first, last = before.engines.get(new.name), now.engines.get(new.name)
        made = last["tokens"] - first["tokens"] if first and last else None
        yield {
            "name": new.name,
            "state": new.state,
            "cpu_percent": used,
            "memory_bytes": new.memory_bytes,
            "running": int(last["running"]) if last else None,
            "waiting": int(last["waiting"]) if last else None,
            # An engine that began anew counts from zero.
            "tokens_per_second": round(made / seconds, 1) if made is not None and made >= 0 else None,
        }


def read_engines(page: str) -> dict[str, dict[str, float]]:
    """Each engine's numbers from the gateway's metrics page, summed over what it is made of."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    engines: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in _METRICS and "engine" in sample.labels:
                engine = engines.setdefault(sample.labels["engine"], dict.fromkeys(_METRICS.values(), 0.0))
                engine[_METRICS[sample.name]] += sample.value
    return engines


def read_gpus(text: str) -> list[dict[str, Any]]:
    """What nvidia-smi says of each GPU; none for what it does not know (`[N/A]`)."""
    names = ("index", "utilization_percent", "memory_used_mib", "memory_total_mib")
    lines = [[part.strip() for part in line.split(",")] for line in text.splitlines() if line.strip()]
    return [
        {name: int(part) if part.isdigit() else None for name, part in zip(names, line, strict=True)}
        for line in lines
        if len(line) == len(names)
    ]


async def _look(settings: "Settings", systemd: "Systemd", services: "Sequence[Service]") -> Sample:
    from citadel_llm.services.service_manager import statuses_of  # noqa: PLC0415

    engines = await asyncio.to_thread(_engines, settings)
    return Sample(time.monotonic(), await statuses_of(systemd, services), engines)


def _engines(settings: "Settings") -> dict[str, dict[str, float]]:
    from citadel_llm.health_checks.catalogue import gateway_url  # noqa: PLC0415

    # Its certificate names the API, not this address: and it is the host itself that is asked.
    context = ssl._create_unverified_context()  # noqa: S323
    # No proxy of the login's environment stands between a host and itself.
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    try:
        with opener.open(f"{gateway_url(settings)}/metrics", timeout=5) as answer:
            return read_engines(answer.read().decode())
    except (OSError, ValueError):
        return {}


def _gpus() -> list[dict[str, Any]]:
    tool = shutil.which("nvidia-smi", path="/usr/bin:/usr/local/bin")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    return read_gpus(done.stdout) if done.returncode == 0 else []


def _page(rows: list[dict[str, Any]], gpus: list[dict[str, Any]]) -> str:
    def shown(value: float | None, unit: str = "") -> str:
        return "-" if value is None else f"{value:.0f}{unit}"

    services = table(
        ["SERVICE", "STATE", "CPU", "MEMORY", "RUNNING", "WAITING", "TOKENS/S"],
        [
            [
                colour(row["name"], "bold"),
                colour(row["state"], STATE_COLOURS.get(row["state"], "red")),
                shown(row["cpu_percent"], " %"),
                size(row["memory_bytes"]),
                shown(row["running"]),
                shown(row["waiting"]),
                shown(row["tokens_per_second"]),
            ]
            for row in rows
        ],
    )
    if not gpus:
        return services
    cards = table(
        ["GPU", "BUSY", "MEMORY", "OF"],
        [
            [
                shown(card["index"]),
                shown(card["utilization_percent"], " %"),
                shown(card["memory_used_mib"], " MiB"),
                shown(card["memory_total_mib"], " MiB"),
            ]
            for card in gpus
        ],
    )
    return f"{services}\n\n{cards}"
