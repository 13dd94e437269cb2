from pathlib import Path

import pytest

from citadel_llm.config import ConfigError, load, read_layers
from citadel_llm.config.show import lines

from .layer_files import WriteLayers


def test_later_layers_win_and_mappings_merge(
    write_layers: WriteLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_layers(
        **{
            "global/a": "environment: staging\ngateway: {port: 1, max_body_bytes: 2000, address: 10.0.0.1}",
            "global/b": "gateway: {port: 2}",
            "environments/staging": "gateway: {port: 3, connect_timeout_seconds: 9}",
            "environments/production": "gateway: {port: 99}",
            "services/gateway": "gateway: {port: 4}",
            "features/flags": "features: {new: {enabled: true, owner: ada, expires: 2099-12-31}}",
        }
    )
    settings = load(folder)
    assert settings.gateway.port == 4
    assert settings.gateway.max_body_bytes == 2000
    assert settings.gateway.connect_timeout_seconds == 9
    assert settings.feature("new")
    assert not settings.feature("another")
    monkeypatch.setenv("CITADEL__GATEWAY__PORT", "5")
    monkeypatch.setenv("CITADEL__FEATURES__NEW__ENABLED", "false")
    monkeypatch.setenv("CITADEL__GATEWAY__METRICS_ALLOW", "[10.0.0.0/8]")
    settings = load(folder)
    assert settings.gateway.port == 5
    assert not settings.feature("new")
    assert [str(network) for network in settings.gateway.metrics_allow] == ["10.0.0.0/8"]


def test_the_environment_may_be_chosen_from_outside(
    write_layers: WriteLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_layers(
        **{
            "global/a": "environment: staging",
            "environments/staging": "logging: {level: debug}",
            "environments/production": "logging: {level: error}",
        }
    )
    monkeypatch.setenv("CITADEL__ENVIRONMENT", "production")
    assert load(folder).logging.level == "error"


def test_lists_are_replaced_whole(write_layers: WriteLayers) -> None:
    model = "{name: %s, source: {kind: folder, path: /x}, engine: {gpus: [0]}}"
    folder = write_layers(
        **{
            "global/a": f"environment: staging\nmodels: [{model % 'one'}, {model % 'two'}]",
            "services/models": f"models: [{model % 'three'}]",
        }
    )
    assert [model.name for model in load(folder).models] == ["three"]


def test_the_directory_comes_from_the_environment(
    write_layers: WriteLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITADEL_CONFIG", str(write_layers(**{"global/a": "environment: development"})))
    assert load().environment == "development"


def test_every_value_knows_where_it_was_set(
    write_layers: WriteLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_layers(
        **{
            "global/a": "environment: staging\ngateway:\n  port: 1\n  docs: false",
            "services/b": "\ngateway: {port: 2}",
        }
    )
    monkeypatch.setenv("CITADEL__LOGGING__LEVEL", "debug")
    layers = read_layers(folder)
    shown = dict(line.split(" = ", 1) for line in lines(load(folder), layers))
    assert shown["gateway.port"] == f"2  # {folder}/services/b.yml:2"
    assert shown["gateway.docs"] == f"False  # {folder}/global/a.yml:4"
    assert shown["logging.level"] == "'debug'  # CITADEL__LOGGING__LEVEL"
    assert shown["logging.format"] == "'auto'  # default"


def test_an_empty_file_is_an_empty_layer(write_layers: WriteLayers) -> None:
    assert load(write_layers(**{"global/a": "environment: staging", "services/none": "# nothing\n"}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"global/a": "a: [1"}, "a.yml:1: is not YAML"),
        ({"global/a": "- a"}, "must hold a mapping"),
        ({"global/a": "environment: staging\nenvironment: production"}, "a.yml:2: environment: is set twice"),
        (
            {"global/a": "environment: produktion", "environments/production": ""},
            "a.yml:1: environment: 'produktion' has no file in",
        ),
    ],
)
def test_files_that_cannot_be_layers(write_layers: WriteLayers, files: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write_layers(**files))
    assert message in str(caught.value)


def test_a_missing_folder_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CITADEL_CONFIG"):
        load(tmp_path / "nowhere")


def test_a_variable_that_is_not_yaml(write_layers: WriteLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITADEL__MODELS", "[{")
    with pytest.raises(ConfigError, match="CITADEL__MODELS: begins like a list"):
        load(write_layers(**{"global/a": "environment: staging"}))
