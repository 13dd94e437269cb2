"""Which engine a request goes to, who waits for one, and how the gateway goes on when engines fail.

`EngineRegistry.route` says which models may answer, `ServedModel.choose` which engine of one. Both are called
for each request and cost microseconds; whether an engine is well is found out beside them. docs/routing.md
tells it all.
"""

from citadel_llm.gateway.routing.engine import Engine
from citadel_llm.gateway.routing.queue import AdmissionQueue, Ticket
from citadel_llm.gateway.routing.registry import EngineRegistry
from citadel_llm.gateway.routing.served import ServedModel

__all__ = ["AdmissionQueue", "Engine", "EngineRegistry", "ServedModel", "Ticket"]
