"""The engines behind other nodes' gateways: each peer is asked every second what it has."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import msgspec

from citadel_llm.config.gateway import Peer
from citadel_llm.gateway.errors import EngineError, EngineTimeoutError
from citadel_llm.gateway.routing.engine import Engine, State, reason_of, seed_of
from citadel_llm.gateway.routing.wire_format import PATH, PeerEngine, PeerState
from citadel_llm.gateway.wire.upstream import EngineClient, TcpAddress

INTERVAL = 1.0
"""Seconds between two questions."""

_TIMEOUT = 3.0
_OK = 200
_PORTS = {"http": 80, "https": 443}

_decoder = msgspec.json.Decoder(PeerState)

Learn = Callable[[PeerEngine], None]


def peer_address(peer: Peer, key: str) -> TcpAddress:
    """Where a peer's gateway listens, with the key for it.

    Raises:
        OSError: The peer's certificate authorities cannot be read.
    """
    parts = urlsplit(peer.url)
    tls = None
    if parts.scheme == "https":
        tls = ssl.create_default_context(cafile=str(peer.ca_file) if peer.ca_file else None)
    return TcpAddress(
        name=str(parts.hostname),
        port=parts.port or _PORTS[parts.scheme],
        tls=tls,
        headers=b"authorization: Bearer %b\r\n" % key.encode(),
        host=parts.netloc.encode(),
    )


class PeerWatch:
    """Watches one peer.

    Args:
        peer: The peer.
        engines: One for each model that it serves, by the model's name.
        client: The way to it, for questions.
        learn: Told what the peer says of each of its engines: what its model does, and its other names.
    """

    def __init__(self, peer: Peer, engines: Sequence[Engine], client: EngineClient, learn: Learn) -> None:
        self.checked = asyncio.Event()
        self.client = client
        self._peer = peer
        self._engines = {engine.model: engine for engine in engines}
        self._learn = learn
        for engine in engines:
            engine.together = list(engines)

    async def run(self) -> None:
        """Ask the peer for ever."""
        while True:
            await self.check()
            await asyncio.sleep(INTERVAL)

    async def check(self) -> None:
        """Ask the peer how its engines are."""
        try:
            status, body = await self.client.get(PATH, within=_TIMEOUT)
            if status == _OK:
                self._take(_decoder.decode(body))
            else:
                self._set_all("down", f"its gateway answers with {status}")
        except EngineTimeoutError:
            for engine in self._engines.values():
                engine.is_late(_TIMEOUT)
        except EngineError as error:
            self._set_all("down", reason_of(error))
        except msgspec.MsgspecError:
            self._set_all("down", "its gateway answers something else than a list of engines")
        self.checked.set()

    def _take(self, state: PeerState) -> None:
        for model, engine in self._engines.items():
            theirs = [each for each in state.engines if each.model == model]
            up = [each for each in theirs if each.state == "up"]
            if not theirs:
                engine.set_state("down", "the peer has no engine of this model")
                continue
            self._learn(theirs[0])
            engine.told(
                sum(each.outstanding for each in up),
                sum(each.load for each in up),
                [seed_of(f"{state.node}/{each.id}") for each in up],
            )
            engine.asleep = not up and any(each.state == "asleep" for each in theirs)
            if up or engine.asleep:
                engine.set_state("up")
            else:
                engine.set_state("down", theirs[0].state)

    def _set_all(self, state: State, reason: str) -> None:
        for engine in self._engines.values():
            engine.set_state(state, reason)
