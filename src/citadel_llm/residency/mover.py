"""What moves models; `moves.EngineMover` moves those of a host."""

from typing import Protocol


class MoveError(Exception):
    """A model did not go where it was to go. The message is one line for people."""


class Mover(Protocol):
    """Moves the models of this host; each returns when the model is there, or raises MoveError."""

    async def start(self, model: str) -> None:
        """From cold to awake."""

    async def stop(self, model: str) -> None:
        """To cold."""

    async def sleep(self, model: str) -> None:
        """From awake to asleep."""

    async def wake(self, model: str) -> None:
        """From asleep to awake."""
