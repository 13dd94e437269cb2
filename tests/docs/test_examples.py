"""What the pages show as settings is what the schema takes."""

import re
from pathlib import Path

import yaml

from citadel_llm.config import Layers, validate

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_example_of_the_gateways_settings_is_accepted() -> None:
    [block] = [
        text
        for text in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        if text.startswith("config_gateway:")
    ]
    source = {"kind": "folder", "path": "/w"}
    values = {
        "environment": "production",
        "gateway": yaml.safe_load(block)["config_gateway"],
        "models": [{"name": name, "source": source} for name in ("large", "small")],
    }
    gateway = validate(Layers(values=values)).gateway
    assert gateway.aliases[0].models[0].weight == 9
    assert gateway.limits.concurrent_requests == 64
