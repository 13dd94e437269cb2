"""From an engine's answer to the client: chunk by chunk as it comes, and an end that nobody misreads."""

import asyncio
from collections.abc import AsyncIterator, Coroutine

from starlette.types import Message, Receive, Send

from citadel_llm.gateway.errors import ClientGoneError, EngineError, StoppingError, error_event

# An event that is longer than this is not waited for; only its failing half way would then be misread.
_HELD_LIMIT = 1 << 20


class WholeEvents:
    r"""Cuts a byte stream of server-sent events so that what is passed on always ends with a whole event.

    An error event can then follow at any time; after half an event it would be taken for the rest of it.
    vLLM writes whole events, so that nearly always a chunk passes as it is.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What may be passed on of all that came so far; empty when it is only part of an event."""
        if not self._held and chunk.endswith(b"\n\n"):
            return chunk
        data = self._held + chunk
        end = max(_after(data, b"\n\n"), _after(data, b"\r\n\r\n"))
        if not end and len(data) > _HELD_LIMIT:
            end = len(data)
        self._held = data[end:]
        return data[:end]

    def rest(self) -> bytes:
        """What was held back, for a stream that has ended well."""
        held, self._held = self._held, b""
        return held


def _after(data: bytes, mark: bytes) -> int:
    position = data.rfind(mark)
    return position + len(mark) if position >= 0 else 0


async def relay_events(chunks: AsyncIterator[bytes], send: Send) -> None:
    """Pass a stream of events on. If it cannot go on to its end, an event at the end says so.

    Raises:
        EngineError: The engine failed; the client was told.
    """
    events = WholeEvents()
    try:
        async for chunk in chunks:
            if whole := events.feed(chunk):
                await send(_body(whole, more=True))
    except EngineError as error:
        await send(_body(error_event(error), more=False))
        raise
    except asyncio.CancelledError:
        # The gateway stops; or the client has hung up, and this goes nowhere.
        await send(_body(error_event(StoppingError()), more=False))
        raise
    await send(_body(events.rest(), more=False))


async def relay_bytes(chunks: AsyncIterator[bytes], send: Send) -> None:
    """Pass any other body on. If the engine fails, the answer stays unfinished, which every client notices.

    Raises:
        EngineError: With the answer left unfinished.
    """
    async for chunk in chunks:
        await send(_body(chunk, more=True))
    await send(_body(b"", more=False))


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def while_connected(receive: Receive, work: Coroutine[None, None, None]) -> None:
    """Do the work until it is done or the client hangs up, whichever comes first.

    Args:
        receive: The request's, its body read to the end.
        work: Cancelled at once when the client hangs up.

    Raises:
        ClientGoneError: The client hung up.
    """
    task = asyncio.ensure_future(work)
    hang_up = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait((task, hang_up), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError("the client hung up before the end of the answer")
        task.result()
    finally:
        for each in (task, hang_up):
            each.cancel()
        await asyncio.gather(task, hang_up, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
