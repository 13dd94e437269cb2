"""What gateways tell each other of their engines."""

import msgspec

from citadel_llm.gateway.routing.engine import Condition

PATH = "/internal/engines"
"""Where a gateway is asked for it."""


class PeerEngine(msgspec.Struct, frozen=True):
    """One engine of the node that tells.

    Attributes:
        id: What it is called there.
        model: The real name of its model.
        task: What the model does.
        max_model_len: The model's longest context in tokens.
        aliases: The model's other names.
        state: How it is: `up` may be given requests; `asleep` too, where there is no other.
        outstanding: Requests that it has in hand, whoever sent them.
        outstanding_tokens: The tokens of their prompts, as estimated.
        load: What it has to work through, in tokens (`Engine.load`).
    """

    id: str
    model: str
    task: str
    max_model_len: int | None
    aliases: tuple[str, ...]
    state: Condition
    outstanding: int
    outstanding_tokens: int
    load: int


class PeerState(msgspec.Struct, frozen=True):
    """All engines of a node.

    Attributes:
        node: The node's name for itself: it makes each gateway's rendezvous hashing choose alike.
        engines: Its own; never those behind its own peers.
    """

    node: str
    engines: tuple[PeerEngine, ...]
