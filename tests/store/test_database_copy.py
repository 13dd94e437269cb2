"""Everything that one database holds, carried into another by the command."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select
from typer.testing import CliRunner

from citadel_llm.cli import build_app
from citadel_llm.store import AuditLog, Database, KeyStore
from citadel_llm.store.copy import NotEmptyError, copy_all
from citadel_llm.store.usage_tables import usage_runs

RUNS = 2500  # more than are copied at once


def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A database with keys, their audit, and rows of usage."""
    path = tmp_path / "old.db"
    store = KeyStore(url(path))
    store.create("laptop", owner="ada", models=("a", "b"))
    store.revoke(store.create("old")[0].id)
    store.close()
    database = Database(url(path))
    with database.writing() as connection:
        row = {"segment": 1, "position": 2, "finished": True, "touched": datetime(2026, 1, 2, tzinfo=UTC)}
        connection.execute(insert(usage_runs), [{"name": f"run-{n}", **row} for n in range(RUNS)])
    database.close()
    return path


def test_the_copy_is_the_same(filled: Path, tmp_path: Path) -> None:
    source, target = Database(url(filled)), Database(url(tmp_path / "new.db"))
    copied = copy_all(source, target)
    assert (copied["api_keys"], copied["usage_runs"]) == (2, RUNS)
    old, new = KeyStore(url(filled)), KeyStore(url(tmp_path / "new.db"))
    assert new.list() == old.list()
    assert AuditLog(target).list(limit=10) == AuditLog(source).list(limit=10)
    # What is counted goes on counting: a change after it is seen as one.
    new.create("later")
    assert len(new.list()) == 3
    with pytest.raises(NotEmptyError, match=r"not empty.*api_keys"):
        copy_all(source, target)
    with target.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(usage_runs)) == RUNS
    for each in (source, target, old, new):
        each.close()


def test_the_command(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITADEL_CONFIG", str(tmp_path))
    monkeypatch.setenv("CITADEL__ENVIRONMENT", "production")
    monkeypatch.setenv("CITADEL__GATEWAY__DATABASE", url(filled))

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(build_app(["database"]), ["database", "copy", *arguments])
        return result.exit_code, result.output

    code, said = run()
    assert (code, "--from and --to" in said) == (2, True)
    code, said = run("--to", url(filled))
    assert (code, "itself" in said) == (2, True)
    code, said = run("--to", "postgresql://u:secret@h/d")
    assert (code, "secret" in said) == (2, False)
    code, said = run("--to", url(tmp_path / "new.db"), "--password-file", "/dev/null")
    assert (code, "a SQLite file has no password" in said) == (2, True)
    code, said = run("--to", url(tmp_path / "new.db"))
    assert (code, "2 api_keys" in said) == (0, True), said
    code, said = run("--to", url(tmp_path / "new.db"))
    assert (code, "not empty" in said) == (1, True)
    # Once the gateway is configured for the new one, the old one is what is named.
    monkeypatch.setenv("CITADEL__GATEWAY__DATABASE", url(tmp_path / "newer.db"))
    assert run("--from", url(filled), "--json")[0] == 0
