import json
from collections.abc import Callable
from pathlib import Path

import pytest

from citadel_llm.cli import logs
from citadel_llm.cli.logs import read, write

from .machine import Run

Journal = Callable[..., Path]

OURS = {
    "__REALTIME_TIMESTAMP": "1795440243731000",
    "_SYSTEMD_UNIT": "citadel-engine@small.service",
    "PRIORITY": "3",
    "MESSAGE": json.dumps(
        {"event": "ended", "level": "error", "service": "engine@small", "reason": "no memory"}
    ),
}
SYSTEMDS = {
    "__REALTIME_TIMESTAMP": "1795440243731000",
    "_SYSTEMD_UNIT": "init.scope",
    "UNIT": "citadel-gateway.service",
    "PRIORITY": "6",
    "MESSAGE": "Started Citadel's gateway.",
}


def test_our_lines_are_read_by_their_fields() -> None:
    entry = read(OURS)
    assert entry["event"] == "ended"
    assert entry["reason"] == "no memory"
    assert write(entry).endswith("engine@small  error    ended  reason=no memory")


def test_lines_of_others_are_shown_as_they_are() -> None:
    entry = read(SYSTEMDS)
    assert (entry["service"], entry["level"]) == ("gateway", "info")
    assert write(entry).endswith("gateway  info     Started Citadel's gateway.")


def test_bytes_and_missing_fields() -> None:
    assert read({"MESSAGE": [104, 105, 255]})["event"] == "hi\ufffd"
    assert read({})["event"] == ""


def test_empty_fields_are_left_out_for_people() -> None:
    assert write({"timestamp": "t", "service": "s", "level": "info", "event": "e", "key_id": "", "n": 0}) == (
        "t  s  info     e  n=0"
    )


def test_a_traceback_keeps_its_lines() -> None:
    entry = {"timestamp": "t", "service": "s", "level": "error", "event": "broken", "exception": "a\n  b"}
    assert write(entry).splitlines()[1:] == ["a", "  b"]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A stand-in for journalctl that writes, complains and exits as told; it notes its arguments."""
    program = tmp_path / "journalctl"
    monkeypatch.setattr(logs, "JOURNALCTL", str(program))

    def behave(output: str = "", complaint: str = "", code: int = 0) -> Path:
        (tmp_path / "output").write_text(output)
        note = tmp_path / "arguments"
        lines = [f'echo "$*" > {note}', f"cat {tmp_path}/output", f"echo '{complaint}' >&2", f"exit {code}"]
        program.write_text("\n".join(["#!/bin/sh", *lines]))
        program.chmod(0o755)
        return note

    return behave


@pytest.mark.usefixtures("machine")
def test_the_journal_is_asked_for_what_was_meant(run: Run, journal: Journal) -> None:
    note = journal(output=f"{json.dumps(OURS)}\n")
    result = run("logs", "small", "-f", "--since", "1 hour ago", "--level", "warning", "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["reason"] == "no memory"
    unit = "citadel-engine@small.service"
    assert note.read_text() == (
        f"--output=json --quiet --priority=warning --unit={unit} --since=1 hour ago --follow\n"
    )


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("complaint", "code"),
    [
        ("No journal files were opened due to insufficient permissions.", 4),
        ("Failed to parse timestamp: soon", 1),
    ],
)
def test_what_the_journal_refuses(run: Run, journal: Journal, complaint: str, code: int) -> None:
    journal(complaint=complaint, code=1)
    result = run("logs")
    assert result.exit_code == code
    assert complaint in result.output
