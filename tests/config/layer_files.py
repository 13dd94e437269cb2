"""What the fixture `write_layers` gives."""

from collections.abc import Callable
from pathlib import Path

WriteLayers = Callable[..., Path]
