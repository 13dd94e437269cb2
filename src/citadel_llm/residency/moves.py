"""How a model is moved: its engine's unit is started and stopped, its engine put to sleep and woken."""

from collections.abc import Mapping
from pathlib import Path

from citadel_llm.config import Engine
from citadel_llm.residency.mover import MoveError
from citadel_llm.services.engine import accepted
from citadel_llm.services.engine.client import EngineClient, EngineError
from citadel_llm.services.systemd import JobFailedError, Systemd, SystemdError, UnitState

_FAILED = "failed: "
# Copying the weights between the GPU and the host's memory: a hundred GB at some GB/s.
_SLEEP_SECONDS = 120.0
_ASK_SECONDS = 10.0


def said_of_failure(state: UnitState) -> str:
    """Why a service has failed: by its own last word, or by systemd's if it had no time for one."""
    own = state.status_text
    return own.removeprefix(_FAILED) if own.startswith(_FAILED) else f"systemd: {state.result}"


class EngineMover:
    """Moves engines.

    Args:
        engines: Those on demand, by their models' names.
        systemd: Has their units.
        states: Where their services have their state folders.
    """

    def __init__(
        self, engines: Mapping[str, Engine], systemd: Systemd, states: Path = accepted.STATES
    ) -> None:
        self._engines = engines
        self._systemd = systemd
        self._states = states

    async def start(self, model: str) -> None:
        """Start the engine's unit, which is ready when a real token came.

        Raises:
            MoveError: It did not come up, with what its service says of that.
        """
        unit = self._engines[model].unit
        try:
            await self._systemd.start(unit)
        except JobFailedError as error:
            raise MoveError(await self._says(unit) or str(error)) from error
        except SystemdError as error:
            raise MoveError(str(error)) from error

    async def stop(self, model: str) -> None:
        """Stop the engine's unit; what it has in hand it finishes.

        Raises:
            MoveError: systemd did not.
        """
        try:
            await self._systemd.stop(self._engines[model].unit)
        except SystemdError as error:
            raise MoveError(str(error)) from error

    async def sleep(self, model: str) -> None:
        """Have vLLM move the weights to the host's memory (level 1) and give up the KV cache.

        Raises:
            MoveError: It did not, or has requests in hand.
        """
        try:
            async with EngineClient(self._engines[model].socket) as client:
                if in_flight := await client.requests_in_flight(_ASK_SECONDS):
                    raise MoveError(f"{in_flight} requests are in flight, of which no gateway knows")
                await client.sleep(_SLEEP_SECONDS)
        except EngineError as error:
            raise MoveError(str(error)) from error

    async def wake(self, model: str) -> None:
        """Have vLLM move the weights back; ready when it answers as it did when it was accepted.

        One that does not is stopped: its next start loads the weights anew.

        Raises:
            MoveError: It did not, or makes no sense.
        """
        engine = self._engines[model]
        try:
            async with EngineClient(engine.socket) as client:
                await client.wake_up(_SLEEP_SECONDS)
                await client.ask_for_one_token(engine.model, _SLEEP_SECONDS)
                verdict = await accepted.recall(client, engine.model, self._states / engine.id)
        except EngineError as error:
            raise MoveError(str(error)) from error
        if verdict is not None and not verdict.same:
            await self.stop(model)
            raise MoveError(f"after waking it does not answer as when it was accepted: {verdict.words}")

    async def is_asleep(self, model: str) -> bool:
        """Whether a running engine sleeps."""
        try:
            async with EngineClient(self._engines[model].socket) as client:
                return await client.is_sleeping(_ASK_SECONDS)
        except EngineError:
            return False

    async def _says(self, unit: str) -> str:
        try:
            (state,) = await self._systemd.states([unit])
        except SystemdError:
            return ""
        return said_of_failure(state)
