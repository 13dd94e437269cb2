"""The lab host: made, deployed, asked, and removed."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = ROOT / "bench" / "chaos" / "inventory"
LOG = ROOT / ".cache" / "chaos" / "ansible.log"
NAME, ADDRESS = "citadel-chaos-1", "10.89.19.11"
MODEL = "smollm2-135m-instruct"
ENGINES = (MODEL, f"{MODEL}.2")
_SSH_CONFIG = "/var/lib/citadel-chaos/ssh/config"
# What the gateway keeps on the host's disk, on a disk of its own that can be filled.
STATE = "/var/lib/citadel/gateway"
_DISK = f"""
mountpoint --quiet {STATE} && exit
mkdir -p {STATE}
mount -t tmpfs -o size=96m,mode=700 chaos {STATE}
"""
_KEY = """
runuser -u citadel-gateway -- citadel keys create --name "chaos-$(date +%s)" --team chaos \
  --requests-per-minute 100000 --tokens-per-minute 100M --concurrent-requests 1000
"""
# The host has no curl. Prints what a socket (a path or a port) says to GET; nothing if it is not there.
_GET = """
import http.client, socket, sys
where, path = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", int(where) if where.isdigit() else 0, timeout=10)
try:
    if not where.isdigit():
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(where)
    connection.request("GET", path)
    sys.stdout.write(connection.getresponse().read().decode())
except (OSError, http.client.HTTPException):
    pass
"""
_RECORDS = "SELECT run, number, request, engine, status, tokens_in, tokens_out, estimated FROM usage_records"
_SUMS = "SELECT sum(requests), sum(tokens_in), sum(tokens_out) FROM usage_days WHERE team = 'chaos'"


class HostError(Exception):
    """A playbook or a command on the host failed."""


@dataclass(frozen=True)
class Record:
    """What is noted of a request (`usage_records`)."""

    run: int
    number: int
    request: str
    engine: str
    status: int
    tokens_in: int
    tokens_out: int
    estimated: bool


@dataclass(frozen=True)
class Counters:
    """An engine's own counters.

    Attributes:
        start: Which start of the engine counted.
        values: By vLLM's name of the metric.
    """

    start: str
    values: dict[str, float] = field(default_factory=dict)


async def playbook(*words: str) -> None:
    """Run a playbook with the inventory of this host.

    Raises:
        HostError: It failed.
    """
    LOG.parent.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}
    with LOG.open("a") as log:
        process = await asyncio.create_subprocess_exec(
            str(program / "ansible-playbook"),
            *("-i", str(INVENTORY), *words),
            cwd=ROOT,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
    if status:
        raise HostError(f"ansible-playbook {' '.join(words)} failed: see {LOG.relative_to(ROOT)}")


async def shell(script: str) -> str:
    """What a script prints that root runs on the host.

    Raises:
        HostError: It failed.
    """
    process = await asyncio.create_subprocess_exec(
        *("ssh", "-F", _SSH_CONFIG, NAME, "sudo", "sh", "-eu", "-s"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    out, wrong = await process.communicate(script.encode())
    if process.returncode:
        raise HostError(f"{script.strip().splitlines()[-1]}: {wrong.decode().strip()[-500:]}")
    return out.decode()


async def up() -> None:
    """Make the host, with a small disk for the gateway's state."""
    await playbook("playbooks/lab.yml", "-e", "lab_host_state=up")
    await shell(_DISK)


async def down() -> None:
    """Remove all that `up` made, but the caches that all labs share."""
    await playbook("playbooks/lab.yml", "-e", "lab_host_state=down")


async def make_key() -> str:
    """A key with limits, so that they are counted in Valkey."""
    words = (await shell(_KEY)).split()
    return next(word for word in words if word.startswith("ck-"))


async def records() -> list[Record]:
    """All that is noted of this run's requests."""
    lines = (await shell(_psql(f"{_RECORDS} WHERE team = 'chaos'"))).splitlines()
    rows = [line.split("|") for line in lines if line]
    return [
        Record(int(run), int(number), request, engine, int(status), int(read), int(written), estimated == "t")
        for run, number, request, engine, status, read, written, estimated in rows
    ]


async def sums() -> tuple[int, int, int]:
    """Requests, tokens read and written of this run, of the sums by day."""
    requests, read, written = (await shell(_psql(_SUMS))).strip().split("|")
    return int(requests or 0), int(read or 0), int(written or 0)


def _psql(query: str) -> str:
    return f'cd /; runuser -u postgres -- psql -h /run/postgresql -d citadel -qAt -c "{query}"\n'


async def counters() -> dict[str, Counters]:
    """Each engine's own counters; none of an engine that is not up."""
    found = {}
    for engine in ENGINES:
        text = await shell(
            f"systemctl show --property=InvocationID --value citadel-engine@{engine}.service\n"
            + _get(f"/run/citadel/engines/{engine}.sock", "/metrics")
        )
        start, _, metrics = text.partition("\n")
        found[engine] = Counters(start, _metrics(metrics))
    return found


async def gateway_metrics() -> dict[str, float]:
    """The gateway's metrics, labels added up; empty while it does not answer."""
    return _metrics(await shell(_get("8000", "/metrics")))


async def engine_states() -> dict[str, str]:
    """How the gateway sees each engine; empty while it does not answer."""
    text = await shell(_get("8000", "/ready"))
    try:
        told: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return {
        each["engine"]: str(each["state"]) for model in told.get("models", []) for each in model["engines"]
    }


async def access_lines(since: float) -> dict[str, dict[str, Any]]:
    """The gateway's access log by request id."""
    text = await shell(
        f"journalctl --unit=citadel-gateway --since=@{since:.0f} --output=cat --no-pager | "
        'grep \'"event":"request"\' || true\n'
    )
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {line["request_id"]: line for line in lines if line.get("route", "").startswith("/v1/chat")}


def _get(where: str, path: str) -> str:
    return f"python3 -c '{_GET}' {where} {path}\n"


def _metrics(text: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            values[name] = values.get(name, 0.0) + float(value)
    return values
