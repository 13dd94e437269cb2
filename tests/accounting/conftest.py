import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from citadel_llm.store.database import Database


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables: making them takes longer than copying the file."""
    path = tmp_path_factory.mktemp("migrated") / "citadel.db"
    database = Database(f"sqlite:///{path}")
    with database.reading():
        pass
    database.close()
    return path


@pytest.fixture
def database_url(migrated: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(migrated, tmp_path / 'citadel.db')}"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()
