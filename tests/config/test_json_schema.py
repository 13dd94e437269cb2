"""What editors are told of the settings."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from citadel_llm.config import Settings
from citadel_llm.config.inventory import GROUPS, VARIABLES
from citadel_llm.config.json_schema import of_inventory, of_layers

EXAMPLES = sorted((Path(__file__).parents[2] / "inventories").glob("*/group_vars/all/*.yml"))
SOURCE = {"kind": "folder", "path": "/w"}


def complaints(schema: dict[str, Any], values: object) -> list[str]:
    Draft202012Validator.check_schema(schema)
    return [error.json_path for error in Draft202012Validator(schema).iter_errors(values)]


@pytest.mark.parametrize(
    "layer",
    [
        {},
        {"logging": {"level": "debug"}},
        # The key may stand in another layer.
        {"gateway": {"tls": {"certificate": "/etc/ssl/a.pem"}}},
        {"features": {"wide": {"enabled": True}}},
        {"models": [{"name": "a", "source": SOURCE}]},
    ],
)
def test_any_part_of_the_settings_is_a_layer(layer: dict[str, Any]) -> None:
    assert complaints(of_layers(), layer) == []


@pytest.mark.parametrize(
    ("layer", "path"),
    [
        ({"gatway": {}}, "$"),
        ({"gateway": {"limits": {"request_per_minute": 1}}}, "$.gateway.limits"),
        ({"gateway": {"port": 0}}, "$.gateway.port"),
        ({"models_root": "models"}, "$.models_root"),
        # What is in a list is complete: a list is replaced whole.
        ({"models": [{"name": "a"}]}, "$.models[0]"),
        ({"gateway": {"peers": [{"name": "a"}]}}, "$.gateway.peers[0]"),
    ],
)
def test_what_no_layer_may_hold_is_marked_where_it_stands(layer: dict[str, Any], path: str) -> None:
    assert complaints(of_layers(), layer) == [path]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: "-".join(path.parts[-4::3]))
def test_our_inventories_are_right(path: Path) -> None:
    assert complaints(of_inventory(), yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({"config_gateway": {"docks": True}}, "$.config_gateway"),
        ({"config_environments": {"staging": {"logging": {"level": "loud"}}}}, None),
        ({"citadel_models": [{"name": "a", "source": SOURCE, "engin": {}}]}, "$.citadel_models[0]"),
        ({"citadel_api_port": "http"}, "$.citadel_api_port"),
    ],
)
def test_a_mistake_in_an_inventory_is_marked(variables: dict[str, Any], path: str | None) -> None:
    [found] = complaints(of_inventory(), variables)
    assert path in {found, None}


def test_every_setting_can_be_reached_from_the_inventory() -> None:
    reached = {path.partition(".")[0] for path in {**VARIABLES, **GROUPS}}
    assert set(Settings.model_fields) - reached == {"run_dir"}
