"""Speech on a real engine (`task: transcribe`), by the official client."""

import io
import wave
from typing import Any

import openai
import pytest

from .node import Node, wait_until

pytestmark = pytest.mark.lab

# Short answers: the model never says of itself that it is done.
MODEL = {
    "name": "speech",
    "task": "transcribe",
    "engine": {"extra_args": ["--override-generation-config", '{"max_new_tokens": 8}']},
}


def sound(rate: int) -> tuple[str, bytes]:
    """Two seconds of it, as a file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes(bytes(range(256)) * (2 * 2 * rate // 256))
    return ("said.wav", file.getvalue())


def test_speech_is_written_down(node: Node) -> None:
    key = node.key("test")
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key=key, max_retries=0) as client:
        ask_for_texts(client)

    def used() -> dict[str, Any]:
        return dict(node.get("/v1/usage", key).json()["total"])

    wait_until(lambda: used()["requests"] == 5)
    # vLLM tells of sound how long it was, not the tokens.
    assert (used()["failed"], used()["tokens_in"], used()["estimated"]) == (1, 0, 0)


def ask_for_texts(client: Any) -> None:
    transcribe = client.audio.transcriptions.create
    # The second has to be resampled.
    for rate in (16_000, 44_100):
        answer = transcribe(model="speech", file=sound(rate), language="en")
        assert answer.usage.seconds == 2
    # Which language it is, the model finds out.
    assert transcribe(model="speech", file=sound(16_000)).usage.seconds == 2
    events = list(transcribe(model="speech", file=sound(16_000), language="en", stream=True))
    assert events
    with pytest.raises(openai.BadRequestError, match="valid audio"):
        transcribe(model="speech", file=("said.wav", b"nothing"), language="en")
