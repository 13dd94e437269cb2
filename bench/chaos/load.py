"""A steady load by the official client, without its retries: what became of each request."""

import asyncio
import itertools
import time
from dataclasses import dataclass

import httpx2
import openai
from openai.types.chat import ChatCompletionMessageParam

from bench.chaos.host import ADDRESS, MODEL

AT_ONCE = 6
_PAUSE_SECONDS = 0.3
_TOKENS = 24
_TIMEOUT_SECONDS = 120
_THINGS = ("river", "lamp", "garden", "train", "letter", "bridge", "winter", "clock")


@dataclass
class Asked:
    """One request, as its client saw it.

    Attributes:
        stream: Whether a stream was asked for.
        sent: When it was sent (monotonic, s).
        id: The gateway's id of it; empty when the client never learnt it.
        begun: Whether the answer had begun: its status was there.
        first: When the first piece of the answer came; None before.
        ended: When it was over.
        failure: What went wrong; empty when it was answered to its end.
    """

    stream: bool
    sent: float
    id: str = ""
    begun: bool = False
    first: float | None = None
    ended: float = 0.0
    failure: str = ""


class Load:
    """Some clients that ask one thing after another, half of them for streams."""

    def __init__(self, key: str) -> None:
        self.asked: list[Asked] = []
        self._key = key
        self._number = itertools.count(int(time.time()))
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(AT_ONCE)]

    async def stop(self) -> None:
        """Ask nothing more, and wait for the answers."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    def cancel(self) -> None:
        """Hang up."""
        for task in self._tasks:
            task.cancel()

    async def _client(self, number: int) -> None:
        async with openai.AsyncOpenAI(
            base_url=f"http://{ADDRESS}:8000/v1",
            api_key=self._key,
            max_retries=0,
            timeout=httpx2.Timeout(_TIMEOUT_SECONDS, connect=10),
        ) as client:
            while not self._stopping.is_set():
                one = Asked(stream=number % 2 == 0, sent=time.monotonic())
                self.asked.append(one)
                try:
                    await (self._stream(client, one) if one.stream else self._answer(client, one))
                except (openai.OpenAIError, httpx2.HTTPError) as error:
                    one.failure = kind(error)
                    if isinstance(error, openai.APIStatusError):
                        one.id = error.request_id or ""
                one.ended = time.monotonic()
                await asyncio.sleep(_PAUSE_SECONDS)

    def _question(self) -> list[ChatCompletionMessageParam]:
        """One that nobody asked before, so that they spread over the engines."""
        number = next(self._number)
        return [{"role": "user", "content": f"{number}: tell me of a {_THINGS[number % len(_THINGS)]}."}]

    async def _answer(self, client: openai.AsyncOpenAI, one: Asked) -> None:
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=self._question(), max_tokens=_TOKENS
        )
        one.begun, one.first, one.id = True, time.monotonic(), raw.headers["x-request-id"]
        if not raw.parse().choices[0].finish_reason:
            one.failure = "unfinished"

    async def _stream(self, client: openai.AsyncOpenAI, one: Asked) -> None:
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=self._question(), max_tokens=_TOKENS, stream=True
        )
        one.begun, one.id = True, raw.headers["x-request-id"]
        finished = False
        async for chunk in raw.parse():
            one.first = one.first or time.monotonic()
            finished = finished or any(choice.finish_reason for choice in chunk.choices)
        if not finished:
            one.failure = "the stream ended in silence"


def kind(error: Exception) -> str:
    """What a failure is called in the table."""
    if isinstance(error, openai.APIStatusError):
        return f"{error.status_code} {error.code or 'without a code'}"
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        return "no answer in time"
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
        refused = isinstance(cause, httpx2.ConnectError)
        return "connection refused" if refused else "connection broken"
    return "an error event in the stream"
