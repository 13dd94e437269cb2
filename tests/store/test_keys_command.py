"""`citadel keys`, run as the operator runs it, against a database and settings of its own."""

import json
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from citadel_llm.cli.audit import app as audit_app
from citadel_llm.cli.keys import app
from citadel_llm.store import KeyStore, hash_key

KEY = re.compile(r"ck-[A-Za-z0-9_-]{43}")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_site(tmp_path, monkeypatch)


def make_site(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder, database = root / "config", root / "data" / "citadel.db"
    (folder / "global").mkdir(parents=True)
    database.parent.mkdir()
    settings = {"environment": "development", "gateway": {"database": f"sqlite:///{database}"}}
    (folder / "global" / "citadel.yml").write_text(json.dumps(settings))
    monkeypatch.setenv("CITADEL_CONFIG", str(folder))
    monkeypatch.setattr(sys, "argv", ["citadel", "keys", "create", "--name", "my key"])
    return database


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def live_hashes(database: Path) -> set[str]:
    store = KeyStore(f"sqlite:///{database}")
    hashes = {record.hash for record in store.list(revoked=False)}
    store.close()
    return hashes


def test_what_is_done_is_told_in_json(database: Path, tmp_path: Path) -> None:
    made = json.loads(run("create", "--name", "laptop", "--json").stdout)
    assert live_hashes(database) == {hash_key(made["key"])}
    key_id = made["id"]
    assert json.loads(run("create", "--name", "laptop", "--if-absent", "--json").stdout)["id"] == key_id
    changed = json.loads(run("change", key_id, "--team", "physics", "--json").stdout)
    assert (changed["id"], changed["team"]) == (key_id, "physics")
    kept = run("rotate", key_id, "--write-to", tmp_path / "new.key", "--json").stdout
    assert json.loads(kept)["id"] == key_id
    assert not KEY.search(kept), "it is in the file"
    rotated = json.loads(run("rotate", key_id, "--json").stdout)
    assert live_hashes(database) == {hash_key(rotated["key"])}
    assert json.loads(run("revoke", key_id, "--json").stdout)["state"] == "revoked"


def test_create_shows_the_key_once(database: Path) -> None:
    result = run("create", "--name", "laptop", "--owner", "ada")
    assert result.exit_code == 0
    key = result.stdout.strip()
    assert KEY.fullmatch(key), "nothing but the key, for scripts"
    assert live_hashes(database) == {hash_key(key)}
    assert not KEY.search(result.stderr)
    assert "laptop" in result.stderr
    assert not KEY.search(run("list").output + run("list", "--json").output)


def test_create_writes_the_key_to_a_new_file_only(database: Path, tmp_path: Path) -> None:
    target = tmp_path / "key"
    old = os.umask(0)
    try:
        result = run("create", "--name", "first", "--write-to", target)
    finally:
        os.umask(old)
    assert (result.exit_code, result.stdout) == (0, "")
    assert not KEY.search(result.output)
    assert live_hashes(database) == {hash_key(target.read_text().strip())}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"config", "data", "key"}, "no draft is left"


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_create_overwrites_nothing(database: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "key"
    if kind == "file":
        target.write_text("precious")
    else:
        target.symlink_to(tmp_path / "elsewhere")
    result = run("create", "--name", "first", "--write-to", target)
    assert result.exit_code == 3
    assert "exists already" in result.stderr
    assert live_hashes(database) == set()
    assert kind != "file" or target.read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()


def test_create_where_nothing_can_be_written_makes_no_key(database: Path) -> None:
    result = run("create", "--name", "first", "--write-to", "/nonexistent/key")
    assert result.exit_code == 4
    assert "No such file or directory" in result.stderr
    assert live_hashes(database) == set()


def test_a_key_that_cannot_be_kept_is_not_left_behind(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", fail)
    result = run("create", "--name", "first", "--write-to", tmp_path / "key")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert live_hashes(database) == set()
    assert {path.name for path in tmp_path.iterdir()} == {"config", "data"}


def test_a_name_that_is_taken(database: Path, tmp_path: Path) -> None:
    run("create", "--name", "laptop")
    before = live_hashes(database)
    again = run("create", "--name", "laptop")
    assert (again.exit_code, again.stdout) == (3, "")
    assert "exists already" in again.stderr
    absent = run("create", "--name", "laptop", "--if-absent")
    assert (absent.exit_code, absent.stdout) == (0, "")
    target = tmp_path / "key"
    kept = run("create", "--name", "laptop", "--if-absent", "--write-to", target)
    assert kept.exit_code == 0
    assert "is not there" in kept.stderr
    assert not target.exists()
    assert live_hashes(database) == before


def test_if_absent_makes_what_is_absent(database: Path) -> None:
    assert KEY.fullmatch(run("create", "--name", "laptop", "--if-absent").stdout.strip())


def test_list(database: Path) -> None:
    assert "no keys yet" in run("list").stdout
    run("create", "--name", "laptop", "--owner", "[red]ada[/red]")
    run("create", "--name", "ci")
    records = json.loads(run("list", "--json").stdout)
    assert [(r["name"], r["owner"], r["revoked_at"]) for r in records] == [
        ("laptop", "[red]ada[/red]", None),
        ("ci", "", None),
    ]
    assert not {"hash", "previous_hash"} & set(records[0])
    table = run("list").stdout
    assert "[red]ada[/red]" in table
    assert records[0]["id"] in table


def test_revoke(database: Path) -> None:
    run("create", "--name", "laptop")
    (record,) = json.loads(run("list", "--json").stdout)
    assert run("revoke", record["id"]).exit_code == 0
    assert live_hashes(database) == set()
    assert "revoked" in run("list").stdout
    unknown = run("revoke", "nothing")
    assert unknown.exit_code == 1
    assert "citadel keys list" in unknown.stderr


def test_a_bad_name_is_a_usage_error(database: Path) -> None:
    result = run("create", "--name", "a/b")
    assert result.exit_code == 2
    assert "letters, digits" in result.stderr


def test_a_wrong_configuration_says_what_is_wrong(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITADEL__GATEWAY__DATABASE", "nonsense")
    result = run("list")
    assert result.exit_code == 2
    assert "gateway.database" in result.stderr


def test_a_database_out_of_reach_says_what_to_do(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITADEL__GATEWAY__DATABASE", "sqlite:////nonexistent/citadel.db")
    result = run("create", "--name", "my key")
    assert result.exit_code == 4
    assert "sudo -u citadel-gateway citadel keys create --name 'my key'" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as others")
def test_roots_key_leaves_the_database_to_the_service(database: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(database.parent, nobody.pw_uid, nobody.pw_gid)
    assert run("create", "--name", "first").exit_code == 0
    assert {file.stat().st_uid for file in database.parent.iterdir()} == {nobody.pw_uid}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as others")
def test_who_may_not_read_the_keys_is_told_whom_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not in pytest's folder, into which others cannot even look.
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    database = make_site(root, monkeypatch)
    database.parent.chmod(0o700)
    run("create", "--name", "first")
    # The first call, as root, only imports: the other user may not be able to read these packages.
    code = """
import contextlib, io, os, sys
from citadel_llm.cli.audit import app as audit_app
from citadel_llm.cli.keys import app
sys.argv[1:] = ["keys", "list"]
with contextlib.redirect_stdout(io.StringIO()):
    app(["list"], standalone_mode=False)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
app(["list"])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    shutil.rmtree(root)
    assert (result.returncode, result.stdout) == (4, ""), result.stderr
    assert "sudo -u citadel-gateway citadel keys list" in result.stderr


def test_a_keys_fields_from_the_options_to_the_table(database: Path) -> None:
    limits = ["--requests-per-minute", "60", "--tokens-per-day", "2M", "--concurrent-requests", "4"]
    made = ["--team", "physics", "--expires", "90d", "--model", "a", "--model", "b", "--priority", "low"]
    result = run("create", "--name", "ci", *limits, *made)
    assert result.exit_code == 0, result.output
    assert "no model 'a'" in result.stderr
    (record,) = json.loads(run("list", "--json").stdout)
    assert (record["models"], record["tokens_per_day"], record["state"]) == (["a", "b"], 2_000_000, "live")
    assert "60 req/min, 4 at once, 2M tok/day, 2 models, low" in run("list").stdout
    changed = run("change", record["id"], "--expires", "never", "--model", "all", "--tokens-per-day", "none")
    assert changed.exit_code == 0
    assert json.loads(run("show", record["id"], "--json").stdout) == {
        **record,
        "expires_at": None,
        "models": ["*"],
        "tokens_per_day": None,
    }
    assert run("create", "--name", "root", "--scope", "admin", "--model", "none").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--requests-per-minute", "0"], "--requests-per-minute must be a whole number"),
        (["--tokens-per-day", "lots"], "--tokens-per-day must be a number such as"),
        (["--expires", "yesterday"], "--expires must be a duration such as 90d"),
        (["--expires", "90"], "--expires must say a unit"),
        (["--expires", "999999w"], "--expires must be sooner"),
        (["--expires", "2001-01-31"], "--expires must lie in the future"),
        (["--model", "none"], "--model can be none for an admin's key only"),
        (["--model", "all", "--model", "a"], "--model must be either all"),
        (["--scope", "root"], "--scope must be one of api, admin, peer"),
    ],
)
def test_bad_values_name_the_option(database: Path, arguments: list[str], message: str) -> None:
    result = run("create", "--name", "x", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_rotate_and_what_the_log_says_of_it(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "log"))
        journal.settimeout(5)
        monkeypatch.setattr("citadel_llm.cli.journal.JOURNAL", str(tmp_path / "log"))
        first = run("create", "--name", "laptop").stdout.strip()
        (record,) = json.loads(run("list", "--json").stdout)
        rotated = run("rotate", record["id"], "--grace", "24h")
        second = rotated.stdout.strip()
        assert KEY.fullmatch(second)
        assert "the key that it replaces works until" in rotated.stderr
        assert live_hashes(database) == {hash_key(second)}
        third = run("rotate", record["id"], "--write-to", tmp_path / "key")
        assert "has ended" in third.stderr
        assert live_hashes(database) == {hash_key((tmp_path / "key").read_text().strip())}
        run("revoke", record["id"])
        assert run("rotate", record["id"]).exit_code == 1
        lines = [journal.recv(4096).decode() for _ in range(5)]
    assert all(line.startswith("<86>citadel: {") for line in lines)
    entries = json.loads(CliRunner().invoke(audit_app, ["--json"]).stdout)
    assert [json.loads(line.partition(": ")[2])["id"] for line in lines] == [5, 4, 3, 2, 1][::-1]
    assert [(entry["action"], entry["outcome"]) for entry in entries] == [
        ("key.rotate", "refused"),
        ("key.revoke", "done"),
        ("key.rotate", "done"),
        ("key.rotate", "done"),
        ("key.create", "done"),
    ]
    assert all(entry["actor"].startswith("unix:") for entry in entries)
    shown = CliRunner().invoke(audit_app, ["--key", record["id"], "--limit", "1"]).stdout
    assert "refused" in shown
    assert "for good" in shown
    everything = "".join(lines) + json.dumps(entries)
    assert not any(secret in everything for secret in (first, second, hash_key(second)))
