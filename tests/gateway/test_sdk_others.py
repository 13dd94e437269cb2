"""LangChain and curl against the gateway."""

import json
import shutil
import subprocess
from typing import Any

import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from .gateway_site import CHAT, EMBED, Site

# Takes seconds.
pytestmark = pytest.mark.lab


def test_langchain(site: Site) -> None:
    chat = ChatOpenAI(base_url=f"{site.url}/v1", api_key=lambda: site.key, model=CHAT, max_retries=0)
    answer = chat.invoke("Hello")
    assert (answer.content, answer.usage_metadata["total_tokens"]) == ("The end.", 8)  # type: ignore[index]
    # It asks for the usage of a stream, and adds up what it gets.
    whole: Any = None
    for chunk in chat.stream("Hello", stream_usage=True):
        whole = chunk if whole is None else whole + chunk
    assert (whole.content, whole.usage_metadata["total_tokens"]) == ("The end.", 8)
    made: Any = OpenAIEmbeddings  # Its types know its fields by other names.
    embeddings = made(
        base_url=f"{site.url}/v1",
        api_key=lambda: site.key,
        model=EMBED,
        max_retries=0,
        check_embedding_ctx_length=False,
        model_kwargs={"encoding_format": "float"},
    )
    assert embeddings.embed_documents(["hot", "cold"]) == [[0.5, -0.25, 0.0], [0.5, -0.25, 1.0]]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(site: Site) -> None:
    def curl(*arguments: str, body: object = None) -> str:
        data = ["--data-binary", "@-"] if body is not None else []
        command = ["curl", "--silent", "--show-error", "--max-time", "10", *arguments, *data]
        # The key in a file descriptor of its own would be the careful way; this one is of a test.
        header = ["--header", f"Authorization: Bearer {site.key}"]
        text = json.dumps(body) if body is not None else None
        run = subprocess.run([*command, *header], input=text, capture_output=True, text=True, check=True)
        return run.stdout

    ask = {"model": CHAT, "messages": [{"role": "user", "content": "Hello"}]}
    url = f"{site.url}/v1/chat/completions"
    assert json.loads(curl(url, body=ask))["choices"][0]["message"]["content"] == "The end."
    stream = curl("--no-buffer", url, body={**ask, "stream": True})
    assert stream.endswith("data: [DONE]\n\n")
    # A large body, for which curl first asks whether it may send it.
    large = {**ask, "x": "x" * 900_000}
    expect = curl("--header", "Expect: 100-continue", url, body=large)
    assert json.loads(expect)["object"] == "chat.completion"
    assert "HTTP/1.0 200 OK\r\n" not in curl("--http1.0", "--include", url, body=ask).split("\n", 1)[0]
    head = curl("--head", f"{site.url}/v1/models")
    assert head.startswith("HTTP/1.1 405")
