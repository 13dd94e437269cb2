"""What the manager keeps across its restarts: what each model's moves take, and which are pinned."""

from pathlib import Path

import msgspec

from citadel_llm.residency.holding import Costs


class Remembered(msgspec.Struct):
    """What is kept of one model.

    Attributes:
        start: Seconds from cold to awake.
        wake: Seconds from asleep to awake.
        leave: Seconds that stopping takes.
        pinned: Whether it must stay awake.
        last_used: When it was asked for last, in Unix time; 0: never.
    """

    start: float
    wake: float
    leave: float
    pinned: bool = False
    last_used: float = 0.0

    def costs(self) -> Costs:
        """As the policy reckons with them."""
        return Costs(start=self.start, wake=self.wake, leave=self.leave)


def read(file: Path) -> dict[str, Remembered]:
    """What was kept; nothing where there is nothing that can be read."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Remembered])
    except (OSError, msgspec.DecodeError):
        return {}


def write(file: Path, models: dict[str, Remembered]) -> None:
    """Keep it, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    draft = file.with_suffix(".new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(models)) + b"\n")
    draft.replace(file)
