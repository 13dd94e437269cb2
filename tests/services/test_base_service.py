"""Services as processes, with a real notify socket: what systemd would see."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .notify_socket import NotifySocket

PROGRAM = Path(__file__).parent / "probe_service.py"

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def config_folder(tmp_path: Path) -> Path:
    (tmp_path / "config" / "global").mkdir(parents=True)
    (tmp_path / "config" / "global" / "a.yml").write_text("environment: staging\n")
    return tmp_path / "config"


@pytest.fixture
def run(notify: NotifySocket, config_folder: Path) -> Iterator[Run]:
    """Start the probe service; what of it still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(wrong: str = "", **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            env={**os.environ, "CITADEL_CONFIG": str(config_folder), "PROBE": wrong, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def log_of(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    output, _ = process.communicate(timeout=10)
    return [json.loads(line) for line in output.splitlines()]


def events(lines: list[dict[str, object]]) -> list[object]:
    return [line["event"] for line in lines]


def test_a_life_in_good_order(run: Run, notify: NotifySocket, config_folder: Path) -> None:
    process = run(WATCHDOG_USEC="400000")
    notify.wait_for("EXTEND_TIMEOUT_USEC")
    notify.wait_for("READY", "1")
    for _ in range(3):
        notify.wait_for("WATCHDOG", "1", seconds=0.6)

    (config_folder / "global" / "a.yml").write_text("environment: staging\nlogging: {level: debug}\n")
    process.send_signal(signal.SIGHUP)
    assert int(notify.wait_for("RELOADING", "1")["MONOTONIC_USEC"]) < time.monotonic_ns() // 1000
    assert notify.wait_for("READY", "1")["STATUS"] == "reloaded"

    (config_folder / "global" / "a.yml").write_text("environment: nowhere\n")
    process.send_signal(signal.SIGHUP)
    notify.wait_for("RELOADING", "1")
    assert "old settings" in notify.wait_for("READY", "1")["STATUS"]

    process.send_signal(signal.SIGTERM)
    notify.wait_for("STOPPING", "1")
    lines = log_of(process)
    assert process.returncode == 0
    assert events(lines) == [
        "ready",
        "took over",
        "reloaded",
        "the configuration is wrong",
        "draining",
        "stopping",
        "stopped",
    ]
    assert lines[1]["level_now"] == "debug"
    assert {line["service"] for line in lines} == {"probe"}


def test_what_it_runs_with_is_written_down(
    run: Run, notify: NotifySocket, config_folder: Path, tmp_path: Path
) -> None:
    layer = config_folder / "global" / "a.yml"
    folder = tmp_path / "run" / "settings" / "citadel-probe"
    folder.mkdir(parents=True)

    def configure(more: str) -> None:
        layer.write_text(f"environment: staging\nrun_dir: {tmp_path}/run\n{more}")

    def written() -> dict[str, Any]:
        return dict(json.loads((folder / "probe.json").read_text()))

    configure("gateway: {port: 1}")
    process = run(CITADEL__LOGGING__FORMAT="json")
    notify.wait_for("READY", "1")
    first = written()
    assert (first["service"], first["pid"], first["reloads"]) == ("probe", process.pid, 0)
    assert first["settings"]["gateway"]["port"] == 1
    assert (first["settings"]["logging"]["format"], first["variables"]) == (
        "json",
        ["CITADEL__LOGGING__FORMAT"],
    )
    assert stat.S_IMODE((folder / "probe.json").stat().st_mode) == 0o640

    for more, port, reloads, failed in (
        ("gateway: {port: 2}", 2, 1, ""),
        ("gateway: {prot: 3}", 2, 1, "the new ones are wrong, see the log"),
    ):
        configure(more)
        process.send_signal(signal.SIGHUP)
        notify.wait_for("RELOADING", "1")
        notify.wait_for("READY", "1")
        now = written()
        assert (now["settings"]["gateway"]["port"], now["reloads"], now["reload_failed"]) == (
            port,
            reloads,
            failed,
        )

    # A successor's stays.
    (folder / "probe.json").write_text(json.dumps({**first, "pid": 1}))
    process.send_signal(signal.SIGHUP)
    notify.wait_for("RELOADING", "1")
    notify.wait_for("READY", "1")
    assert written()["pid"] == 1
    (folder / "probe.json").write_text(json.dumps(first))
    process.terminate()
    process.communicate(timeout=10)
    assert list(folder.iterdir()) == []


def test_the_service_in_the_docs_runs(
    notify: NotifySocket, config_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of a new service, as the page shows it."""
    text = (Path(__file__).parents[2] / "docs" / "services.md").read_text()
    program = text.split("```python\n")[1].split("```")[0]
    monkeypatch.setenv("CITADEL_CONFIG", str(config_folder))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        notify.wait_for("READY", "1")
        notify.wait_for("STATUS", "2 ticks")
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0
    assert len([line for line in program.splitlines() if line]) <= 20


def test_the_watchdog_is_not_fed_without_progress(run: Run, notify: NotifySocket) -> None:
    process = run("health", WATCHDOG_USEC="100000")
    notify.wait_for("READY", "1")
    time.sleep(0.3)
    assert notify.count("WATCHDOG") == 0
    process.send_signal(signal.SIGTERM)
    assert "not healthy: the watchdog is not fed" in events(log_of(process))


def test_no_watchdog_for_another_process(run: Run, notify: NotifySocket) -> None:
    run(WATCHDOG_USEC="100000", WATCHDOG_PID="1")
    notify.wait_for("READY", "1")
    time.sleep(0.2)
    assert notify.count("WATCHDOG") == 0


@pytest.mark.parametrize(
    ("wrong", "code", "reason"),
    [
        ("configure", 2, "nothing to serve"),
        ("start", 3, "start failed: no start"),
        ("slow-start", 3, "start was not over after 0 s"),
        ("background", 1, "the background failed: broken"),
    ],
)
def test_the_exit_code_says_how_it_ended(
    run: Run, notify: NotifySocket, wrong: str, code: int, reason: str
) -> None:
    process = run(wrong)
    lines = log_of(process)
    assert process.returncode == code
    assert lines[-1]["reason"] == reason
    # Released even so; drained only if it had been ready and was asked to stop.
    assert "stopping" in events(lines)
    assert "draining" not in events(lines)
    notify.wait_for("STATUS", f"failed: {reason}")


def test_wrong_settings_are_told_line_by_line(run: Run, config_folder: Path) -> None:
    (config_folder / "global" / "a.yml").write_text("environment: staging\ngateway: {prot: 1, port: x}\n")
    process = run()
    lines = log_of(process)
    assert process.returncode == 2
    assert [line["event"] for line in lines] == ["the configuration is wrong"] * 2


def test_a_reload_that_fails_leaves_the_service_running(run: Run, notify: NotifySocket) -> None:
    process = run("reload")
    notify.wait_for("READY", "1")
    process.send_signal(signal.SIGHUP)
    notify.wait_for("RELOADING", "1")
    assert notify.wait_for("READY", "1")["STATUS"] == "running on the old settings: no reload"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.parametrize("twice", [False, True])
def test_a_drain_that_does_not_end_is_cut(run: Run, notify: NotifySocket, twice: bool) -> None:
    process = run("slow-drain")
    notify.wait_for("READY", "1")
    process.send_signal(signal.SIGINT)
    notify.wait_for("STOPPING", "1")
    if twice:
        process.send_signal(signal.SIGINT)
    lines = log_of(process)
    assert process.returncode == 0
    cut = [line for line in lines if line.get("step") == "drain"]
    assert events(cut) == ["cut short" if twice else "not finished in its time"]
    assert "stopping" in events(lines)


def test_a_stop_during_the_start_ends_it(run: Run, notify: NotifySocket) -> None:
    process = run("slow-start")
    notify.wait_for("EXTEND_TIMEOUT_USEC")
    notify.wait_for("EXTEND_TIMEOUT_USEC")  # the first was of configure
    process.send_signal(signal.SIGTERM)
    assert events(log_of(process)) == ["stopping", "stopped"]
    assert process.returncode == 0
