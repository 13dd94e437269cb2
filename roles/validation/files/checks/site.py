"""What the checks know of the deployed site, as the inventory has it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Site:
    """A host, how to reach it, and what it should be.

    Attributes:
        host: Its name in the inventory.
        connection: `kind` (ssh or local), `address`, `port`, `user`, `identity_file`, `arguments` (for ssh).
        engine_build: cpu, cuda, or empty where no engine is to run.
        api_url: The API's address as clients see it, without `/v1`.
        api_scheme: http or https, as the gateway speaks it on the host.
        answer_timeout: Seconds that one answer of a model may take.
        gateways: The units of the gateway's workers.
        models: The catalogue's entries, each with its plan.
        key_file: The file on the host that holds the first API key.
    """

    host: str
    connection: dict[str, Any]
    api_url: str
    api_scheme: str
    answer_timeout: float
    root: str
    user: str
    group: str
    models_root: str
    logs_root: str
    environment: str
    engine_build: str
    gateways: list[str]
    models: list[dict[str, Any]]
    api_port: int
    monitoring_sources: list[str]
    prometheus_port: int
    node_exporter_port: int
    key_file: str
    hardware_report: str
    external_services: list[dict[str, Any]]

    @property
    def served_models(self) -> list[dict[str, Any]]:
        """The models that an engine serves."""
        return [model for model in self.models if model.get("plan")]

    @property
    def resident_models(self) -> list[dict[str, Any]]:
        """Those of them that are awake always."""
        return [model for model in self.served_models if model["plan"]["residency"] == "resident"]

    @property
    def engines(self) -> list[str]:
        """The units of the engines that must run: those of the resident models."""
        return [f"citadel-engine@{name}.service" for name in self.engine_names(self.resident_models)]

    @property
    def engines_on_demand(self) -> list[str]:
        """The units of the engines that run only when somebody wants them."""
        named = [f"citadel-engine@{name}.service" for name in self.engine_names(self.served_models)]
        return [unit for unit in named if unit not in self.engines]

    @staticmethod
    def engine_names(models: list[dict[str, Any]]) -> list[str]:
        """What the engines of these models are called: `name`, and of several `name.2` and so on."""
        numbered = (
            (model["name"], number)
            for model in models
            for number in range(1, 1 + int((model.get("engine") or {}).get("replicas", 1)))
        )
        return [f"{name}.{number}" if number > 1 else name for name, number in numbered]

    @property
    def services(self) -> list[str]:
        """All units that must run."""
        helpers = ["citadel-health.service", *(["citadel-manager.service"] if self.engines_on_demand else [])]
        return ["citadel.target", *self.gateways, *self.engines, *helpers]

    @property
    def environments(self) -> list[str]:
        """The environments that must be there."""
        return [f"{self.root}/current/venv", *([f"{self.root}/envs/engine"] if self.engine_build else [])]

    @property
    def release_python(self) -> str:
        """The interpreter of the application's environment."""
        return f"{self.root}/current/venv/bin/python"

    @property
    def engine_python(self) -> str:
        """The interpreter of the engine's environment."""
        return f"{self.root}/envs/engine/bin/python"

    @property
    def writing_model(self) -> str | None:
        """A resident model that writes text, if there is one."""
        writing = (m["name"] for m in self.resident_models if m.get("task", "generate") == "generate")
        return next(writing, None)
