import textwrap
from pathlib import Path

import pytest

from .layer_files import WriteLayers


@pytest.fixture
def write_layers(tmp_path: Path) -> WriteLayers:
    """Write layer files, `write_layers(**{"global/a": "…"})`, and return the configuration folder."""

    def write(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / f"{name}.yml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return tmp_path

    return write
