"""The operator's side of the manager: how the models are, and commands with what comes of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from citadel_llm.residency.messages import (
    LONGEST_LINE,
    OPERATORS,
    STATE,
    Command,
    Done,
    Told,
    line,
    read_answer,
)


class UnreachableError(Exception):
    """The manager is not there. The message is one line for people."""


def read_account(run_dir: Path) -> dict[str, Any]:
    """How all models on demand are, as the manager wrote it last (docs/models-on-demand.md).

    Raises:
        UnreachableError: It has written nothing, or nothing that can be read.
    """
    file = run_dir / STATE
    try:
        account: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise UnreachableError(f"{file} cannot be read ({error}): citadel status manager") from error
    return account


async def command(run_dir: Path, wish: Command) -> AsyncIterator[Told | Done]:
    """Give the manager a command: how the model is each time that it changes, and at last the end.

    Raises:
        UnreachableError: The manager is not there, or went away meanwhile.
        PermissionError: This account may not give it commands.
    """
    path = run_dir / OPERATORS
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=LONGEST_LINE)
    except PermissionError:
        raise
    except OSError as error:
        raise UnreachableError(
            f"the manager does not answer at {path} ({error.strerror}): citadel status manager"
        ) from error
    try:
        writer.write(line(wish))
        while text := await reader.readline():
            answer = read_answer(text)
            if isinstance(answer, Done):
                yield answer
                return
            if wish.model in answer.models:
                yield answer.models[wish.model]
        raise UnreachableError("the manager went away before it was done: citadel logs manager")
    finally:
        writer.close()
