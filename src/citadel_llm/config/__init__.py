"""The settings of a Citadel host: one schema, filled from layers of files and the environment.

`load()` is all that most callers need. It reads `global/*.yml`, `environments/<environment>.yml`,
`services/*.yml` and `features/*.yml` under the configuration folder, merges them in that order, lays the
`CITADEL__…` environment variables over them, and checks the result against `Settings`.
"""

from citadel_llm.config.errors import ConfigError, Problem
from citadel_llm.config.features import Feature, expired
from citadel_llm.config.gateway import Gateway
from citadel_llm.config.layers import DEFAULT_DIRECTORY, Layers, Origin, read_layers
from citadel_llm.config.loader import load, validate
from citadel_llm.config.schema import (
    Engine,
    EngineDefaults,
    EngineOptions,
    EnginePlan,
    FolderSource,
    HubSource,
    Logging,
    Model,
    PackageSource,
    Placement,
    ReplicaPlan,
    Settings,
)

__all__ = [
    "DEFAULT_DIRECTORY",
    "ConfigError",
    "Engine",
    "EngineDefaults",
    "EngineOptions",
    "EnginePlan",
    "Feature",
    "FolderSource",
    "Gateway",
    "HubSource",
    "Layers",
    "Logging",
    "Model",
    "Origin",
    "PackageSource",
    "Placement",
    "Problem",
    "ReplicaPlan",
    "Settings",
    "expired",
    "load",
    "read_layers",
    "validate",
]
