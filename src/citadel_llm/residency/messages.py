"""What the manager and those who speak to it say to each other: a line of JSON each, over a unix socket.

Both sides tell how things are, not what has happened, so whatever was lost on the way is made good by the
next line, and a side that starts anew knows all with the first one.

- A gateway says of each model on demand how much of it is in hand and who waits (`Report`). It is repeated
  every second, and comes at once when the manager has said something new.
- The manager says where each model is and whether it may be given requests (`Notice`).
- A command (`Command`) of the operator's, on a socket of its own, is answered by notices, too, and at last by
  one `Done`.

To close a model the manager says so in a notice and waits until each gateway has seen that notice and has
nothing of the model in hand any more. So nobody is asked anything for a request on its way, and none is cut.
"""

from typing import Literal, get_args

import msgspec

GATEWAYS = "manager/gateways.sock"
"""Where gateways speak to the manager, in the folder of the sockets (`run_dir`)."""
OPERATORS = "manager-control/control.sock"
"""Where `citadel models` does."""
STATE = "manager/state.json"
"""Where all may read how the models are."""

State = Literal["cold", "asleep", "waking", "awake", "leaving", "failed"]
"""Where a model is; failed: it did not come up, and is tried again when its time has come."""
STATES: tuple[State, ...] = get_args(State)
"""All of them."""


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a gateway has of a model.

    Attributes:
        in_hand: Requests that an engine of it is answering.
        waiting: Requests that wait for it to be awake.
        asked: Requests for it since the gateway has started.
    """

    in_hand: int = 0
    waiting: int = 0
    asked: int = 0


class Report(msgspec.Struct, frozen=True, tag="report"):
    """A gateway's word.

    Attributes:
        seen: The number of the last notice that it has obeyed.
        models: By name.
    """

    seen: int
    models: dict[str, Asked]


class Command(msgspec.Struct, frozen=True, tag="command"):
    """An operator's wish for one model: `unpin` lets it be moved again, `unload` stops it once."""

    action: Literal["load", "unload", "pin", "unpin"]
    model: str


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a model is.

    Attributes:
        state: Where.
        open: Whether it may be given requests.
        ready_in: Seconds until it can be awake, for who asks now, as far as can be told; absent when it is.
        reason: Why it did not come up.
    """

    state: State
    open: bool = False
    ready_in: float | None = None
    reason: str = ""


class Notice(msgspec.Struct, frozen=True, tag="notice"):
    """The manager's word.

    Attributes:
        number: Counts its notices.
        models: By name.
    """

    number: int
    models: dict[str, Told]


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A command is done; or, with an error, refused or failed."""

    error: str = ""


LONGEST_LINE = 1 << 20

_encoder = msgspec.json.Encoder()


def line(message: msgspec.Struct) -> bytes:
    """A message as it is sent."""
    return _encoder.encode(message) + b"\n"


read_report = msgspec.json.Decoder(Report).decode
read_command = msgspec.json.Decoder(Command).decode
read_notice = msgspec.json.Decoder(Notice).decode
read_answer = msgspec.json.Decoder(Notice | Done).decode
