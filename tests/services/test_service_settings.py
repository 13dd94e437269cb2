"""What each service runs with: which changes concern it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from citadel_llm.config import Layers, Settings, validate
from citadel_llm.services.engine import command
from citadel_llm.services.service_settings import Values, described, leaves_of, revision, values_read
from citadel_llm.services.vllm_service import VllmService

PLACE = {"residency": "resident", "max_model_len": 4096, "kv_cache_bytes": 2**30}
TWO = {
    "name": "two",
    "source": {"kind": "folder", "path": "/two"},
    "engine": {"replicas": 2},
    "plan": {**PLACE, "gpus": [0], "replicas": [{"gpus": [1], "kv_cache_bytes": 2**30}]},
}
BASE: dict[str, Any] = {
    "environment": "staging",
    "gateway": {"workers": 2, "limits": {"store": "valkey://127.0.0.1/0"}},
    "models": [
        {"name": "one", "source": {"kind": "folder", "path": "/one"}, "plan": {**PLACE, "gpus": [0]}},
        TWO,
    ],
    "features": {"wide": {"enabled": False, "owner": "ada", "expires": "2099-12-31"}},
}
SERVICES = ("gateway", "gateway.2", "engine@one", "engine@two", "engine@two.2", "health", "manager")


def settings_with(path: str, value: object) -> Settings:
    """The settings, with a value at a path such as `models.0.task`."""

    def put(tree: Any, keys: list[str]) -> Any:
        if not keys:
            return value
        if isinstance(tree, list):
            return [put(item, keys[1:]) if str(at) == keys[0] else item for at, item in enumerate(tree)]
        return {**tree, keys[0]: put(tree.get(keys[0], {}), keys[1:])}

    return validate(Layers(values=put(BASE, path.split("."))))


SETTINGS = settings_with("environment", "staging")


@pytest.mark.parametrize(
    ("path", "value", "concerned"),
    [
        ("environment", "production", {"health"}),
        ("logging.level", "debug", set(SERVICES)),
        ("gateway.port", 9000, {"gateway", "gateway.2", "health"}),
        # Below the gateway's spans are the engines' own.
        ("gateway.tracing.endpoint", "http://10.0.0.5:4318/v1/traces", {*SERVICES} - {"manager"}),
        ("engine.cache_dir", "/cache", {"engine@one", "engine@two", "engine@two.2", "health"}),
        ("placement.made_from", "other", {"health"}),
        ("models.0.engine.dtype", "float16", {"engine@one", "health", "manager"}),
        ("residency.wait_seconds", 5, {"gateway", "gateway.2", "health", "manager"}),
        ("placement.on_demand.host_bytes", 5, {"health", "manager"}),
        ("models.0.aliases", ["uno"], {"gateway", "gateway.2", "engine@one", "health"}),
        ("models.0.source.path", "/other", {"engine@one", "health"}),
        ("models.0.weight_bytes", 5, {"health"}),
        ("models.0.plan.residency", "cold", {"gateway", "gateway.2", "engine@one", "health", "manager"}),
        ("models.1.plan.gpus", [2], {"engine@two", "health", "manager"}),
        (
            "models.1.plan.replicas",
            [{"gpus": [2], "kv_cache_bytes": 2**30}],
            {"engine@two.2", "health", "manager"},
        ),
        ("features.wide.enabled", True, set(SERVICES)),
        ("features.wide.owner", "bob", set()),
    ],
)
def test_a_change_concerns_those_that_read_it(path: str, value: object, concerned: set[str]) -> None:
    changed = settings_with(path, value)
    assert {name for name in SERVICES if revision(name, changed) != revision(name, SETTINGS)} == concerned


def test_the_order_of_the_catalogue_concerns_no_engine() -> None:
    turned = validate(Layers(values={**BASE, "models": BASE["models"][::-1]}))
    for name in ("engine@one", "engine@two", "engine@two.2"):
        assert revision(name, turned) == revision(name, SETTINGS)


@pytest.mark.parametrize("number", [1, 2])
def test_what_vllm_is_called_with_is_read(number: int) -> None:
    """A value that shows in vLLM's arguments or environment stands among those that its service reads."""
    engine = next(each for each in SETTINGS.engines if (each.model.name, each.number) == ("two", number))
    read = values_read(f"engine@{engine.id}", SETTINGS.model_dump(mode="json"))
    options = {"dtype": "float16", "quantization": "awq", "enforce_eager": True}
    used: Values = {
        ("gateway", "tracing", "endpoint"): "http://10.0.0.5:4318",
        ("run_dir",): "/srv/run",
        ("models_root",): "/srv/models",
        ("engine", "python"): "/srv/python",
        ("engine", "build"): "cpu",
        ("engine", "cache_dir"): "/srv/cache",
        ("models", "two", "aliases"): ["deux"],
        ("models", "two", "task"): "embed",
        **{("models", "two", "engine", key): value for key, value in options.items()},
        ("models", "two", "plan", "max_model_len"): 8192,
    }

    def call(settings: Settings) -> object:
        one = next(each for each in settings.engines if each.id == engine.id)
        return command.arguments(settings, one.model, one.id), command.environment(
            settings, one.model, engine_id=one.id
        )

    for path, value in used.items():
        changed = settings_with(".".join("1" if part == "two" else str(part) for part in path), value)
        assert call(changed) != call(SETTINGS), path
        assert path in read


def test_the_deployment_is_told_each_services_limits_and_model() -> None:
    by_name = {each["name"]: each for each in described(SETTINGS)}
    assert by_name["two.2"]["model"] == "two"
    assert (by_name["one"]["start_timeout"], by_name["one"]["drain_timeout"]) == (900, 60)
    assert by_name["gateway"]["revision"] == by_name["gateway.2"]["revision"]
    assert "start_timeout" not in by_name["gateway"]


def test_an_engine_runs_with_what_it_was_started_with_but_for_log_and_flags() -> None:
    engine = VllmService("one", SETTINGS)
    engine.settings = settings_with("logging.level", "debug")
    asyncio.run(engine.reload())
    assert engine.settings.logging.level == "debug"
    engine.settings = settings_with("models.0.engine.dtype", "float16")
    asyncio.run(engine.reload())
    assert engine.settings == SETTINGS


def test_every_value_has_one_path() -> None:
    values = {path: value for path, _, value in leaves_of(SETTINGS.model_dump(mode="json"))}
    assert values[("models", "one", "plan", "gpus")] == [0]
    assert values[("features", "wide", "enabled")] is False
    assert len(values) == len({str(path) for path in values})
    assert Path(values[("run_dir",)]) == SETTINGS.run_dir
