import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from .notify_socket import NotifySocket


@pytest.fixture
def notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifySocket]:
    """What `$NOTIFY_SOCKET` leads to."""
    listener = NotifySocket(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(listener.path))
    yield listener
    listener.close()


@pytest.fixture
def _clean_logging() -> Iterator[None]:
    """Undo what `configure_logging` does to the whole process."""
    root = logging.getLogger()
    handlers, level, loud = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], logging.raiseExceptions = handlers, loud
    root.setLevel(level)
    structlog.reset_defaults()
