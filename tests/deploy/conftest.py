import functools
from pathlib import Path

import pytest

from .modules import Run
from .modules import run_module as run


@pytest.fixture
def run_module(tmp_path: Path) -> Run:
    """Call it with a module's path below the repository and its parameters; returns what it answers."""
    return functools.partial(run, tmp_path)
