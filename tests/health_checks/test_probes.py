"""Each probe against a real thing: sockets, processes, files, certificates of openssl's making."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.certificates import make_certificate

from citadel_llm.config.health import CertificateLimits, CpuLimits, DiskLimits, MemoryLimits
from citadel_llm.health_checks import probes
from citadel_llm.health_checks.probes import commands, look
from citadel_llm.health_checks.probes.processes import judge
from citadel_llm.health_checks.states import Reading
from citadel_llm.services.systemd import UnitState


def see(probe: probes.Probe) -> Reading:
    return asyncio.run(look("it", probe, 5))


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {
            "/": (200, "all is fine"),
            "/missing": (404, "nothing here"),
            "/ready": (
                200,
                '{"models": [{"model": "small", "state": "up"}, {"model": "big", "state": "down"}]}',
            ),
            "/none": (503, '{"models": []}'),
        }
        status, text = answers[self.path]
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


class Server(NamedTuple):
    url: str
    address: str


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A web server; with TLS where the test says so."""
    web = HTTPServer(("127.0.0.1", 0), _Pages)
    scheme = "http"
    if getattr(request, "param", "") == "tls":
        make_certificate(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        web.socket = context.wrap_socket(web.socket, server_side=True)
        scheme = "https"
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    address = f"127.0.0.1:{web.server_port}"
    yield Server(f"{scheme}://{address}", address)
    web.shutdown()
    web.server_close()


@pytest.mark.parametrize(
    ("path", "options", "verdict"),
    [
        ("/", {}, "ok"),
        ("/", {"contains": "fine"}, "ok"),
        ("/", {"contains": "bad"}, "failed"),
        ("/missing", {}, "failed"),
        ("/missing", {"status": (200, 404)}, "ok"),
    ],
)
async def test_http(server: Server, path: str, options: dict[str, object], verdict: str) -> None:
    assert (await probes.http(server.url + path, **options)()).verdict == verdict  # type: ignore[arg-type]


async def test_a_port_nobody_listens_on() -> None:
    for probe in (probes.http("http://127.0.0.1:1/"), probes.tcp("127.0.0.1:1")):
        reading = await probe()
        assert reading.verdict == "failed"
        assert reading.detail == "Connection refused"


async def test_tcp(server: Server) -> None:
    assert (await probes.tcp(server.address)()).verdict == "ok"


async def test_one_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        probe = probes.http(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        assert await look("hangs", probe, 0.2) == Reading("failed", "no answer within 0.2 s")


async def test_a_unix_socket(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    path = tmp_path / "engine.sock"
    listener = await asyncio.start_unix_server(answer, path)
    assert (await probes.http("http://engine/health", socket=path)()).verdict == "ok"
    listener.close()
    await listener.wait_closed()
    path.unlink(missing_ok=True)
    assert (await probes.http("http://engine/health", socket=path)()).verdict == "failed"


async def test_the_gateway_s_models(server: Server) -> None:
    ready = f"{server.url}/ready"
    assert (await probes.ready(ready, frozenset({"small"}))()).verdict == "ok"
    assert await probes.ready(ready, frozenset({"small", "big"}))() == Reading(
        "warning", "/ready says 200: small up, big down"
    )
    assert (await probes.ready(f"{server.url}/none", frozenset({"small"}))()).verdict == "failed"
    assert (await probes.ready(f"{server.url}/", frozenset())()).verdict == "failed"


@pytest.mark.parametrize("server", ["tls"], indirect=True)
async def test_certificates(server: Server, tmp_path: Path) -> None:
    """openssl made it for some days; what matters is how many are left."""
    served = probes.served_certificate(server.address, CertificateLimits())
    [days] = [word for word in (await served()).detail.split() if word.isdigit()]
    for warn, fail, verdict in (
        (0, 0, "ok"),
        (int(days) + 5, 0, "warning"),
        (10_000, int(days) + 5, "failed"),
    ):
        limits = CertificateLimits(warn_days=warn, fail_days=fail)
        for probe in (
            probes.served_certificate(server.address, limits),
            probes.certificate_file(tmp_path / "cert.pem", limits),
        ):
            assert (await probe()).verdict == verdict
    # That it is nobody's is no matter of its end; to ask a page of it, it is.
    assert (await probes.http(server.url)()).verdict == "failed"
    assert (await probes.http(server.url, verify=False)()).verdict == "ok"


def test_a_certificate_that_has_ended(tmp_path: Path) -> None:
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=x", "-days", "-1"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"this openssl makes none: {made.stderr[-200:]}")
    reading = see(probes.certificate_file(tmp_path / "cert.pem", CertificateLimits(fail_days=0)))
    assert (reading.verdict, reading.detail.split()[0]) == ("failed", "ended")


async def test_a_file_without_a_certificate(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("empty.pem", "absent.pem"):
        reading = await probes.certificate_file(tmp_path / name, CertificateLimits())()
        assert reading.verdict == "failed"


@pytest.mark.parametrize(
    ("state", "on_demand", "verdict"),
    [
        (UnitState("x", active_state="active"), False, "ok"),
        (UnitState("x", active_state="active", job=True), False, "skipped"),
        (UnitState("x", active_state="reloading"), False, "skipped"),
        (UnitState("x", active_state="activating", sub_state="start"), True, "skipped"),
        (UnitState("x", active_state="activating", sub_state="auto-restart"), False, "failed"),
        (UnitState("x", active_state="deactivating"), False, "skipped"),
        (UnitState("x", active_state="inactive"), False, "failed"),
        (UnitState("x", active_state="inactive"), True, "skipped"),
        (UnitState("x", active_state="failed", result="oom-kill"), True, "failed"),
        (UnitState("x", load_state="not-found"), True, "failed"),
    ],
)
def test_units(state: UnitState, on_demand: bool, verdict: str) -> None:
    assert judge(state, on_demand=on_demand).verdict == verdict


def test_a_process_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    probe = probes.pid_file(path)
    assert (see(probe)).verdict == "failed", "no file"
    path.write_text("many\n")
    assert (see(probe)).verdict == "failed", "no number"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        path.write_text(f"{process.pid}\n")
        assert see(probe) == Reading("ok", f"process {process.pid}")
        process.communicate(b"\n")
    assert (see(probe)).verdict == "failed", "it has ended"
    path.write_text("1")
    assert (see(probe)).verdict == "ok", "another's is there, too"


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        (DiskLimits(warn_free_gib=0, fail_free_gib=0), "ok"),
        (DiskLimits(warn_free_gib=1e9, fail_free_gib=0), "warning"),
        (DiskLimits(fail_free_gib=1e9), "failed"),
    ],
)
async def test_disk(tmp_path: Path, limits: DiskLimits, verdict: str) -> None:
    assert (await probes.disk(tmp_path, limits)()).verdict == verdict


async def test_a_disk_that_is_not_there(tmp_path: Path) -> None:
    assert (await probes.disk(tmp_path / "absent", DiskLimits())()).verdict == "failed"


@pytest.mark.lab
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=50", "none", tmp_path], check=True)
    try:
        limits = DiskLimits(warn_free_gib=0, fail_free_gib=2 / 1024, fail_free_inodes=5)
        probe = probes.disk(tmp_path, limits)
        assert (see(probe)).verdict == "ok"
        (tmp_path / "large").write_bytes(bytes(7 << 20))
        assert (see(probe)).verdict == "failed"
        (tmp_path / "large").unlink()
        assert (see(probe)).verdict == "ok"
        for number in range(46):
            (tmp_path / str(number)).touch()
        assert (see(probe)).verdict == "failed", "room, but no inodes"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


async def test_a_disk_that_hangs_keeps_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not answer, as a server's that is gone: statvfs is the stand-in here."""
    release, asked = threading.Event(), []

    def hang(path: Path) -> os.statvfs_result:
        asked.append(path)
        release.wait()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "statvfs", hang)
    probe = probes.disk(tmp_path, DiskLimits())
    for _ in range(3):
        assert (await look("disk", probe, 0.05)).detail == "no answer within 0.05 s"
    assert len(asked) == 1
    release.set()
    assert (await probe()).verdict == "failed"


PRESSURE = (
    "some avg10=1.00 avg60=2.00 avg300=96.50 total=1\nfull avg10=0.00 avg60={full} avg300=0.00 total=1\n"
)


def test_memory_and_cpu_of_this_host() -> None:
    """What this kernel says can be read, whatever it says."""
    for probe in (probes.memory(MemoryLimits()), probes.cpu(CpuLimits())):
        assert see(probe).verdict in {"ok", "warning", "failed", "skipped"}


@pytest.mark.parametrize(
    ("available_gib", "full", "verdict"),
    [(10, "0.00", "ok"), (0.1, "0.00", "failed"), (10, "30.00", "failed"), (10, None, "ok")],
)
async def test_memory(tmp_path: Path, available_gib: float, full: str | None, verdict: str) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {int(available_gib * 2**20)} kB\n")
    if full:
        (tmp_path / "pressure/memory").write_text(PRESSURE.format(full=full))
    assert (await probes.memory(MemoryLimits(), tmp_path)()).verdict == verdict


async def test_cpu(tmp_path: Path) -> None:
    assert (await probes.cpu(CpuLimits(), tmp_path)()).verdict == "skipped"
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure/cpu").write_text(PRESSURE.format(full=0))
    assert (await probes.cpu(CpuLimits(), tmp_path)()).verdict == "warning"
    assert (await probes.cpu(CpuLimits(fail_pressure_percent=90), tmp_path)()).verdict == "failed"
    assert (await probes.cpu(CpuLimits(warn_pressure_percent=99), tmp_path)()).verdict == "ok"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'fine | load=1'; exit 0", Reading("ok", "fine")),
        ("echo careful; exit 1", Reading("warning", "careful")),
        ("echo broken >&2; exit 2", Reading("failed", "broken")),
        ("exit 3", Reading("unknown", "/bin/sh ended with code 3")),
        ("exit 7", Reading("failed", "/bin/sh ended with code 7")),
        ("kill -9 $$", Reading("failed", "/bin/sh ended with code -9")),
    ],
)
async def test_commands(script: str, expected: Reading) -> None:
    assert await probes.command(["/bin/sh", "-c", script])() == expected


async def test_a_command_that_there_is_not() -> None:
    assert (await probes.command(["/nowhere"])()).verdict == "unknown"


async def test_a_command_writes_as_much_as_it_likes_and_gets_what_it_is_given() -> None:
    ended = await commands.run(["/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; exit 4"])
    assert (ended.code, len(ended.output)) == (4, 4096)
    assert (await commands.run(["/bin/cat"], b"an event")).output == "an event"
    assert (await commands.run(["/bin/true"], bytes(1 << 20))).code == 0, "it need not read it"


async def test_a_command_gets_no_secret_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    names = {line.partition("=")[0] for line in (await commands.run(["/usr/bin/env"])).output.splitlines()}
    assert names == {"PATH", "LANG"}


async def test_a_command_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/child; wait"
    reading = await look("hangs", probes.command(["/bin/sh", "-c", script]), 0.5)
    assert reading.detail == "no answer within 0.5 s"
    child = int((tmp_path / "child").read_text())
    async with asyncio.timeout(5):
        while _runs(child):  # noqa: ASYNC110 - it is nobody of ours, whose end would be told
            await asyncio.sleep(0.01)


async def test_one_that_gets_away_does_not_hold_the_check() -> None:
    """With a session of its own it is not ended, and it keeps the output open for as long as it likes."""
    began = time.monotonic()
    reading = await look(
        "away", probes.command(["/bin/sh", "-c", "/usr/bin/setsid /bin/sleep 20 & wait"]), 0.5
    )
    assert reading.detail == "no answer within 0.5 s"
    assert time.monotonic() - began < 10


def _runs(pid: int) -> bool:
    """Whether a process is there and not only waits to be buried: its parent is nobody of ours."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_probe_that_breaks_proves_nothing() -> None:
    async def broken() -> Reading:
        raise RuntimeError("oops")

    async def forbidden() -> Reading:
        raise PermissionError(13, "Permission denied", "/secret")

    assert (await look("broken", broken, 1)).verdict == "unknown"
    assert await look("forbidden", forbidden, 1) == Reading("unknown", "not permitted to look at /secret")
