"""Ask an engine over its unix socket."""

import io
import json
import wave
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from citadel_llm.config import Model

# Any text will do: what counts is that the model answers at all.
_SAMPLES_A_SECOND = 16_000
_PROMPT = "The capital of France is"


class EngineError(Exception):
    """The engine did not answer, or not as it should. The message is one line for people."""


class EngineClient:
    """A connection to one engine; an asynchronous context manager."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            base_url="http://engine", connector=aiohttp.UnixConnector(path=str(socket), force_close=True)
        )

    async def __aenter__(self) -> "EngineClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def answers(self, within: float) -> bool:
        """Whether the engine's HTTP server is there and says that it is well.

        Args:
            within: Seconds to wait.
        """
        try:
            await self._ask("GET", "/health", None, within)
        except EngineError:
            return False
        return True

    async def ask_for_one_token(self, model: Model, within: float) -> None:
        """Have the model compute one token, or what else it is there for: `/health` proves nothing of that.

        Raises:
            EngineError: It did not.
        """
        match model.task:
            case "embed":
                await self._ask("POST", "/v1/embeddings", {"model": model.name, "input": _PROMPT}, within)
                return
            case "score":
                pair = {"model": model.name, "queries": _PROMPT, "documents": [_PROMPT]}
                await self._ask("POST", "/score", pair, within)
                return
            case "transcribe":
                await self._ask("POST", "/v1/audio/transcriptions", _sound(model), within)
                return
            case "generate":
                pass
        body = {"model": model.name, "prompt": _PROMPT, "max_tokens": 1, "temperature": 0}
        answer = await self.post("/v1/completions", body, within)
        if not answer.get("choices"):
            raise EngineError("the engine answered without a choice")

    async def post(self, path: str, body: object, within: float) -> Any:
        """Ask something, and return what the answer's JSON says.

        Args:
            path: What is asked.
            body: The question.
            within: Seconds to wait.

        Raises:
            EngineError: There was no answer, or one that is no JSON.
        """
        try:
            return json.loads(await self._ask("POST", path, body, within))
        except ValueError:
            raise EngineError(f"{path} answered something that is no JSON") from None

    async def metrics(self, within: float) -> dict[str, float]:
        """The engine's metrics by name, each summed over its labels.

        Raises:
            EngineError: They could not be read.
        """
        text = (await self._ask("GET", "/metrics", None, within)).decode()
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    async def requests_in_flight(self, within: float) -> int:
        """How many requests the engine's API server has in hand.

        Raises:
            EngineError: It could not be asked.
        """
        return int(json.loads(await self._ask("GET", "/load", None, within))["server_load"])

    async def sleep(self, within: float) -> None:
        """Have vLLM put its weights into the host's memory and give up its KV cache (sleep level 1).

        Raises:
            EngineError: It did not.
        """
        await self._ask("POST", "/sleep?level=1", None, within)

    async def wake_up(self, within: float) -> None:
        """Have vLLM take its weights back.

        Raises:
            EngineError: It did not.
        """
        await self._ask("POST", "/wake_up", None, within)

    async def is_sleeping(self, within: float) -> bool:
        """Whether it sleeps.

        Raises:
            EngineError: It could not be asked.
        """
        return bool(json.loads(await self._ask("GET", "/is_sleeping", None, within))["is_sleeping"])

    async def _ask(self, method: str, path: str, body: object, within: float) -> bytes:
        limit = aiohttp.ClientTimeout(total=within)
        form = body if isinstance(body, aiohttp.FormData) else None
        content = None if form else body
        try:
            async with self._session.request(
                method, path, timeout=limit, json=content, data=form
            ) as response:
                answer = await response.read()
        except TimeoutError:
            raise EngineError(f"{path} did not answer within {within:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(f"{path}: {error}") from error
        if response.status != 200:  # noqa: PLR2004
            text = " ".join(answer.decode(errors="replace").split())
            raise EngineError(f"{path} answered {response.status}: {text[:300]}")
        return answer


def _sound(model: Model) -> aiohttp.FormData:
    """A form with a second of silence, as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(_SAMPLES_A_SECOND)
        sound.writeframes(bytes(2 * _SAMPLES_A_SECOND))
    form = aiohttp.FormData({"model": model.name})
    form.add_field("file", file.getvalue(), filename="silence.wav", content_type="audio/wav")
    return form
