"""What the app's lifespan makes and every request finds."""

from typing import TypedDict, cast

from starlette.types import Scope

from citadel_llm.config import Settings
from citadel_llm.gateway.auth import KeyCache
from citadel_llm.gateway.metrics import GatewayMetrics
from citadel_llm.gateway.routing import EngineRegistry
from citadel_llm.gateway.traffic import Traffic
from citadel_llm.gateway.workers import Workers


class State(TypedDict):
    """The parts of a running gateway."""

    settings: Settings
    keys: KeyCache
    engines: EngineRegistry
    metrics: GatewayMetrics
    traffic: Traffic
    workers: Workers
    started: int
    """When the gateway started, in Unix time."""


def state_of(scope: Scope) -> State:
    """The state that the lifespan has put into every request's scope."""
    return cast("State", scope["state"])
